"""A federation as its clients see it, with credentials and with presigned posts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests

from federated_client import Bucket, Posts
from federated_client import limits as client_limits
from local.cloud import Cloud
from tests.client.api_runtime import running_api
from tests.client.posting import parse, refusals
from tests.client.servers import answer, serving


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow each other at once."""
    monkeypatch.setattr(client_limits, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def issue(cloud: Cloud) -> Iterator[Callable[..., list[Any]]]:
    """Signs posts with `manage.py issue_upload`; a form that is sent by one must satisfy its policy."""
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
    """Serve moto's bucket, with what S3 does and moto does not: refuse a form that violates its policy."""
    moto = cloud.client("s3").generate_presigned_post(cloud.bucket, "any")["url"]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            content_type = self.headers["Content-Type"]
            refused = next(refusals(*parse(content_type, body), cloud.bucket), None)
            if refused:
                code, message = refused
                document = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
                answer(self, 400 if code == "EntityTooLarge" else 403, document.encode())
                return
            stored = requests.post(
                moto, data=body, headers={"Content-Type": content_type}, timeout=10
            )
            answer(self, stored.status_code, stored.content)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with serving(Handler) as url:
        yield url


@pytest.fixture
def read_url(cloud: Cloud) -> Iterator[str]:
    """The URL of what stands in front of the bucket for clients without credentials, as a CDN does."""
    s3 = cloud.client("s3")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = {"IfMatch": self.headers["If-Match"], "Range": self.headers["Range"]}
            extra = {name: value for name, value in asked.items() if value}
            headers = {}
            try:
                found = s3.get_object(Bucket=cloud.bucket, Key=self.path[1:], **extra)
                status, body = found["ResponseMetadata"]["HTTPStatusCode"], found["Body"].read()
                headers["ETag"] = found["ETag"]
                if "ContentRange" in found:
                    headers["Content-Range"] = found["ContentRange"]
            except s3.exceptions.ClientError as error:
                status, body = error.response["ResponseMetadata"]["HTTPStatusCode"], b""
            answer(self, status, body, headers)

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
        return Posts(issue(model, client, "--scores"), read_url)

    return create


@pytest.fixture
def bucket(cloud: Cloud) -> Bucket:
    """The federation's bucket, with credentials."""
    return Bucket(cloud.bucket, cloud.client("s3"))


@pytest.fixture
def deliver(cloud: Cloud) -> Callable[[], int]:
    """Hand the messages in the queue to the function; return how many there were."""
    from tests.client.delivery import deliver

    return lambda: deliver(cloud)


@pytest.fixture
def url(
    cloud: Cloud, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The API's URL; the profiles of its clients are the test's own."""
    monkeypatch.setenv("FEDERATED_CLIENT_HOME", str(tmp_path / "profiles"))
    with running_api(cloud, tmp_path) as url:
        yield url
