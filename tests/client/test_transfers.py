"""Transfers are verified: lengths, checksums, statuses; and files appear when they are complete."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federated_client import (
    BadDownload,
    Bucket,
    Client,
    ClientError,
    DownloadRefused,
    Misconfigured,
    NotThere,
    Posts,
    StorageUnreachable,
    UploadRefused,
)
from federated_client.weights import encode
from local.cloud import Cloud
from tests.client.members import federation, member, through
from tests.client.servers import answer, answering, handling
from tests.factories import SMALL, client_id
from tests.faults.proxy import at_first, reset, s3_proxy, truncate

WEIGHTS = encode({"w": np.arange(100_000.0)}).getvalue()
KEY = "aggregates/1/round.safetensors"
POINTER = json.dumps(
    {"aggregate_id": 1, "number": 1, "key": KEY, "etag": "e", "published_on": "2026"}
).encode()


def cut(body: bytes, *, announced: int | None = None, chunked: bool = False) -> Any:
    """Answer with the first fifth of a body, and close the connection."""

    def handle(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith("latest.json"):
            return answer(handler, 200, POINTER)
        part = body[: len(body) // 5]
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        else:
            handler.send_header("Content-Length", str(announced or len(body)))
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        handler.close_connection = True
        return None

    return handle


def me(url: str) -> Client:
    return Client(Posts([], url), model_id=1, client_id=client_id(1))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_download_that_breaks_off_is_an_error(tmp_path: Path, chunked: bool) -> None:
    """A connection that is cut never gives a shorter file; nothing appears at the path."""
    with handling(cut(WEIGHTS, chunked=chunked)) as url:
        with pytest.raises(StorageUnreachable):
            me(url).fetch_file(tmp_path / "base")
        with pytest.raises(StorageUnreachable):
            me(url).fetch()
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_header_announces_more_is_not_weights(tmp_path: Path) -> None:
    """A complete answer with an incomplete file is found out by the file's own header."""
    with handling(cut(WEIGHTS, announced=len(WEIGHTS) // 5)) as url:
        with pytest.raises(BadDownload, match="cannot be read"):
            me(url).fetch()
        with pytest.raises(BadDownload, match="cannot be read"):
            me(url).fetch_file(tmp_path / "base")


def test_the_file_before_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    """A failed download leaves the file of the round before as it was."""
    (tmp_path / "base.safetensors").write_bytes(b"of the round before")
    with handling(cut(WEIGHTS)) as url, pytest.raises(StorageUnreachable):
        me(url).fetch_file(tmp_path / "base")
    assert (tmp_path / "base.safetensors").read_bytes() == b"of the round before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_download_continues_where_it_broke(tmp_path: Path) -> None:
    """Each answer is cut after a fifth of the weights; the next request asks for the rest, and no more."""
    piece, starts = len(WEIGHTS) // 5, []

    def serve(handler: BaseHTTPRequestHandler) -> None:
        assert handler.headers["If-Match"] == '"e"'
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        starts.append(start)
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(WEIGHTS) - start))
        handler.send_header("Content-Range", f"bytes {start}-{len(WEIGHTS) - 1}/{len(WEIGHTS)}")
        handler.end_headers()
        handler.wfile.write(WEIGHTS[start : start + piece])
        handler.close_connection = True

    with handling(serve) as url:
        Posts([], url).download(KEY, tmp_path / "base", etag="e")
        assert Posts([], url).get(KEY, etag="e") == WEIGHTS
    assert (tmp_path / "base").read_bytes() == WEIGHTS
    assert starts == 2 * list(range(0, len(WEIGHTS), piece))


def test_a_download_that_stands_still_is_given_up() -> None:
    """A server that sends no further byte is asked six times, not without end."""
    starts = []

    def serve(handler: BaseHTTPRequestHandler) -> None:
        starts.append(handler.headers.get("Range", ""))
        handler.send_response(206 if starts[-1] else 200)
        handler.send_header("Content-Length", "10")
        handler.send_header("Content-Range", "bytes 5-14/15")
        handler.end_headers()
        handler.wfile.write(b"" if starts[-1] else b"12345")
        handler.close_connection = True

    with handling(serve) as url, pytest.raises(StorageUnreachable, match="broke off"):
        Posts([], url).get(KEY, etag="e")
    assert starts == ["", *["bytes=5-"] * 6][: len(starts)]
    assert len(starts) <= 7


@pytest.mark.usefixtures("database", "cloud")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("fault", [truncate, reset])
def test_a_transfer_that_fails_once_is_repeated(cloud: Cloud, tmp_path: Path, fault: Any) -> None:
    """With credentials, a body that breaks off or a reset connection costs a second request."""
    model = federation(1)
    with s3_proxy() as proxy:
        proxy.fault = at_first(1, fault)
        client = member(through(proxy), model)
        np.testing.assert_array_equal(client.fetch()["w"], SMALL["w"])
        path = client.fetch_file(tmp_path / "base")
        client.upload_file(path, num_examples=1)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    import os

    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def of(name: str, body: bytes) -> dict[str, str]:
    digest = {
        "crc32": zlib.crc32(body).to_bytes(4, "big"),
        "sha1": hashlib.sha1(body).digest(),
        "sha256": hashlib.sha256(body).digest(),
    }[name]
    return {f"x-amz-checksum-{name}": base64.b64encode(digest).decode()}


@pytest.mark.parametrize("name", ["crc32", "sha1", "sha256"])
def test_a_checksum_is_verified(name: str) -> None:
    """A body that does not have the checksum that storage states is not used."""
    with answering(200, b"right", of(name, b"right")) as url:
        assert Posts([], url).get("key") == b"right"
    with (
        answering(200, b"wrong", of(name, b"right")) as url,
        pytest.raises(StorageUnreachable, match=f"its {name} checksum differs"),
    ):
        Posts([], url).get("key")


def test_a_checksum_of_parts_is_not_one_of_the_body() -> None:
    """The checksum of an object that was uploaded in parts is ignored."""
    with answering(200, b"body", {"x-amz-checksum-crc32": "AAAAAA==-3"}) as url:
        assert Posts([], url).get("key") == b"body"


@pytest.mark.parametrize("etag", ['"other"', 'W/"other"'])
def test_a_server_that_ignores_conditions_is_found_out(etag: str) -> None:
    """An answer with another ETag is not the object that was announced."""
    with (
        answering(200, b"old", {"ETag": etag}) as url,
        pytest.raises(NotThere, match="no longer the object"),
    ):
        Posts([], url).get("key", etag="announced")


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (202, {}, DownloadRefused),
        (203, {}, DownloadRefused),
        (206, {"Content-Range": "bytes 0-3/10"}, DownloadRefused),
        (200, {"Content-Encoding": "gzip"}, DownloadRefused),
        (304, {}, Misconfigured),
    ],
)
def test_only_a_whole_answer_counts(
    status: int, headers: Mapping[str, str], error: type[ClientError]
) -> None:
    """A status that is not 200, or an encoding that was not asked for, is not a download."""
    with answering(status, b"body", headers) as url, pytest.raises(error):
        Posts([], url).get("key")


def posts(url: str, **fields: str) -> Posts:
    return Posts([{"url": url, "fields": {"key": "updates/1/${filename}", **fields}}], url)


@pytest.mark.parametrize("status", [200, 202, 302, 303, 307])
def test_an_upload_is_stored_only_if_s3_says_so(status: int) -> None:
    """The page of a hotel's network, or a redirect, is not a stored update."""
    with (
        handling(
            lambda handler: answer(handler, 200, b"<html>"),
            lambda handler: answer(handler, status, b"<html>", {"Location": "/"}),
        ) as url,
        pytest.raises((UploadRefused, Misconfigured)),
    ):
        posts(url).put("updates/1/x", io.BytesIO(b"x"), {}, None)


@pytest.mark.parametrize(("status", "fields"), [(204, {}), (201, {"success_action_status": "201"})])
def test_a_status_of_success_is_one(status: int, fields: Any) -> None:
    """S3 answers 204, or what the form asks for."""
    with answering(status) as url:
        assert posts(url, **fields).put("updates/1/x", io.BytesIO(b"x"), {}, None) == "updates/1/x"


@pytest.mark.parametrize(
    ("headers", "is_error"),
    [
        ({"ETag": f'"{hashlib.md5(b"x").hexdigest()}"'}, False),
        ({"ETag": f'"{hashlib.md5(b"y").hexdigest()}"'}, True),
        ({"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms"}, False),
        ({"ETag": '"not an MD5"'}, False),
    ],
)
def test_the_etag_of_an_upload_is_compared(headers: Mapping[str, str], is_error: bool) -> None:
    """What S3 stored has the MD5 of what was sent, unless it encrypts with a key of its own."""
    with answering(204, headers=headers) as url:
        if not is_error:
            assert posts(url).put("updates/1/x", io.BytesIO(b"x"), {}, None)
            return
        with pytest.raises(StorageUnreachable, match="its ETag differs"):
            posts(url).put("updates/1/x", io.BytesIO(b"x"), {}, None)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_range_is_read_from_any_server(ranges: bool) -> None:
    """Servers without ranges send the whole object, of which the wanted part is used."""

    def serve(handler: BaseHTTPRequestHandler) -> None:
        first, last = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
        if not ranges:
            return answer(handler, 200, WEIGHTS)
        part = WEIGHTS[first : last + 1]
        shown = f"bytes {first}-{first + len(part) - 1}/{len(WEIGHTS)}"
        return answer(handler, 206, part, {"Content-Range": shown})

    with handling(serve) as url:
        for start, length in ((0, 100), (500, 10), (len(WEIGHTS) - 5, 10)):
            found, size = Posts([], url).get_range("key", start, length, etag="")
            assert (found, size) == (WEIGHTS[start : start + length], len(WEIGHTS))


def test_an_error_of_the_local_file_is_not_one_of_the_network(tmp_path: Path) -> None:
    """A folder that does not exist is an error that names the caller's file; nothing is requested."""
    requests: list[str] = []

    def serve(handler: BaseHTTPRequestHandler) -> None:
        requests.append(handler.path)
        answer(handler, 200, WEIGHTS)

    path = tmp_path / "missing" / "file"
    with handling(serve) as url, pytest.raises(FileNotFoundError) as raised:
        Posts([], url).download("key", path)
    assert raised.value.filename == str(path)
    assert requests == []


def test_an_upload_that_broke_off_is_sent_again_from_its_beginning() -> None:
    """After a failure half-way, the whole body is stored."""
    stored: list[bytes] = []

    class Breaking:
        """boto3's client, whose first upload reads a part of the body and loses its connection."""

        def upload_fileobj(self, file: Any, *args: Any, **kwargs: Any) -> None:
            from botocore.exceptions import ConnectionClosedError

            if not stored:
                stored.append(file.read(10))
                raise ConnectionClosedError(endpoint_url="http://127.0.0.1")
            stored.append(file.read())

    Bucket("federation", Breaking()).put("updates/x", io.BytesIO(b"0123456789abcdef"), {}, None)
    assert stored == [b"0123456789", b"0123456789abcdef"]
