"""``python -m aggregation``: a round on files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aggregation.__main__ import main
from aggregation.engine.output import FileSink
from tests.aggregation.formats.compressed_updates import compressed, sparse_update


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three updates of a model in three formats: ones, twos and threes."""
    safetensors.numpy.save_file(_model(1), tmp_path / "one.safetensors", {"framework": "pt"})
    np.savez_compressed(tmp_path / "two.npz", **_model(2))
    layers = [array.tolist() for array in _model(3).values()]
    (tmp_path / "three.json").write_text(json.dumps(layers))
    return tmp_path


def _model(value: float) -> dict[str, Any]:
    return {"arr_0": np.full(2, value, np.float32), "arr_1": np.full((2, 3), value, np.float32)}


def _run(folder: Path, *arguments: str, updates: Sequence[str]) -> int:
    return main([*arguments, *(str(folder / update) for update in updates)])


def test_the_extension_decides_the_format_of_the_result(folder: Path) -> None:
    """safetensors, npz and JSON are averaged by count, and written as the extension says."""
    updates = ["one.safetensors", "two.npz", "three.json"]
    for name in ("result.safetensors", "result.npz", "result.json"):
        counts = ("--num-examples", "1,1,2")
        out = ("--out", str(folder / name))
        assert _run(folder, "--rule", "weighted_mean", *counts, *out, updates=updates) == 0
    result = safetensors.numpy.load_file(folder / "result.safetensors")
    assert {name: array.shape for name, array in result.items()} == {
        "arr_0": (2,),
        "arr_1": (2, 3),
    }
    np.testing.assert_array_equal(result["arr_1"], np.full((2, 3), 2.25, np.float32))
    with np.load(folder / "result.npz") as archive:
        np.testing.assert_array_equal(archive["arr_1"], result["arr_1"])
    assert json.loads((folder / "result.json").read_text())[0] == [2.25, 2.25]


def test_the_metadata_of_the_model_is_kept(folder: Path) -> None:
    """The free text in the header of the first safetensors update is in the result's header."""
    out = folder / "result.safetensors"
    _run(folder, "--rule", "weighted_mean", "--out", str(out), updates=["one.safetensors"])
    with safetensors.safe_open(out, "numpy") as opened:
        assert opened.metadata() == {"framework": "pt"}


def test_bad_updates_are_named_and_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unreadable, differing and poisoned files are named on standard error, and their counts are
    left out."""
    (folder / "junk.safetensors").write_bytes(b"junk")
    safetensors.numpy.save_file({"arr_0": np.ones(9, np.float32)}, folder / "other.safetensors")
    poisoned = _model(np.nan)
    safetensors.numpy.save_file(poisoned, folder / "poisoned.safetensors")
    bad = ["junk.safetensors", "other.safetensors", "poisoned.safetensors"]
    out = folder / "result.safetensors"
    arguments = ("--rule", "weighted_mean", "--num-examples", "7,7,7,1,3", "--out", str(out))
    good = ["one.safetensors", "two.npz"]
    assert _run(folder, *arguments, updates=[*bad, *good]) == 0
    errors = capsys.readouterr().err
    for name in bad:
        assert f"left out: {folder / name}: " in errors
    np.testing.assert_array_equal(
        safetensors.numpy.load_file(out)["arr_0"], np.array([1.75, 1.75], np.float32)
    )


def test_a_parent_and_rule_arguments_can_be_given(folder: Path) -> None:
    """Differences from a parent are clipped to the norm of the argument, and added to the parent."""
    safetensors.numpy.save_file(_model(10), folder / "parent.safetensors")
    out = folder / "result.safetensors"
    arguments = ("--rule", "norm_clipped_mean", "--arg", "max_norm=1", "--differences")
    files = ("--parent", str(folder / "parent.safetensors"), "--out", str(out))
    assert _run(folder, *arguments, *files, updates=["one.safetensors"]) == 0
    result = safetensors.numpy.load_file(out)
    np.testing.assert_allclose(result["arr_0"], 10 + 1 / np.sqrt(8), rtol=1e-6)


@pytest.mark.parametrize("compress", [compressed, sparse_update])
def test_compressed_differences_are_read(
    folder: Path, compress: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compressed files are added to the parent as differences, and refused as weights."""
    safetensors.numpy.save_file(_model(10), folder / "parent.safetensors")
    (folder / "small.safetensors").write_bytes(compress(_model(127)))
    out = folder / "result.safetensors"
    files = ("--parent", str(folder / "parent.safetensors"), "--out", str(out))
    arguments = ("--rule", "weighted_mean", *files)
    assert _run(folder, *arguments, "--differences", updates=["small.safetensors"]) == 0
    assert (safetensors.numpy.load_file(out)["arr_1"] == 137).all()
    assert _run(folder, *arguments, "--force", updates=["small.safetensors"]) == 1
    assert "only updates that are differences may be compressed" in capsys.readouterr().err


def test_without_a_result_the_exit_code_is_1_and_no_file_is_left(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If no update, or too few for the rule, can be used, nothing is written."""
    (folder / "junk.npz").write_bytes(b"junk")
    before = set(folder.iterdir())
    out = ("--out", str(folder / "result.npz"))
    assert _run(folder, "--rule", "weighted_mean", *out, updates=["junk.npz"]) == 1
    assert "no update can be used" in capsys.readouterr().err
    assert _run(folder, "--rule", "krum", "--arg", "f=1", *out, updates=["one.safetensors"]) == 1
    assert "krum needs at least 5 updates" in capsys.readouterr().err
    assert _run(folder, "--rule", "weighted_mean", *out, updates=["missing.npz"]) == 1
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "mode", "--out", "r.npz", "u.npz"], "unknown aggregation rule 'mode'"),
        (["--rule", "krum", "--out", "r.npz", "u.npz"], "krum takes the arguments f"),
        (["--rule", "krum", "--arg", "f", "--out", "r.npz", "u.npz"], "NAME=VALUE"),
        (["--rule", "weighted_mean", "--out", "r.txt", "u.npz"], "none of the formats"),
        (
            ["--rule", "weighted_mean", "--num-examples", "1,2", "--out", "r.npz", "u.npz"],
            "2 counts for 1 updates",
        ),
        (
            ["--rule", "weighted_mean", "--out", "r.npz", "--num-examples=-1", "u.npz"],
            "must be positive",
        ),
        (["--rule", "weighted_mean", "--out", "r.npz", "u.npz", "./u.npz"], "counted twice"),
        (["--rule", "weighted_mean", "--out", "./u.npz", "u.npz"], "one of the files"),
        (["--rule", "weighted_mean", "--out", "/nowhere/r.npz", "u.npz"], "no directory /nowhere"),
        (
            [
                "--rule",
                "weighted_mean",
                "--num-examples",
                "1e308,1e308",
                "--out",
                "r.npz",
                "u",
                "v",
            ],
            "sum of num_examples is too large",
        ),
        (
            ["--rule", "weighted_mean", "--num-examples", "1,1e-320", "--out", "r.npz", "u", "v"],
            "must be positive",
        ),
        (
            ["--rule", "krum", "--arg", "f=1", "--arg", "f=2", "--out", "r.npz", "u.npz"],
            "--arg f is given twice",
        ),
        (["--rule", "krum", "--rule", "bulyan", "--out", "r.npz", "u"], "--rule is given twice"),
        (["--rule", "krum", "--arg", "f=1", "--out", "/tmp", "u.npz"], "none of the formats"),
        (["--rule", "weighted_mean", "--memory-mb", "0", "--out", "r.npz", "u.npz"], "positive"),
        (
            ["--rule", "krum", "--memory-mb", "1.5", "--out", "r.npz", "u.npz"],
            "positive whole number",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, and the message says what was expected."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_an_existing_file_is_replaced_only_by_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that exists is not replaced without --force."""
    out = folder / "result.npz"
    out.write_bytes(b"precious")
    arguments = ("--rule", "weighted_mean", "--out", str(out))
    with pytest.raises(SystemExit):
        _run(folder, *arguments, updates=["two.npz"])
    assert "--force replaces it" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    assert _run(folder, *arguments, "--force", updates=["two.npz"]) == 0
    assert out.read_bytes() != b"precious"


def test_no_progress_bar_is_drawn_into_a_pipe(folder: Path) -> None:
    """`python -m aggregation` writes nothing to standard error if it is not a terminal."""
    out = folder / "result.npz"
    command = [sys.executable, "-m", "aggregation", "--rule", "unweighted_mean", "--out", str(out)]
    updates = [str(folder / "one.safetensors"), str(folder / "two.npz")]
    done = subprocess.run([*command, *updates], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert out.exists()


def test_a_file_under_two_names_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another path, a symbolic link and a hard link to a file would count it twice."""
    monkeypatch.chdir(folder)
    (folder / "symbolic.npz").symlink_to("two.npz")
    (folder / "hard.npz").hardlink_to("two.npz")
    for name in ("./two.npz", "symbolic.npz", "hard.npz", str(folder / "two.npz")):
        with pytest.raises(SystemExit) as caught:
            main(["--rule", "unweighted_mean", "--out", "result.npz", "two.npz", name])
        assert caught.value.code == 2
        assert f"{name} is the same file as two.npz" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--rule", "unweighted_mean", "--force", "--out", "hard.npz", "two.npz"])
    assert "one of the files that are aggregated" in capsys.readouterr().err


def test_paths_that_are_not_files_are_named_and_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file, a directory, a pipe and the index of a sharded model do not end the round."""
    (folder / "directory.npz").mkdir()
    os.mkfifo(folder / "pipe.npz")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    bad = {
        "missing.npz": "No such file or directory",
        "directory.npz": "it is not a file",
        "pipe.npz": "it is not a file",
        "model.safetensors.index.json": "the index of a sharded model",
    }
    out = folder / "result.npz"
    arguments = ("--rule", "unweighted_mean", "--out", str(out))
    assert _run(folder, *arguments, updates=[*bad, "one.safetensors", "two.npz"]) == 0
    errors = capsys.readouterr().err
    for name, reason in bad.items():
        assert re.search(f"left out: {folder / name}: .*{reason}", errors)
    with np.load(out) as archive:
        np.testing.assert_array_equal(archive["arr_0"], np.array([1.5, 1.5], np.float32))


def test_a_parent_that_cannot_be_used_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing, broken or poisoned parent gives exit code 1, and no update is left out for it."""
    (folder / "broken.npz").write_bytes(b"broken")
    safetensors.numpy.save_file(_model(np.nan), folder / "poisoned.safetensors")
    out = ("--out", str(folder / "result.npz"))
    arguments = ("--rule", "norm_clipped_mean", "--arg", "max_norm=1", *out)
    for name, reason in (
        ("missing.npz", "missing.npz cannot be used: No such file"),
        ("broken.npz", "broken.npz cannot be used: "),
        ("poisoned.safetensors", "the parent has nan in tensor 'arr_0' at [0]"),
    ):
        files = ("--parent", str(folder / name))
        assert _run(folder, *arguments, *files, updates=["one.safetensors", "two.npz"]) == 1
        errors = capsys.readouterr().err
        assert reason in errors
        assert "left out" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_partial_file(
    number: signal.Signals, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is asked to end while it stores a part deletes what it has stored."""
    write_part = FileSink.write_part
    partial: list[Path] = []

    def write_and_signal(self: FileSink, *args: Any, **options: Any) -> None:
        write_part(self, *args, **options)
        partial.extend(folder.glob("*.part"))
        os.kill(os.getpid(), number)

    monkeypatch.setattr(FileSink, "write_part", write_and_signal)
    arguments = ("--rule", "unweighted_mean", "--out", str(folder / "result.npz"))
    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        sys.exit(_run(folder, *arguments, updates=["one.safetensors", "two.npz"]))
    assert caught.value.code == 128 + number
    assert len(partial) == 1
    assert not list(folder.glob("*.part"))
    assert not (folder / "result.npz").exists()
    assert signal.getsignal(number) is handler
