"""``python -m aggregation explain``: what a rule makes of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import aggregation
from aggregation.__main__ import main


def _write(folder: Path, **rows: Any) -> list[str]:
    for name, row in rows.items():
        safetensors.numpy.save_file({"w": np.array(row)}, folder / f"{name}.safetensors")
    return [str(folder / f"{name}.safetensors") for name in rows]


def test_the_table_is_that_of_the_function(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same updates as arrays and as files give the same table; no file is written."""
    rng = np.random.default_rng(3)
    rows = {name: rng.normal(1, 1, size=20) for name in "abcde"}
    files = _write(tmp_path, parent=np.zeros(20), **rows)
    before = sorted(tmp_path.iterdir())
    options = ("--rule", "multi_krum", "--arg", "f=1", "--pre-aggregation", "nnm(f=1)")
    assert main(["explain", *options, "--parent", *files[:1], *files[1:]]) == 0
    _, info = aggregation.aggregate(
        "multi_krum",
        [{"w": row} for row in rows.values()],
        parent={"w": np.zeros(20)},
        f=1,
        pre_aggregation=["nnm(f=1)"],
        return_info=True,
    )
    names = [f"{name}.safetensors" for name in rows]
    assert capsys.readouterr().out == info.table(names) + "\n"
    assert sorted(tmp_path.iterdir()) == before


def test_files_with_the_same_name_are_shown_with_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where two updates have the same name, the table has the paths that were given."""
    files = []
    for folder in ("north", "south"):
        (tmp_path / folder).mkdir()
        files += _write(tmp_path / folder, update=[1.0, 2.0])
    assert main(["explain", "--rule", "weighted_mean", *files]) == 0
    _, first, second, *_ = capsys.readouterr().out.splitlines()
    assert [first.split()[0], second.split()[0]] == files


def test_json_has_all_distances_and_the_rejected_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that cannot be used is named with its reason; an infinite norm is null."""
    files = _write(tmp_path, a=[0.0, 3.0], b=[4.0, 0.0], bad=[np.nan, 0.0], c=[1e300, 0.0])
    assert main(["explain", "--rule", "weighted_mean", "--json", *files]) == 0
    found = json.loads(capsys.readouterr().out)
    a, b, _, c = files
    assert [row["update"] for row in found["updates"]] == [a, b, c]
    assert found["updates"][0]["distances"] == {a: 0.0, b: pytest.approx(5.0), c: None}
    assert found["updates"][2]["norm"] is None
    assert list(found["rejected"]) == [files[2]]
    assert "nan" in found["rejected"][files[2]]


def test_an_optimizer_with_a_state_needs_no_place_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``explain`` stores nothing, so that it asks for no path of the optimizer's new state."""
    files = _write(tmp_path, parent=[0.0, 0.0], a=[0.0, 3.0], b=[4.0, 0.0])
    options = ("--rule", "weighted_mean", "--optimizer", "fedadam", "--parent", files[0])
    assert main(["explain", *options, *files[1:]]) == 0
    assert "0.5" in capsys.readouterr().out


def test_an_output_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``explain`` has no option ``--out``."""
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "--rule", "weighted_mean", "--out", "x.npz", *_write(tmp_path, a=[1.0])])
    assert stopped.value.code == 2
    assert "--out" in capsys.readouterr().err
