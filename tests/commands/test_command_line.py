"""The command line of `manage.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.management.command_line import BROKEN_PIPE_STATUS

PROJECT = Path(__file__).parents[2]
MANAGE = [sys.executable, "manage.py"]
WITHOUT_SETTINGS = {"PATH": os.environ["PATH"]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rounds --help", "List a model's rounds"),
        ("estimate_cost --params 25e6 --clients 100 --rounds-a-day 24", "A round, modelled with"),
    ],
)
def test_help_and_estimates_need_no_settings(line: str, expected: str) -> None:
    """Help and estimates need neither a database nor storage."""
    ended = subprocess.run(
        [*MANAGE, *line.split()],
        cwd=PROJECT,
        env=WITHOUT_SETTINGS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert expected in ended.stdout


def test_a_closed_pipe_ends_a_command_quietly() -> None:
    """If the reader of a pipe is gone, a command ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody:
        ended = subprocess.run(
            [*MANAGE, "rounds", "--help"],
            cwd=PROJECT,
            env=WITHOUT_SETTINGS,
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (BROKEN_PIPE_STATUS, "")
