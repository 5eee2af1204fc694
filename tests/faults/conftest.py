"""Fixtures of the fault tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from moto.s3.exceptions import NoSuchUpload
from moto.s3.models import S3Backend

from tests.faults.processes import WarmFunction, warm_function
from tests.faults.proxy import Proxy, s3_proxy


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmFunction]:
    """Yield a warm function, which forks a process for each invocation."""
    with warm_function(tmp_path_factory.mktemp("function")) as function:
        yield function


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept parts of any size in S3, so that a small model has several."""
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """Count the parts that moto stores, of whichever process, by upload and number.

    A part of an upload that is gone is refused as by S3; moto itself answers with an internal error.
    """
    counts: Counter[tuple[str, int]] = Counter()
    upload_part: Any = S3Backend.upload_part

    def counted(self: Any, bucket: str, upload: str, part: int, *value: Any, **options: Any) -> Any:
        if upload not in self.get_bucket(bucket).multiparts:
            raise NoSuchUpload(upload)
        stored = upload_part(self, bucket, upload, part, *value, **options)
        counts[upload, part] += 1
        return stored

    monkeypatch.setattr(S3Backend, "upload_part", counted)
    return counts


@pytest.fixture(scope="module")
def own_s3() -> Iterator[Proxy]:
    """Yield a proxy of S3 for a function that is started behind it."""
    with s3_proxy() as proxy:
        yield proxy


@pytest.fixture
def s3(own_s3: Proxy) -> Iterator[Proxy]:
    """Yield the proxy without a fault; the test may set one."""
    own_s3.requests.clear()
    yield own_s3
    own_s3.fault = lambda request: None
