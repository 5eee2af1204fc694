"""Tests of the shell with an embedded cloud; tests/docs/test_pages.py uses it as the tutorial does."""

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


def test_existing_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An existing folder may hold a federation that is still needed."""
    assert main([str(tmp_path)]) == 1
    assert "File exists" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_command_runs_in_the_embedded_cloud(tmp_path: Path) -> None:
    """The command sees this cloud and no other, and its exit code is the shell's."""
    script = "import os, json; print(json.dumps(dict(os.environ))); raise SystemExit(7)"
    done = subprocess.run(
        [*SHELL, str(tmp_path / "mine"), "--", sys.executable, "-c", script],
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


def test_leaving_saves_the_bucket_beside_keys_that_are_no_paths(tmp_path: Path) -> None:
    """A folder marker of S3's console, and a key that leads out of the folder, stop nothing."""
    script = (
        "import os, boto3; s3 = boto3.client('s3'); bucket = os.environ['BUCKET']\n"
        "for key in ('a/', '../outside', 'a/b', 'z'):\n"
        "    s3.put_object(Bucket=bucket, Key=key, Body=b'' if key == 'a/' else b'x')"
    )
    done = subprocess.run(
        [*SHELL, str(tmp_path / "mine"), "--", sys.executable, "-c", script],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "not saved: '../outside': the key is not a path below the folder"
    bucket = tmp_path / "mine" / "bucket"
    assert sorted(str(path.relative_to(bucket)) for path in bucket.rglob("*")) == ["a", "a/b", "z"]
