"""Tests of the whole demonstration, as `make run` starts it, on both databases."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

PROJECT = Path(__file__).parents[2]
COMPLETE, INVALID = 2, 4


@contextmanager
def demonstration(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run a demonstration that writes everything into a folder, temporary files included."""
    with subprocess.Popen(
        [sys.executable, "-m", "local", "--out", str(folder / "run"), *options],
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(folder), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def left_running(folder: Path) -> set[int]:
    """Return the processes of the folder that do not end within ten seconds."""
    deadline = time.monotonic() + 10
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return processes_of(folder)


def processes_of(folder: Path) -> set[int]:
    """Return the processes that have the folder's name in their command or environment."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            try:
                text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue  # It has ended, or belongs to another user.
            if os.fsencode(folder) in text:
                found.add(int(process.name))
    return found


def weights_at(run: Path, key: str) -> dict[str, np.ndarray]:
    """Return an object that the run saved."""
    return safetensors.numpy.load_file(run / "bucket" / key)


def test_federation_trains_through_the_function_on_sqlite(tmp_path: Path) -> None:
    """Each aggregate is the weighted mean of its valid updates, and the remaining clients score it."""
    folder = tmp_path / "no #1? 100% name"
    folder.mkdir()
    with demonstration(folder, "--clients", "3", "--rounds", "2") as process:
        shown, _ = process.communicate()
    assert process.returncode == 0, shown
    run = folder / "run"
    with closing(sqlite3.connect(run / "database.sqlite3")) as database:
        database.row_factory = sqlite3.Row
        updates = database.execute("SELECT * FROM models_app_modelupdate ORDER BY id").fetchall()
        aggregates = database.execute(
            "SELECT * FROM models_app_modelaggregate ORDER BY number"
        ).fetchall()
        scores = database.execute(
            "SELECT aggregate_id FROM models_app_clientaggregatescore"
        ).fetchall()
    assert [aggregate["number"] for aggregate in aggregates] == [1, 2]
    for aggregate, n_used in zip(aggregates, (2, 1), strict=True):
        used = [each for each in updates if each["applied_aggregate_id"] == aggregate["id"]]
        assert [each["status"] for each in used] == [COMPLETE] * n_used
        assert_weighted_mean(run, aggregate, used)
    rejected = [each for each in updates if each["status"] == INVALID]
    assert len(updates) == 5
    assert len({each["client_id"] for each in rejected}) == 1
    assert [each["rejection_reason"] in shown for each in rejected] == [True, True]
    assert "[9]" in rejected[0]["rejection_reason"]
    assert "nan" in rejected[1]["rejection_reason"]
    first, second = (aggregate["id"] for aggregate in aggregates)
    assert [score["aggregate_id"] for score in scores] == [first] * 3 + [second] * 2
    assert (run / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    assert '"round published"' in (run / "function.log").read_text()
    assert left_running(tmp_path) == set()


def test_masked_updates_are_summed_with_the_mask_keeper(tmp_path: Path) -> None:
    """Both functions run; the update that the keeper does not accept is rejected in both rounds."""
    options = ("--clients", "4", "--rounds", "2", "--privacy", "secure")
    with demonstration(tmp_path, *options) as process:
        shown, _ = process.communicate()
    assert process.returncode == 0, shown
    run = tmp_path / "run"
    with closing(sqlite3.connect(run / "database.sqlite3")) as database:
        rounds = database.execute(
            "SELECT updates_used FROM models_app_aggregationround WHERE state = 1 ORDER BY number"
        ).fetchall()
        updates = database.execute(
            "SELECT data, rejection_reason FROM models_app_modelupdate ORDER BY id"
        ).fetchall()
    assert rounds == [(3,), (2,)]
    rejected = [reason for _, reason in updates if reason]
    assert len(rejected) == 2
    assert all("signature is not that of the registered client" in each for each in rejected)
    assert weights_at(run, updates[0][0])["output.bias"].dtype == np.uint32
    assert left_running(tmp_path) == set()


def test_a_private_run_shows_its_epsilon(tmp_path: Path) -> None:
    """Each line and the end state what the rounds have spent, for which relation; seeds are encrypted."""
    options = ("--clients", "3", "--rounds", "2", "--privacy", "dp")
    with demonstration(tmp_path, *options) as process:
        shown, _ = process.communicate()
    assert process.returncode == 0, shown
    spent = re.findall(r"^ +[12]/2 .* (\d+\.\d{3})", shown, re.MULTILINE)
    assert len(spent) == 2
    assert float(spent[0]) < float(spent[1]) <= 8
    assert "of 8 at delta 1e-05 (for adding or removing one client)" in shown
    with closing(sqlite3.connect(tmp_path / "run" / "database.sqlite3")) as database:
        released = database.execute(
            "SELECT length(privacy_released), sealed_seed != '' FROM models_app_aggregationround"
        ).fetchall()
    assert released == [(64, 1), (64, 1)]
    assert left_running(tmp_path) == set()


def assert_weighted_mean(run: Path, aggregate: Any, used: list[Any]) -> None:
    """Assert that the aggregate equals numpy's weighted mean of the updates' files."""
    result = weights_at(run, aggregate["result"])
    counts = [update["num_examples"] for update in used]
    models = [weights_at(run, update["data"]) for update in used]
    assert min(counts) > 1
    for name, tensor in result.items():
        stacked = np.array([model[name] for model in models], np.float64)
        expected = np.average(stacked, axis=0, weights=counts)
        np.testing.assert_allclose(tensor, expected, rtol=1e-6)
        assert tensor.dtype == np.float32


@pytest.mark.exhaustive
def test_several_functions_share_each_round(tmp_path: Path) -> None:
    """Rounds go through the state machine; a column says how many functions shared each of them."""
    options = ("--clients", "3", "--rounds", "2", "--functions", "2")
    with demonstration(tmp_path, *options) as process:
        shown, _ = process.communicate()
    assert process.returncode == 0, shown
    heading, *lines = [line.split() for line in shown.splitlines()]
    assert heading[:5] == ["round", "updates", "accuracy", "seconds", "functions"]
    assert [line[4] for line in lines if line and line[0] in ("1/2", "2/2")] == ["2", "2"]
    run = tmp_path / "run"
    with closing(sqlite3.connect(run / "database.sqlite3")) as database:
        database.row_factory = sqlite3.Row
        updates = database.execute("SELECT * FROM models_app_modelupdate").fetchall()
        aggregates = database.execute("SELECT * FROM models_app_modelaggregate").fetchall()
        rounds = database.execute(
            "SELECT workers FROM models_app_aggregationround WHERE aggregate_id IS NOT NULL"
        ).fetchall()
    for aggregate in aggregates:
        used = [each for each in updates if each["applied_aggregate_id"] == aggregate["id"]]
        assert_weighted_mean(run, aggregate, used)
    shared = [json.loads(row["workers"]) for row in rounds]
    assert [each["functions"] for each in shared] == [2, 2]
    assert all(len(each["tasks"]) > 1 for each in shared)
    assert left_running(tmp_path) == set()


@pytest.mark.exhaustive
def test_federation_trains_on_postgresql(tmp_path: Path) -> None:
    """The rows of the embedded PostgreSQL are saved as a file, and its server has ended."""
    with demonstration(tmp_path, "--clients", "4", "--rounds", "2", "--db", "postgres") as process:
        shown, _ = process.communicate()
    assert process.returncode == 0, shown
    assert re.search(r"federated\s*│\s*0\.\d{3}", shown)
    rows = json.loads((tmp_path / "run" / "database.json").read_text())
    kept = [row["fields"] for row in rows if row["model"] == "models_app.modelaggregate"]
    assert [fields["number"] for fields in kept] == [1, 2]
    for fields in kept:
        assert weights_at(tmp_path / "run", fields["result"])
    assert left_running(tmp_path) == set()


@pytest.mark.parametrize(
    ("number", "database"),
    [
        (signal.SIGINT, "postgres"),
        pytest.param(signal.SIGTERM, "sqlite", marks=pytest.mark.exhaustive),
    ],
)
def test_interrupted_run_leaves_no_process(
    tmp_path: Path, number: signal.Signals, database: str
) -> None:
    """Ctrl-C or SIGTERM in the middle of the rounds ends every process."""
    with demonstration(tmp_path, "--rounds", "500", "--db", database) as process:
        assert process.stdout is not None
        assert any("1/500" in line for line in process.stdout)
        running = processes_of(tmp_path)
        process.send_signal(number)
        shown, _ = process.communicate()
    assert process.returncode == 130
    assert "Stopped. Nothing is left running." in shown
    assert "Traceback" not in shown
    assert len(running) >= 3, "the demonstration, the emulator and the function at least"
    assert left_running(tmp_path) == set()


def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The message has no traceback, and the exit code is 1."""
    (tmp_path / "run").write_text("a file")
    with demonstration(tmp_path) as process:
        shown, _ = process.communicate()
    assert process.returncode == 1
    assert shown.strip() == f"cannot write to the folder {tmp_path / 'run'}: File exists"
