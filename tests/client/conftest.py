"""A federation as its clients see it, by credentials and by presigned posts."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from federated_client import Bucket, Posts
from local.cloud import Cloud
from tests.client.posting import parse, refusals


@pytest.fixture
def issue(cloud: Cloud) -> Iterator[Callable[..., list[Any]]]:
    """Signs posts with `manage.py issue_upload`; what is posted by them is held to their policy."""
    from django.core.management import call_command

    from tests.factories import client_id

    with checking_posts(cloud) as url:

        def signed(model: Any, client: int, *options: Any) -> list[Any]:
            out = io.StringIO()
            arguments = [str(model.pk), "--client", str(client_id(client)), *map(str, options)]
            call_command("issue_upload", *arguments, stdout=out)
            return [post | {"url": url} for post in json.loads(out.getvalue())]

        yield signed


@contextmanager
def checking_posts(cloud: Cloud) -> Iterator[str]:
    """moto's bucket behind what S3 does first: to refuse a form that its policy does not allow."""
    moto = cloud.client("s3").generate_presigned_post(cloud.bucket, "any")["url"]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            content_type = self.headers["Content-Type"]
            refused = next(refusals(*parse(content_type, body), cloud.bucket), None)
            if refused:
                code, message = refused
                told = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
                answer(self, 400 if code == "EntityTooLarge" else 403, told.encode())
                return
            stored = requests.post(
                moto, data=body, headers={"Content-Type": content_type}, timeout=10
            )
            answer(self, stored.status_code, stored.content)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with serving(Handler) as url:
        yield url


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that answers every post alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self, status, body)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with serving(Handler) as url:
        yield url


def answer(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def read_url(cloud: Cloud) -> Iterator[str]:
    """What stands before the bucket for clients without credentials, as a CDN does: it reads, and
    nothing else."""
    s3 = cloud.client("s3")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            condition = self.headers.get("If-Match")
            extra = {"IfMatch": condition} if condition else {}
            try:
                body = s3.get_object(Bucket=cloud.bucket, Key=self.path[1:], **extra)["Body"].read()
                status = 200
            except s3.exceptions.ClientError as error:
                status, body = error.response["ResponseMetadata"]["HTTPStatusCode"], b""
            answer(self, status, body)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with serving(Handler) as url:
        yield url


@pytest.fixture(params=["credentials", "presigned"])
def storage_of(
    request: pytest.FixtureRequest, cloud: Cloud, read_url: str, issue: Callable[..., list[Any]]
) -> Callable[[Any, int], Bucket | Posts]:
    """A client's storage, of either kind."""

    def create(model: Any, client: int) -> Bucket | Posts:
        if request.param == "credentials":
            return Bucket(cloud.bucket, cloud.client("s3"))
        posts = issue(model, client, "--count", 2, "--scores")
        return Posts(posts + issue(model, client, "--format", "npz"), read_url)

    return create


@pytest.fixture
def deliver(cloud: Cloud) -> Callable[[], int]:
    """Give the function what waits in its queue; how many messages there were."""
    from tests.client.delivery import deliver

    return lambda: deliver(cloud)
