"""The client as a distribution: what its wheel contains, and that it works without this project."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "client"

PROGRAM = """
import sys
import numpy as np
import federated_client
from federated_client.weights import decode, encode

weights = {"scale": np.array(2.5, np.float32)}
decoded = decode(encode(weights).read(), "x.safetensors")
assert decoded["scale"].shape == (), decoded
loaded = {name.partition(".")[0] for name in sys.modules}
print(federated_client.__file__, *sorted(loaded & {"aggregation", "boto3", "connectors", "django"}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, CLIENT)
    (built,) = folder.glob("*.whl")
    return built


def pip(python: str | Path, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), *map(str, arguments)]
    options = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *options], check=True, capture_output=True, text=True)


def test_the_wheel_is_typed_and_contains_no_server_code(wheel: Path) -> None:
    """The wheel installs one package, with its type marker, and every file of it is the client's."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == {"federated_client"}
    assert "federated_client/py.typed" in names
    shared = {"__init__", "cache", "errors", "formats", "in_memory", "layout", "policies"}
    shared |= {"masks", "sources", "weights"}
    core = {name.split("/")[2].removesuffix(".py") for name in names if "/_core/" in name}
    assert core == shared


def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """The installed package needs what it declares and nothing else, neither boto3 nor this project."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip(python, "install", wheel)
    done = subprocess.run(
        [python, "-I", "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (installed,) = done.stdout.split()
    assert Path(installed).is_relative_to(tmp_path)
