"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
