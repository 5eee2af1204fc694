"""The lock files agree with pyproject.toml, and a lock file that does not is found out."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.locks import LOCKS, ROOT, check

PYPROJECT = (ROOT / "pyproject.toml").read_text()
NUMPY = '    "numpy>=2.4,<3",\n    "psycopg'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of pyproject.toml and of the locks."""
    for path in ("pyproject.toml", *(lock.path for lock in LOCKS)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    return tmp_path


def test_locks_agree_with_pyproject() -> None:
    """Every declared dependency is locked, at a version that is allowed, with hashes."""
    assert check(ROOT) == []


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def declare_more(project: Path) -> None:
    replace(project / "pyproject.toml", NUMPY, f'    "attrs",\n    "zstandard",\n{NUMPY}')


def declare_newer(project: Path) -> None:
    replace(project / "pyproject.toml", NUMPY, '    "numpy>=9,<10",\n    "psycopg')


def declare_less(project: Path) -> None:
    replace(project / "pyproject.toml", NUMPY, '    "psycopg')


def remove_hashes(project: Path) -> None:
    path = project / "requirements.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "--hash" not in line))


def lock_another_version(project: Path) -> None:
    replace(project / "requirements.txt", "numpy==2.", "numpy==2.9")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (declare_more, "requirements.txt: zstandard is declared in pyproject.toml, but not locked"),
        (declare_newer, "but pyproject.toml asks for numpy<10,>=9"),
        (
            declare_less,
            "requirements.txt: numpy is locked as a dependency of ours, but not declared",
        ),
        (remove_hashes, "requirements.txt: numpy is locked without a hash"),
        (lock_another_version, "numpy is locked at another version than in requirements/dev.txt"),
    ],
)
def test_lock_that_disagrees_is_found(
    project: Path, change: Callable[[Path], None], problem: str
) -> None:
    """A change of the declarations or of a lock alone is reported, with the file and the package."""
    change(project)
    assert any(problem in found for found in check(project)), check(project)


def test_deployed_versions_do_not_depend_on_the_python_that_builds() -> None:
    """pip compares markers with the Python that runs it, and not with the one of the function."""
    assert not re.search("python(_full)?_version", (ROOT / "requirements.txt").read_text())


def test_no_lock_names_a_host() -> None:
    """The locks install from whatever index is configured."""
    for lock in LOCKS:
        assert "://" not in (ROOT / lock.path).read_text()


def test_torch_has_the_declared_version() -> None:
    """requirements/torch.txt, which has no hashes, is written by hand."""
    (declared,) = tomllib.loads(PYPROJECT)["dependency-groups"]["torch"]
    assert (ROOT / "requirements/torch.txt").read_text().splitlines()[0] == declared
