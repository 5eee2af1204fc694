"""Create a virtual environment and install locked requirements into it, with progress.

The Makefile calls this module with the user's Python, whichever version that is. It therefore uses
only syntax and modules that old versions have too, so that they get the message about the supported
versions and not a syntax error.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: pip's first word for each package, whether it must be fetched or is there already.
PACKAGE = re.compile(r"(?:Collecting|Processing|Requirement already satisfied:) (\S+)")

#: Without a terminal, a line of progress is printed this often.
REPORT_SECONDS = 10


class UnsupportedPython(Exception):
    """The interpreter is not one of the supported versions."""


def supported_versions(pyproject: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the oldest supported minor version and the first one that is too new.

    Parameters
    ----------
    pyproject : str
        The text of pyproject.toml. It is matched, not parsed: Python has a TOML parser only since 3.11.
    """
    found = re.search(r'^requires-python = ">=(\d+)\.(\d+),<(\d+)\.(\d+)"$', pyproject, re.M)
    if found is None:
        raise ValueError('pyproject.toml has no line like requires-python = ">=3.11,<3.14"')
    low, high, too, new = map(int, found.groups())
    return (low, high), (too, new)


def check_python(version: tuple[int, ...], pyproject: str) -> None:
    """Refuse an interpreter that the project does not support.

    Raises
    ------
    UnsupportedPython
    """
    oldest, too_new = supported_versions(pyproject)
    if not oldest <= version[:2] < too_new:
        last = f"{too_new[0]}.{too_new[1] - 1}"
        raise UnsupportedPython(
            f"Python {oldest[0]}.{oldest[1]} to {last} is needed, but {sys.executable} is "
            f"{'.'.join(map(str, version[:3]))}. Name another one: make PYTHON=python{last} ..."
        )


def install(environment: Path, requirements: list[Path], *, editable: Path | None = None) -> None:
    """Create the environment if it is missing, and install the requirements into it.

    Parameters
    ----------
    environment : Path
        The folder of the virtual environment.
    requirements : list of Path
        Installed one after another. A file with hashes lists everything that it needs, so that pip
        resolves nothing; ``pip check`` finds what a file lacks.
    editable : Path, optional
        A distribution of this repository. It is built by the setuptools that the requirements lock.
    """
    python = environment / "bin" / "python"
    if not python.exists():
        print(f"creating {environment}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    for path in requirements:
        locked = ["--no-deps", "--require-hashes"] if "--hash=" in path.read_text() else []
        _run_pip([*pip, "install", "--progress-bar=off", *locked, "-r", str(path)], path)
    if editable is not None:
        command = [*pip, "install", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--editable", str(editable)], check=True)
    subprocess.run([*pip, "check"], stdout=subprocess.DEVNULL, check=True)


def _run_pip(command: list[str], path: Path) -> None:
    """Run pip and print how far it is; print all that it said if it fails."""
    total = len(re.findall(r"^[A-Za-z0-9._-]+==", path.read_text(), re.M))
    progress = _Progress(f"installing {path.name}, about {total} packages")
    said = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            said.append(line)
            package = PACKAGE.match(line)
            if package:
                progress.package(package[1])
            elif line.startswith("Installing collected packages"):
                progress.note("all are here; writing them to disk")
    if pip.returncode:
        progress.end("failed")
        print("".join(said[-10:]), file=sys.stderr)
        raise SystemExit(pip.returncode)
    progress.end("done")


class _Progress:
    """A line that is rewritten on a terminal, and printed now and then elsewhere."""

    def __init__(self, title: str) -> None:
        self._title, self._names, self._printed = title, set[str](), time.monotonic()
        self._moves = sys.stdout.isatty()
        print(title, flush=True)

    def package(self, name: str) -> None:
        self._names.add(name)
        if self._moves or time.monotonic() - self._printed > REPORT_SECONDS:
            self.note(f"{len(self._names):4} {Path(name).name}")

    def note(self, text: str) -> None:
        self._printed = time.monotonic()
        print(f"\r\033[K  {text}" if self._moves else f"  {text}", end="" if self._moves else "\n")
        sys.stdout.flush()

    def end(self, text: str) -> None:
        self.note(text)
        if self._moves:
            print(flush=True)


def main() -> None:
    """Check the interpreter, then install."""
    parser = argparse.ArgumentParser(prog="python -m tools.install", description=__doc__)
    parser.add_argument("environment", type=Path)
    parser.add_argument("requirements", type=Path, nargs="+")
    parser.add_argument("--editable", type=Path, help="a distribution of this repository")
    options = parser.parse_args()
    try:
        check_python(sys.version_info[:3], (ROOT / "pyproject.toml").read_text())
    except UnsupportedPython as error:
        sys.exit(str(error))
    install(options.environment, options.requirements, editable=options.editable)


if __name__ == "__main__":
    main()
