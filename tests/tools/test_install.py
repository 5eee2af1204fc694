"""The supported versions of Python, and what an environment is installed from."""

from __future__ import annotations

import re

import pytest

from tools.install import ROOT, UnsupportedPython, check_python, supported_versions

PYPROJECT = (ROOT / "pyproject.toml").read_text()


def test_supported_versions_are_those_of_pyproject() -> None:
    """Python 3.11 up to, but not including, 3.14 is supported."""
    assert supported_versions(PYPROJECT) == ((3, 11), (3, 14))


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 7), (3, 13, 9)])
def test_supported_python_is_accepted(version: tuple[int, ...]) -> None:
    """Every patch release of a supported version is accepted."""
    check_python(version, PYPROJECT)


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 14, 0), (4, 0, 0)])
def test_other_python_is_refused(version: tuple[int, ...]) -> None:
    """The message says what is needed, what was found and how to name another interpreter."""
    with pytest.raises(
        UnsupportedPython, match=r"Python 3\.11 to 3\.13 is needed.*make PYTHON=python3\.13"
    ):
        check_python(version, PYPROJECT)


def test_workflow_runs_every_supported_python() -> None:
    """CI's matrix has every supported version, and no other."""
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    versions = re.findall(r'"(3\.\d+)"', workflow)
    assert versions == ["3.11", "3.12", "3.13"]
