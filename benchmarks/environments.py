"""Environments of their own for what the engine is compared with, or served by: their requirements
contradict this project's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def python_with(name: str) -> str:
    """The interpreter of the environment that ``requirements-<name>.txt`` describes; made if need be."""
    requirements = Path(__file__).with_name(f"requirements-{name}.txt")
    environment = Path(".venv") / f"benchmarks-{name}"
    python = environment / "bin" / "python"
    installed = environment / ".installed"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(requirements)], check=True)
        installed.write_text(requirements.read_text())
    return str(python)
