"""What is deployed: the function's code and its dependencies, built for Lambda and stripped.

`sam build` calls this through the Makefile; no Docker is needed, since every dependency has a wheel
for Lambda's Linux.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

#: The runtime in template.yaml.
PYTHON = "3.13"

#: Machine names of wheels, by Lambda's names of architectures.
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}

#: Amazon Linux 2023 has glibc 2.34, newest first.
GLIBC_TAGS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")

CODE = (
    "lambda_handler.py",
    "settings.py",
    "rds-global-bundle.pem",
    "aggregation",
    "connectors",
    "models_app",
)

#: Services that the code calls; botocore describes four hundred, 120 MB of them.
SERVICES = {"events", "rds", "s3", "sqs"}

#: Never imported by the function, which has no `costs` either. Lambda itself writes no byte code.
LEFT_OUT = (
    "**/tests",
    "**/locale/*/LC_MESSAGES",
    "bin",
    "**/__pycache__",
    "**/*.pyi",
    "connectors/management/commands/estimate_cost.py",
)


def main() -> None:
    """Build into the given folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", choices=MACHINES, default="arm64")
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    build(arguments.architecture, arguments.into)


def build(architecture: str, into: Path) -> None:
    """Lay out what goes into the zip.

    Parameters
    ----------
    architecture : str
        ``arm64`` or ``x86_64``.
    into : Path
        A folder; what it holds already is kept.
    """
    _install_dependencies(architecture, into)
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, into / name, dirs_exist_ok=True)
        else:
            shutil.copy2(source, into / name)
    _strip(into)
    _compile(into)


def _install_dependencies(architecture: str, into: Path) -> None:
    platforms = [f"--platform={tag}_{MACHINES[architecture]}" for tag in GLIBC_TAGS]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-compile", "--only-binary=:all:", "--implementation=cp"),
            *(f"--python-version={PYTHON}", *platforms),
            *("--requirement", str(ROOT / "requirements.txt"), "--target", str(into), "--upgrade"),
        ],
        check=True,
    )


def _strip(into: Path) -> None:
    for pattern in LEFT_OUT:
        for path in sorted(into.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    _strip_descriptions(into / "botocore" / "data")


def _strip_descriptions(data: Path) -> None:
    """Leave out of botocore's data what nobody asks for: it is parsed when a client is made, which is
    in every cold start."""
    for path in data.iterdir():
        if path.is_dir() and path.name not in SERVICES:
            shutil.rmtree(path)
    for packed in data.glob("*/*/service-2.json.gz"):
        described = json.loads(gzip.decompress(packed.read_bytes()))
        packed.with_suffix("").write_text(json.dumps(_without_prose(described)))
        packed.unlink()
    endpoints = json.loads((data / "endpoints.json").read_text())
    for partition in endpoints["partitions"]:
        found = partition["services"].items()
        partition["services"] = {name: each for name, each in found if name in SERVICES}
    (data / "endpoints.json").write_text(json.dumps(endpoints))


def _without_prose(described: Any) -> Any:
    """A service's description with nothing in its manual, of which only `help` is made."""
    match described:
        case {"documentation": str(), **others}:
            return {
                **_without_prose(others),
                "documentation": "",
            }  # botocore asks whether it is there.
        case dict():
            return {name: _without_prose(each) for name, each in described.items()}
        case list():
            return [_without_prose(each) for each in described]
        case _:
            return described


def _compile(into: Path) -> None:
    """Compile for the runtime: /var/task is read-only, so it would be compiled at each cold start.

    By hash and unchecked, since unpacking a zip changes the times of files.
    """
    python = interpreter(PYTHON)
    if python is None:
        print(f"no Python {PYTHON} on this machine: not compiled, cold starts will take longer")
        return
    subprocess.run(
        [
            *(python, "-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash"),
            *("-s", str(into), "-p", "/var/task", str(into)),
        ],
        check=True,
    )


def interpreter(minor: str) -> str | None:
    """A Python of this minor version: our own, one on the PATH, or one that pyenv keeps.

    Parameters
    ----------
    minor : str
        Such as ``3.13``.
    """
    name = f"python{minor}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [
        *([sys.executable] if sys.version.startswith(f"{minor}.") else []),
        *filter(None, [shutil.which(name)]),
        *map(str, sorted(pyenv.glob(f"versions/{minor}*/bin/{name}"))),
    ]
    return next(filter(_runs, candidates), None)


def _runs(python: str) -> bool:
    """Whether it is there; pyenv puts commands on the PATH that only say it is not."""
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    main()
