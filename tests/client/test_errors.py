"""Each row of the table of errors in docs/clients.md: its class, and whether the request is retried."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.config import Config

import federated_client
from federated_client import Bucket, Client, Posts, limits
from tests.client.servers import Handle, answer, handling, securely
from tests.factories import client_id

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
ROWS = re.findall(r"^\| ([^|]+) \| `(\w+)` \| (no|yes|with the next post) \|$", PAGE, re.MULTILINE)

KEY = "aggregates/1/latest.json"
WEIGHTS = {"w": np.zeros(2)}


@dataclass
class Server:
    """A server that counts its requests."""

    url: str = ""
    requests: list[str] = field(default_factory=list)

    def bucket(self, name: str = "federation", **config: Any) -> Bucket:
        settings = Config(
            retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=2, **config
        )
        s3 = boto3.client("s3", endpoint_url=self.url, config=settings)
        return Bucket(name, s3)

    def posts(self, count: int = 1) -> Posts:
        key = f"updates/1/{client_id(1)}/${{filename}}"
        return Posts([{"url": self.url, "fields": {"key": key}} for _ in range(count)], self.url)


@contextmanager
def counting(handle: Handle) -> Iterator[Server]:
    server = Server()

    def counted(handler: BaseHTTPRequestHandler) -> None:
        server.requests.append(handler.path)
        handle(handler)

    with handling(counted, counted) as server.url:
        yield server


def s3_error(status: int, code: str, message: str = "") -> Handle:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return lambda handler: answer(handler, status, body, {"Content-Type": "application/xml"})


def member(storage: Any) -> Client:
    return Client(storage, model_id=1, client_id=client_id(1))


def cut(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"a")


def dropped(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


def without_length(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n{}")


Provoke = Callable[[Server], Any]


def read(server: Server) -> Any:
    """Read with credentials and without; both must raise an error of the same class."""
    with pytest.raises(federated_client.ClientError) as caught:
        server.bucket().get(KEY)
    with pytest.raises(type(caught.value)):
        server.posts().get(KEY)
    raise caught.value


def fetch_by(storage: Callable[[Server], Any]) -> Provoke:
    return lambda server: storage(server).get(KEY)


def upload_by(storage: Callable[[Server], Any]) -> Provoke:
    def upload(server: Server) -> None:
        member(storage(server)).upload(WEIGHTS, num_examples=1)

    return upload


not_found = s3_error(404, "NoSuchKey")


def only_posts(handle: Handle) -> Handle:
    """There is no pointer; uploads are answered by `handle`."""
    return lambda handler: (not_found if handler.command == "GET" else handle)(handler)


def without_boto3(server: Server) -> None:
    sys.modules["boto3"] = None  # type: ignore[assignment]
    Bucket("federation")


def unknown_host(server: Server) -> Any:
    server.url = "http://no-such-host.invalid"
    return read(server)


def untrusted(server: Server) -> Any:
    with securely(not_found) as server.url:
        return read(server)


def without_credentials(server: Server) -> None:
    Bucket("federation").get(KEY)


def unknown_profile(server: Server) -> None:
    Bucket("federation")


def rejected(server: Server) -> None:
    me = member(server.posts())
    me._sent_key = "updates/1/x"
    me.wait(timeout=5)


def status_rejected(handler: BaseHTTPRequestHandler) -> None:
    update = {
        "key": "updates/1/x",
        "state": "rejected",
        "reason": "nan",
        "aggregate": None,
        "at": "",
    }
    document = {"format": 1, "updates": [update], "ready": 0, "requirement": "", "needed": 1}
    answer(handler, 200, json.dumps(document).encode())


#: For each cause: what the server answers, and what the client does.
CAUSES: dict[str, tuple[Handle, Provoke]] = {
    "The bucket does not exist": (s3_error(404, "NoSuchBucket"), fetch_by(Server.bucket)),
    "The bucket's name is not one, such as `s3://name`": (
        not_found,
        lambda server: server.bucket("s3://name"),
    ),
    "The object does not exist": (not_found, read),
    "The object was replaced after it was announced": (
        s3_error(412, "PreconditionFailed"),
        lambda server: server.posts().get(KEY, etag="e"),
    ),
    "Access is denied": (s3_error(403, "AccessDenied"), read),
    "No presigned post allows the key": (
        not_found,
        lambda server: member(Posts([], server.url)).upload(WEIGHTS, num_examples=1),
    ),
    "A presigned post has expired": (
        only_posts(s3_error(403, "AccessDenied", "Invalid according to Policy: Policy expired.")),
        upload_by(lambda server: server.posts(3)),
    ),
    "The session token has expired": (
        s3_error(400, "ExpiredToken"),
        lambda server: member(server.bucket()).wait(timeout=60),
    ),
    "The access key is unknown, or the secret key is wrong": (
        s3_error(403, "SignatureDoesNotMatch"),
        fetch_by(Server.bucket),
    ),
    "boto3 finds no credentials": (not_found, without_credentials),
    "The clock of this machine is wrong": (
        s3_error(403, "RequestTimeTooSkewed"),
        fetch_by(Server.bucket),
    ),
    "The server's certificate is not trusted": (not_found, untrusted),
    "The bucket is in another Region": (
        s3_error(301, "PermanentRedirect"),
        fetch_by(Server.bucket),
    ),
    "boto3 cannot use its settings, such as an unknown profile": (not_found, unknown_profile),
    "boto3 is not installed": (not_found, without_boto3),
    "The host's name cannot be resolved": (not_found, unknown_host),
    "Nobody answers, or the connection is lost": (dropped, read),
    "A transfer breaks off, or its checksum differs": (cut, read),
    "Storage answers 5xx, 429 or SlowDown": (s3_error(503, "SlowDown"), read),
    "The update is larger than the post allows": (
        only_posts(s3_error(400, "EntityTooLarge")),
        upload_by(Server.posts),
    ),
    "Storage refuses the upload for another reason": (
        only_posts(s3_error(400, "InvalidArgument")),
        upload_by(Server.posts),
    ),
    "Storage refuses the download for another reason": (s3_error(400, "InvalidRequest"), read),
    "The server does not state the length": (without_length, fetch_by(Server.posts)),
    "What was downloaded is not a pointer, or not weights": (
        lambda handler: answer(handler, 200, b"<html>"),
        lambda server: member(server.posts()).latest(),
    ),
    "The aggregator would reject the update": (
        not_found,
        lambda server: member(server.posts()).upload({"w": np.array([np.nan])}, num_examples=1),
    ),
    "The aggregator would reject the score": (
        not_found,
        lambda server: member(server.posts()).report_score(
            num_examples=1,
            aggregate=federated_client.Latest(
                aggregate_id=1, number=1, key="", etag="", published_on=""
            ),
            loss=float("inf"),
        ),
    ),
    "An id or a URL cannot be one": (not_found, lambda server: Posts([], "file:///etc")),
    "No newer aggregate came in time": (
        not_found,
        lambda server: member(server.posts()).wait(timeout=0),
    ),
    "The aggregator rejected the update": (status_rejected, rejected),
}


@pytest.fixture(autouse=True)
def _environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    cause = (
        request.node.callspec.params.get("cause", "") if hasattr(request.node, "callspec") else ""
    )
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # It caches credentials.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setitem(sys.modules, "boto3", boto3)  # Restored after a test without it.
    if "no credentials" in cause:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    if "unknown profile" in cause:
        monkeypatch.setenv("AWS_PROFILE", "no-such-profile")


@pytest.mark.parametrize(("cause", "name", "retried"), ROWS, ids=[row[0] for row in ROWS])
def test_a_cause_has_its_class(
    cause: str, name: str, retried: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has exactly the class of the table, and the request is made as often as it says."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    handle, provoke = CAUSES[cause]
    with counting(handle) as server:
        with pytest.raises(federated_client.ClientError) as caught:
            provoke(server)
        assert type(caught.value).__name__ == name
        counts = {path: server.requests.count(path) for path in server.requests}
        most = {"no": 1, "yes": limits.ATTEMPTS, "with the next post": 3}[retried]
        assert max(counts.values(), default=most) == most
    assert bool(pauses) == (retried == "yes")


def test_every_row_has_a_test() -> None:
    """The table and the tests name the same causes, and every class of the package has a row."""
    assert {cause for cause, _, _ in ROWS} == CAUSES.keys()
    classes = {
        name
        for name in federated_client.__all__
        if isinstance(getattr(federated_client, name), type)
        and issubclass(getattr(federated_client, name), federated_client.ClientError)
    }
    assert {name for _, name, _ in ROWS} == classes - {"ClientError"}
