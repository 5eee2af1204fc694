"""``python -m aggregation`` with differential privacy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aggregation import aggregate
from aggregation.__main__ import main
from tests.aggregation.privacy.privacy_tools import SETTINGS

SEED = "0f" * 32
PRIVACY = [
    part
    for name, value in SETTINGS.items()
    for part in ("--differential-privacy", f"{name}={value}")
]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with a parent of zeros, and two updates."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("parent", 0.0), ("one", 0.125), ("two", 0.25)):
        safetensors.numpy.save_file({"w": np.full(3, value)}, f"{name}.safetensors")
    return tmp_path


def run(*arguments: str, rule: str = "unweighted_mean") -> int:
    updates = ("one.safetensors", "two.safetensors")
    parent = ("--parent", "parent.safetensors", "--force")
    return main(["--rule", rule, *parent, *arguments, *updates])


def values(path: str) -> Any:
    return safetensors.numpy.load_file(path)["w"]


def test_a_result_is_repeated_by_its_seed_and_says_its_epsilon(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bytes repeat with the seed and differ without it; epsilon comes with the relation."""
    for name in ("a", "b"):
        assert run(*PRIVACY, "--seed", SEED, "--out", f"{name}.safetensors") == 0
    assert "epsilon of this round: 4.37718 at delta 1e-05" in capsys.readouterr().out
    assert run(*PRIVACY, "--out", "c.safetensors") == 0
    assert "for adding or removing one client" in capsys.readouterr().out
    np.testing.assert_array_equal(values("a.safetensors"), values("b.safetensors"))
    assert (values("a.safetensors") != values("c.safetensors")).all()


def test_a_notebook_draws_other_noise_than_files_of_other_bytes(files: Path) -> None:
    """The noise follows from the bytes of all updates, so that one seed serves one set of them."""
    assert run(*PRIVACY, "--seed", SEED, "--out", "a.safetensors") == 0
    one, two, parent = (np.full(3, value) for value in (0.125, 0.25, 0.0))
    found = aggregate(
        "unweighted_mean", [one, two], parent=parent, differential_privacy=SETTINGS, seed=SEED
    )
    assert (found != values("a.safetensors")).all()


def test_another_rule_is_an_error_of_the_arguments(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends with code 2 and says which rule is needed."""
    with pytest.raises(SystemExit) as ended:
        run(*PRIVACY, "--out", "a.safetensors", rule="weighted_mean")
    assert ended.value.code == 2
    assert "needs the rule unweighted_mean" in capsys.readouterr().err
    assert not (files / "a.safetensors").exists()
