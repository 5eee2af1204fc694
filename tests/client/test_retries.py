"""The retries of a request: their pauses, and what is logged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from federated_client import StorageUnreachable, limits
from federated_client.command_line import main
from federated_client.storage import retry


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of retries, which take no time."""
    found: list[float] = []
    monkeypatch.setattr(limits, "FIRST_PAUSE_SECONDS", 0.5)
    monkeypatch.setattr("time.sleep", found.append)
    return found


def fail(retry_after: float = 0.0) -> None:
    error = StorageUnreachable("storage answers 503")
    error.retry_after = retry_after
    raise error


def test_pauses_are_random_below_a_bound_that_doubles(pauses: list[float]) -> None:
    """The bound grows from half a second to eight seconds, and no two clients return together."""
    runs = []
    for _ in range(60):
        pauses.clear()
        with pytest.raises(StorageUnreachable):
            retry(fail, 8)
        runs.append(list(pauses))
    bounds = np.array([0.5, 1, 2, 4, 8, 8, 8])
    assert (np.max(runs, axis=0) <= bounds).all()
    assert (np.max(runs, axis=0) > bounds / 2).all()
    assert (np.min(runs, axis=0) < bounds / 2).all()
    assert len({first for first, *_ in runs}) == len(runs)


def test_a_server_that_names_a_pause_gets_it(pauses: list[float]) -> None:
    """An attempt is not made before the time that the server asked for."""
    with pytest.raises(StorageUnreachable):
        retry(lambda: fail(20.0), 3)
    assert pauses == [20.0, 20.0]


def test_a_command_says_that_it_tries_again(
    pauses: list[float],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """`enroll` at a URL that nobody serves logs each failure before it ends with an error."""
    monkeypatch.setenv("FEDERATED_CLIENT_HOME", str(tmp_path))
    assert main(["enroll", "http://127.0.0.1:1", "--token", "token"]) == 1
    shown = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(shown) == len(pauses) == limits.ATTEMPTS - 1
    assert "http://127.0.0.1:1/v1/enroll cannot be reached" in shown[0]
    assert shown[0].endswith("; attempt 2 of 6 follows")
