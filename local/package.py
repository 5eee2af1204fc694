"""Build what is deployed: the code of the function and its dependencies, for Lambda's Linux.

`sam build` calls this through the Makefile. Docker is not needed, since every dependency has a wheel for
Lambda's Linux.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

#: The runtime in template.yaml.
PYTHON = "3.13"

#: Machine names of wheels by architectures of Lambda.
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}

#: Amazon Linux 2023 has glibc 2.34, newest first.
GLIBC_TAGS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")

#: The code that is deployed.
CODE = (
    "lambda_handler.py",
    "settings.py",
    "rds-global-bundle.pem",
    "aggregation",
    "connectors",
    "models_app",
)

#: The code of the mask keeper, and the packages that it needs beside those of Lambda's runtime.
KEEPER_CODE = (
    "aggregation/__init__.py",
    "aggregation/cache.py",
    "aggregation/errors.py",
    "aggregation/formats",
    "aggregation/layout.py",
    "aggregation/masks",
    "aggregation/policies.py",
    "aggregation/sources.py",
    "aggregation/weights.py",
    "mask_keeper",
)
KEEPER_PACKAGES = ("cffi", "cryptography", "ml-dtypes", "numpy", "pycparser")

#: Modules of the code that only a laptop uses: the command lines, aggregation of files and arrays in one
#: process, the admin with its forms, and the cost estimate, whose package is not deployed either.
NOT_DEPLOYED = (
    "aggregation/__main__.py",
    "aggregation/api.py",
    "aggregation/description.py",
    "aggregation/engine/comparison.py",
    "aggregation/explanation.py",
    "aggregation/file_round.py",
    "aggregation/in_memory.py",
    "connectors/management/command_line.py",
    "connectors/management/commands/estimate_cost.py",
    "models_app/admin",
    "models_app/console",
    "models_app/static",
    "models_app/templates",
    "models_app/urls.py",
)

#: Services that the code calls. botocore describes four hundred, in 120 MB.
SERVICES = {"events", "rds", "s3", "sqs", "stepfunctions"}

#: Their names in botocore's table of endpoints.
ENDPOINTS = SERVICES - {"stepfunctions"} | {"states"}

#: Files of libraries that the function never imports.
NOT_IMPORTED = ("**/tests", "**/locale/*/LC_MESSAGES", "bin", "**/__pycache__", "**/*.pyi")


def main() -> None:
    """Build into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", choices=MACHINES, default="arm64")
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--mask-keeper", action="store_true", help="build the mask keeper")
    arguments = parser.parse_args()
    chosen = build_mask_keeper if arguments.mask_keeper else build
    chosen(arguments.architecture, arguments.into)


def build(architecture: str, into: Path) -> None:
    """Build the content of the deployed zip.

    Parameters
    ----------
    architecture : str
        ``arm64`` or ``x86_64``.
    into : Path
        A folder; its other files are kept.
    """
    _install_dependencies(architecture, into, ROOT / "requirements.txt")
    _copy_code(CODE, into)
    _strip(into)
    _strip_descriptions(into / "botocore" / "data")
    _compile(into)


def build_mask_keeper(architecture: str, into: Path) -> None:
    """Build the content of the mask keeper's zip; the arguments are those of `build`."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as chosen:
        chosen.write(requirements_of(KEEPER_PACKAGES))
        chosen.flush()
        _install_dependencies(architecture, into, Path(chosen.name))
    _copy_code(KEEPER_CODE, into)
    _strip(into)
    _compile(into)


def requirements_of(packages: Iterable[str]) -> str:
    """Return the lines of requirements.txt, with their hashes, that lock some packages."""
    text = (ROOT / "requirements.txt").read_text()
    entries = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    return "".join(entry for entry in entries if entry.partition("==")[0] in packages)


def _copy_code(names: Iterable[str], into: Path) -> None:
    for name in names:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, into / name, dirs_exist_ok=True)
        else:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, into / name)


def _install_dependencies(architecture: str, into: Path, requirements: Path) -> None:
    platforms = [f"--platform={tag}_{MACHINES[architecture]}" for tag in GLIBC_TAGS]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-compile", "--no-deps", "--only-binary=:all:", "--implementation=cp"),
            *(f"--python-version={PYTHON}", *platforms),
            *("--requirement", str(requirements), "--target", str(into), "--upgrade"),
        ],
        check=True,
    )


def _strip(into: Path) -> None:
    for pattern in (*NOT_DEPLOYED, *NOT_IMPORTED):
        for path in sorted(into.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _strip_descriptions(data: Path) -> None:
    """Remove unused data of botocore, which every cold start parses to create a client."""
    for path in data.iterdir():
        if path.is_dir() and path.name not in SERVICES:
            shutil.rmtree(path)
    for packed in data.glob("*/*/service-2.json.gz"):
        described = json.loads(gzip.decompress(packed.read_bytes()))
        packed.with_suffix("").write_text(json.dumps(_without_documentation(described)))
        packed.unlink()
    endpoints = json.loads((data / "endpoints.json").read_text())
    for partition in endpoints["partitions"]:
        found = partition["services"].items()
        partition["services"] = {name: each for name, each in found if name in ENDPOINTS}
    (data / "endpoints.json").write_text(json.dumps(endpoints))


def _without_documentation(described: Any) -> Any:
    """Return the description of a service without documentation, which only `help` uses."""
    match described:
        case {"documentation": str(), **others}:
            return {
                **_without_documentation(others),
                "documentation": "",
            }  # botocore requires the key
        case dict():
            return {name: _without_documentation(each) for name, each in described.items()}
        case list():
            return [_without_documentation(each) for each in described]
        case _:
            return described


def _compile(into: Path) -> None:
    """Compile for the runtime: /var/task is read-only, so each cold start would compile everything.

    The byte code has unchecked hashes, since unpacking a zip changes the times of files.
    """
    python = interpreter(PYTHON)
    if python is None:
        print(f"Python {PYTHON} is not installed: nothing is compiled, and cold starts take longer")
        return
    subprocess.run(
        [
            *(python, "-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash"),
            *("-s", str(into), "-p", "/var/task", str(into)),
        ],
        check=True,
    )


def interpreter(minor: str) -> str | None:
    """Return a Python of this minor version: this one, one on the PATH, or one of pyenv.

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
    """Return whether a Python runs; pyenv has commands on the PATH that only report an error."""
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    main()
