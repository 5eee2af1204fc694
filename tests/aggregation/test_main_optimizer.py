"""``python -m aggregation`` with a server optimizer: the state goes from file to file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aggregation.__main__ import main
from tests.aggregation.optimizers.oracles import trajectory

ADAM = ("--optimizer", "fedadam", "--optimizer-arg", "eta=0.5")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with a parent of zeros, and updates of ones and of twos."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("parent", 0.0), ("one", 1.0), ("two", 2.0)):
        safetensors.numpy.save_file({"w": np.full(3, value)}, f"{name}.safetensors")
    return tmp_path


def run(*arguments: str) -> int:
    return main(["--rule", "weighted_mean", *arguments])


def values(path: str) -> Any:
    return safetensors.numpy.load_file(path)["w"]


def test_the_next_round_continues_from_the_state(folder: Path) -> None:
    """Two rounds give the steps of the paper's algorithm; the header of the state names the optimizer."""
    first = ("--out", "a.safetensors", "--optimizer-state-out", "a.state")
    assert run(*ADAM, "--parent", "parent.safetensors", *first, "one.safetensors") == 0
    second = ("--out", "b.npz", "--optimizer-state-out", "b.state")
    state = ("--optimizer-state", "a.state")
    assert run(*ADAM, "--parent", "a.safetensors", *state, *second, "two.safetensors") == 0
    expected = trajectory("fedadam", np.zeros(3), [np.ones(3), np.full(3, 2.0)], {"eta": 0.5})
    np.testing.assert_allclose(values("a.safetensors"), expected[0], rtol=1e-12)
    with np.load("b.npz") as archive:
        np.testing.assert_allclose(archive["w"], expected[1], rtol=1e-12)
    with safetensors.safe_open("b.state", "numpy") as opened:
        assert opened.metadata() == {"server_optimizer": "fedadam"}


def test_sgd_needs_no_state(folder: Path) -> None:
    """An optimizer without a state writes one file only."""
    arguments = ("--optimizer", "sgd", "--optimizer-arg", "eta=0.25")
    files = ("--parent", "parent.safetensors", "--out", "a.safetensors")
    assert run(*arguments, *files, "two.safetensors") == 0
    np.testing.assert_array_equal(values("a.safetensors"), np.full(3, 0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (ADAM, "takes steps from a parent: give it by --parent"),
        (
            (*ADAM, "--parent", "parent.safetensors"),
            "say where to write it by --optimizer-state-out",
        ),
        (("--optimizer-state-out", "s"), "--optimizer none has no state"),
        (("--optimizer", "adam"), "unknown server optimizer 'adam'"),
        (("--optimizer", "sgd", "--optimizer-arg", "eta=0"), "eta must be"),
        (("--optimizer-arg", "eta=1"), "none takes no arguments"),
        (
            (*ADAM, "--parent", "parent.safetensors", "--optimizer-state-out", "a.safetensors"),
            "a.safetensors is one of the files that are aggregated",
        ),
        (
            (*ADAM, "--parent", "parent.safetensors", "--optimizer-state-out", "two.safetensors"),
            "--optimizer-state-out two.safetensors exists: --force replaces it",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    folder: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, and the message says what to give."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments, "--out", "a.safetensors", "one.safetensors")
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_state_of_another_optimizer_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written if the state was left by an optimizer of another name."""
    first = ("--out", "a.safetensors", "--optimizer-state-out", "a.state")
    run(*ADAM, "--parent", "parent.safetensors", *first, "one.safetensors")
    before = set(folder.iterdir())
    other = ("--optimizer", "fedyogi", "--optimizer-state", "a.state")
    second = ("--out", "b.safetensors", "--optimizer-state-out", "b.state")
    assert run(*other, "--parent", "a.safetensors", *second, "two.safetensors") == 1
    assert "a.state is that of fedadam" in capsys.readouterr().err
    assert set(folder.iterdir()) == before


def test_no_state_is_left_without_a_result(folder: Path) -> None:
    """If the updates cannot be used, neither the result nor the state is written."""
    safetensors.numpy.save_file({"w": np.full(3, np.nan)}, "bad.safetensors")
    before = set(folder.iterdir())
    files = ("--out", "a.safetensors", "--optimizer-state-out", "a.state")
    assert run(*ADAM, "--parent", "parent.safetensors", *files, "bad.safetensors") == 1
    assert set(folder.iterdir()) == before
