"""The results of other libraries, by programs of this folder that run in an interpreter that has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.examples.test_examples import ROOT


def result_of(program: str, given: Any, interpreter: str = "ORACLES_PYTHON") -> Any:
    """Return what a program makes of JSON; skip the test if its library is missing.

    Parameters
    ----------
    program : str
        A module of this folder.
    given : Any
        Passed to its standard input.
    interpreter : str
        The variable that names the interpreter, in which no library may be missing.
    """
    done = subprocess.run(
        [os.environ.get(interpreter, sys.executable), "-m", f"tests.examples.{program}"],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if "ModuleNotFoundError" in done.stderr and interpreter not in os.environ:
        pytest.skip(done.stderr.splitlines()[-1])
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)
