"""Lock the dependencies that pyproject.toml declares, and check that the locks agree with it.

`make lock` resolves the declarations for every supported Python and writes exact versions with the
hashes of all their files. `make check` compares the files with pyproject.toml without a network.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

#: What `make lock` runs; set out whole, since uv's own header would name this machine's paths.
HEADER = "# Locked from pyproject.toml by `make lock`: do not edit."


@dataclass(frozen=True, kw_only=True)
class Lock:
    """One requirements file.

    Attributes
    ----------
    path : str
        Below the project's root.
    groups : tuple of str
        Names of dependency groups.
    deployed : bool
        Whether the project's own dependencies are part of it.
    within : str
        Another lock, from which this one takes its versions: both are installed into one environment.
    """

    path: str
    groups: tuple[str, ...] = ()
    deployed: bool = False
    within: str = ""


DEVELOPMENT = "requirements/dev.txt"
LOCKS = (
    Lock(path=DEVELOPMENT, groups=("dev",), deployed=True),
    Lock(path="requirements.txt", deployed=True, within=DEVELOPMENT),
    Lock(path="requirements/run.txt", groups=("run",), deployed=True, within=DEVELOPMENT),
    Lock(path="requirements/docs.txt", groups=("docs",)),
    Lock(path="requirements/examples.txt", groups=("examples",)),
    Lock(path="requirements/oracles.txt", groups=("oracles",)),
    Lock(path="requirements/scan.txt", groups=("scan",)),
    Lock(path="requirements/lock.txt", groups=("lock",)),
    Lock(path="requirements/bench-peers.txt", groups=("bench-peers",)),
    Lock(path="requirements/bench-s3.txt", groups=("bench-s3",)),
    Lock(path="requirements/bench-simulation.txt", groups=("bench-simulation",)),
)

#: Packages whose files depend on the hardware: installed by version (requirements/torch.txt), not by hash.
UNLOCKED = re.compile(r"torch|triton|cuda-.*|nvidia-.*")


@dataclass
class Pin:
    """One line of a lock.

    Attributes
    ----------
    hashes : int
        How many files of this version are accepted.
    declared : bool
        Whether pyproject.toml names the package, as uv's comment says, or another package needs it.
    """

    requirement: Requirement
    hashes: int = 0
    declared: bool = False


@dataclass
class LockFile:
    """What a lock says."""

    pins: dict[str, list[Pin]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> LockFile:
        """Read a file as uv writes it."""
        lock = cls()
        pin = None
        for line in text.splitlines():
            if re.match(r"[A-Za-z0-9]", line):
                pin = Pin(Requirement(line.rstrip("\\ ")))
                lock.pins.setdefault(canonicalize_name(pin.requirement.name), []).append(pin)
            elif pin is not None:
                pin.hashes += line.lstrip().startswith("--hash=sha256:")
                pin.declared |= "(pyproject.toml" in line
        return lock


def declared(pyproject: dict[str, Any], lock: Lock) -> list[Requirement]:
    """Return the requirements that a lock has to meet."""
    texts = list(pyproject["project"]["dependencies"]) if lock.deployed else []
    for group in lock.groups:
        texts += _group(pyproject["dependency-groups"], group)
    return [Requirement(text) for text in texts]


def _group(groups: dict[str, list[Any]], name: str) -> list[str]:
    """Return the requirements of a group and of the groups that it includes."""
    found: list[str] = []
    for entry in groups[name]:
        found += [entry] if isinstance(entry, str) else _group(groups, entry["include-group"])
    return found


def problems(requirements: list[Requirement], lock: LockFile) -> list[str]:
    """Return, in a sentence each, what a lock lacks, has too much of, or has without a hash."""
    found = []
    for wanted in requirements:
        name = canonicalize_name(wanted.name)
        if UNLOCKED.fullmatch(name):
            continue
        for pin in lock.pins.get(name, ()):
            (version,) = (each.version for each in pin.requirement.specifier)
            if not wanted.specifier.contains(version, prereleases=True):
                found.append(f"{name} is locked at {version}, but pyproject.toml asks for {wanted}")
        if name not in lock.pins:
            found.append(f"{name} is declared in pyproject.toml, but not locked")
    names = {canonicalize_name(wanted.name) for wanted in requirements}
    for locked, pins in lock.pins.items():
        if locked not in names and any(pin.declared for pin in pins):
            found.append(
                f"{locked} is locked as a dependency of ours, but not declared in pyproject.toml"
            )
        if not all(pin.hashes for pin in pins):
            found.append(f"{locked} is locked without a hash")
    return found


def contradictions(lock: LockFile, whole: LockFile) -> list[str]:
    """Return where two locks that share an environment pin different versions."""
    return [
        f"{name} is locked at another version than in {DEVELOPMENT}"
        for name, pins in lock.pins.items()
        if _versions(pins) - _versions(whole.pins.get(name, []))
    ]


def _versions(pins: list[Pin]) -> set[str]:
    return {str(pin.requirement.specifier) for pin in pins}


def check(root: Path) -> list[str]:
    """Return what is wrong with the locks below a project's root."""
    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    parsed = {lock.path: LockFile.parse((root / lock.path).read_text()) for lock in LOCKS}
    found = []
    for lock in LOCKS:
        wrong = problems(declared(pyproject, lock), parsed[lock.path])
        if lock.within:
            wrong += contradictions(parsed[lock.path], parsed[lock.within])
        found += [f"{lock.path}: {problem}" for problem in wrong]
    return found


def write(root: Path, uv: str, upgrade: list[str]) -> None:
    """Resolve every lock again; versions stay as they are unless an upgrade is asked for.

    Parameters
    ----------
    uv : str
        The command.
    upgrade : list of str
        Names of packages to upgrade; ``*`` for all.
    """
    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    oldest = pyproject["project"]["requires-python"].split(",")[0].removeprefix(">=")
    for lock in LOCKS:
        command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
        command += ["--no-emit-index-url", "--no-header", f"--python-version={oldest}"]
        command += [f"--output-file={lock.path}", "--fork-strategy=fewest"]
        command += ["pyproject.toml"] if lock.deployed else []
        command += [f"--group=pyproject.toml:{group}" for group in lock.groups]
        command += [f"--constraints={lock.within}"] if lock.within else []
        command += ["--upgrade" if name == "*" else f"--upgrade-package={name}" for name in upgrade]
        subprocess.run(command, cwd=root, check=True)
        path = root / lock.path
        path.write_text(f"{HEADER}\n{_without_unlocked(path.read_text())}")


def _without_unlocked(text: str) -> str:
    """Leave out the blocks of packages that are not locked by hash."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)
    return "".join(
        block
        for block in blocks
        if not UNLOCKED.fullmatch(re.split(r"[=\s]", block, maxsplit=1)[0])
    )


def main() -> None:
    """Check or write the locks."""
    parser = argparse.ArgumentParser(prog="python -m tools.locks", description=__doc__)
    parser.add_argument("action", choices=("check", "write"))
    parser.add_argument("--uv", default="uv", help="the command that resolves")
    parser.add_argument("--upgrade", nargs="*", default=[], help="packages; '*' for all")
    options = parser.parse_args()
    if options.action == "write":
        write(ROOT, options.uv, options.upgrade)
    if found := check(ROOT):
        sys.exit("\n".join([*found, "Run `make lock`, and commit what it writes."]))


if __name__ == "__main__":
    main()
