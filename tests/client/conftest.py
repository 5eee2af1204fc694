"""A federation as its clients see it, by credentials and by presigned posts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from client import Bucket, Posts
from local.cloud import Cloud

#: What a presigned post must allow for an update to say what it is.
METADATA = [
    ["starts-with", "$x-amz-meta-num-examples", ""],
    ["starts-with", "$x-amz-meta-base-aggregate", ""],
]


def presigned_post(cloud: Cloud, key: str, *, seconds: int = 300, at_most: int = 1 << 20) -> Any:
    """A post as the operator issues it."""
    return cloud.client("s3").generate_presigned_post(
        cloud.bucket,
        key,
        Conditions=[["content-length-range", 1, at_most], *METADATA],
        ExpiresIn=seconds,
    )


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
    request: pytest.FixtureRequest, cloud: Cloud, read_url: str
) -> Callable[[Any, int], Bucket | Posts]:
    """A client's storage, of either kind."""

    from tests.factories import client_id  # Django is up only now.

    def create(model: Any, client: int) -> Bucket | Posts:
        if request.param == "credentials":
            return Bucket(cloud.bucket, cloud.client("s3"))
        own = f"{model.pk}/{client_id(client)}/${{filename}}"
        posts = [presigned_post(cloud, f"{kind}/{own}") for kind in ("updates", "scores")]
        return Posts(posts, read_url)

    return create


@pytest.fixture
def deliver(cloud: Cloud) -> Callable[[], int]:
    """Give the function what waits in its queue; how many messages there were."""
    from tests.client.delivery import deliver

    return lambda: deliver(cloud)
