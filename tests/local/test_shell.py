"""The shell with an embedded cloud; tests/docs/test_pages.py uses it as the tutorial does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from local.shell import main

PROJECT = Path(__file__).parents[2]
SHELL = [sys.executable, "-m", "local.shell"]


def test_a_folder_that_is_there_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may hold a federation that is still wanted."""
    assert main([str(tmp_path)]) == 1
    assert "File exists" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_command_runs_in_it_and_tells_how_it_ended(tmp_path: Path) -> None:
    """The command sees this cloud and no other, and its exit code is the shell's."""
    told = "import os, json; print(json.dumps(dict(os.environ))); raise SystemExit(7)"
    done = subprocess.run(
        [*SHELL, str(tmp_path / "mine"), "--", sys.executable, "-c", told],
        cwd=PROJECT,
        env={**os.environ, "STORAGE_ROOT": "/elsewhere", "AWS_SESSION_TOKEN": "of another cloud"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["BUCKET"] == "federation"
    assert found["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
    assert found["DATABASE_URL"] == f"sqlite:///{tmp_path}/mine/database.sqlite3"
    assert not {"STORAGE_ROOT", "AWS_SESSION_TOKEN"} & found.keys()
    assert (tmp_path / "mine" / "database.sqlite3").is_file()
