"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.processes import WarmFunction, warm_function
from tests.faults.proxy import Proxy, s3_proxy


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmFunction]:
    """The function, warm; it forks a process for each invocation."""
    with warm_function(tmp_path_factory.mktemp("function")) as function:
        yield function


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 takes parts of any size, so that a small model has several."""
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)


@pytest.fixture(scope="module")
def own_s3() -> Iterator[Proxy]:
    """S3 as a function sees it that is started behind a proxy."""
    with s3_proxy() as proxy:
        yield proxy


@pytest.fixture
def s3(own_s3: Proxy) -> Iterator[Proxy]:
    """S3 on a good day, until the test makes it a bad one."""
    own_s3.requests.clear()
    yield own_s3
    own_s3.fault = lambda request: None
