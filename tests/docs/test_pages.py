"""Pages do what they say: their blocks are typed into a shell, in a folder that looks like a clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

FOLLOWED = ("tutorial", "how-to/choose-a-rule", "how-to/write-a-rule", "how-to/audit")

#: What the pages' own steps make, and what is none of a clone's.
NOT_CLONED = {"mine", "run", "site"}

PATIENCE_SECONDS = 180

#: `make` tells what it would do; tests/local/test_demo.py does it.
DRY = {"MAKEFLAGS": "n"}

#: What differs from run to run.
VOLATILE = {
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d": "<time>",
    r"\d+\.\d{3,}": "<seconds>",
    r"─{2,}": "",  # Below the heads of a table, where there is a terminal.
    r"\s+": " ",
}


class Shell:
    """A bash that is typed into, a block at a time."""

    def __init__(self, folder: Path) -> None:
        clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._process = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env={**clean, **DRY, "SHELL": "bash", "COLUMNS": "120", "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._impatience = threading.Timer(PATIENCE_SECONDS, self._process.kill)
        self._impatience.start()

    def type(self, block: str) -> str:
        """What the block prints; the last of its commands must succeed."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{block}\necho end of block $?\n")
        self._process.stdin.flush()
        printed = ""
        for line in self._process.stdout:
            if line.startswith("end of block "):
                assert line == "end of block 0\n", printed
                return printed
            printed += line
        pytest.fail(f"the shell has ended: {printed}")

    def close(self) -> None:
        self._impatience.cancel()
        with self._process:
            pass  # Its pipes are closed, and it ends.


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder in which everything is as in this one, and what is made there stays there."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in NOT_CLONED and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    (folder / "aggregation").unlink()  # A page adds a file to it.
    shutil.copytree(ROOT / "aggregation", folder / "aggregation")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture
def shell(clone: Path) -> Iterator[Shell]:
    shell = Shell(clone)
    yield shell
    shell.close()


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and text of a page's code blocks."""
    for token in MarkdownIt().parse((DOCS / f"{page}.md").read_text()):
        if token.type == "fence":
            yield token.info, token.content


def comparable(text: str) -> list[str]:
    """Lines without what differs from run to run; in no order, since two clients run side by side."""
    lines = []
    for line in text.splitlines():
        for pattern, stands_for in VOLATILE.items():
            line = re.sub(pattern, stands_for, line)
        lines.append(line.strip())
    return sorted(line for line in lines if line)


@pytest.mark.parametrize("page", FOLLOWED)
def test_the_page_is_followed_from_top_to_bottom(page: str, clone: Path, shell: Shell) -> None:
    """Each block is run, or saved under the name in its first line, and prints what the page shows.

    Only what is marked as seen on somebody else's console is not run; the tutorial has none of it.
    """
    printed = ""
    for language, text in blocks(page):
        match language:
            case "sh":
                printed = shell.type(text)
            case "python":
                (name,) = re.findall(r"\A# ([\w/]+\.py)\n", text)
                (clone / name).write_text(text)
            case "text":
                assert comparable(printed) == comparable(text)
            case "console" if page != "tutorial":
                pass
            case _:
                pytest.fail(f"a block of {language!r}: nothing would run it")
