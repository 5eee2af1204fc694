"""Environments for what the engine is compared with or served by: their requirements contradict ours."""

from __future__ import annotations

from pathlib import Path

from tools.install import ROOT, install


def python_with(name: str) -> str:
    """Return the interpreter of the environment that ``requirements/bench-<name>.txt`` describes.

    The environment is created, or installed again, if the file has changed since.
    """
    requirements = ROOT / "requirements" / f"bench-{name}.txt"
    environment = Path(".venv") / f"benchmarks-{name}"
    installed = environment / ".installed"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        install(environment, [requirements])
        installed.write_text(requirements.read_text())
    return str(environment / "bin" / "python")
