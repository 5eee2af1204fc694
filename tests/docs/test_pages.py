"""The code blocks of the tutorial and the guides are executed, in a folder that looks like a clone."""

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

EXECUTED = (
    "tutorial",
    "tutorial-part-two",
    "how-to/choose-a-rule",
    "how-to/choose-an-optimizer",
    "how-to/simulate",
    "how-to/write-a-rule",
    "how-to/audit",
)

#: Folders that the steps create, or that are not part of a clone.
NOT_CLONED = {"mine", "run", "site"}

#: Where the files of a page are saved, if it is not the clone.
FOLDERS = {"tutorial-part-two": "../hospital"}

TIMEOUT_SECONDS = 180

#: `make` prints its commands without running them; tests/local/test_demo.py runs them.
DRY_RUN = {"MAKEFLAGS": "n"}

#: Patterns whose matches differ between runs, with their replacements.
VOLATILE = {
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?": "<time>",
    r"(?<=<time>)\s+\d+(\.\d+)?(?=\s)": " <seconds>",
    r"\d+\.\d{3,}": "<seconds>",
    r"(?<=enrolled as )[-0-9a-f]{36}": "<client>",
    r"(?<=the secret is in )\S+": "<profile>",
    r"(?<=sent as )\S+": "<key>",
    r"─{2,}": "",  # The line below the head of a table, in a terminal.
    r"\s+": " ",
}


class Shell:
    """A bash process that runs one block at a time."""

    def __init__(self, folder: Path) -> None:
        clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._process = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env={**clean, **DRY_RUN, "SHELL": "bash", "COLUMNS": "120", "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._timeout = threading.Timer(TIMEOUT_SECONDS, self._process.kill)
        self._timeout.start()

    def type(self, block: str) -> str:
        """Run a block and return its output; its last command must succeed."""
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
        pytest.fail(f"the shell has exited: {printed}")

    def close(self) -> None:
        self._timeout.cancel()
        with self._process:
            pass  # Leaving the context closes the pipes, and the shell exits.


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with the content of this repository; files created there stay there."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in NOT_CLONED and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    for name in (
        "aggregation",
        "client",
    ):  # One page adds a file there, another one builds a wheel.
        (folder / name).unlink()
        shutil.copytree(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture
def shell(clone: Path) -> Iterator[Shell]:
    shell = Shell(clone)
    yield shell
    shell.close()


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Yield the language and the text of each code block of a page."""
    for token in MarkdownIt().parse((DOCS / f"{page}.md").read_text()):
        if token.type == "fence":
            yield token.info, token.content


def comparable(text: str) -> list[str]:
    """Return the lines without volatile parts, sorted because two clients print concurrently."""
    lines = []
    for line in text.splitlines():
        for pattern, replacement in VOLATILE.items():
            line = re.sub(pattern, replacement, line)
        lines.append(line.strip())
    return sorted(line for line in lines if line)


@pytest.mark.parametrize("page", EXECUTED)
def test_blocks_of_the_page_print_what_it_shows(page: str, clone: Path, shell: Shell) -> None:
    """Each block runs, or is saved under the name in its first line, and prints what the page shows.

    Blocks of the language `console` show another machine and are not run; the tutorials have none.
    """
    printed = ""
    for language, text in blocks(page):
        match language:
            case "sh":
                printed = shell.type(text)
            case "python":
                (name,) = re.findall(r"\A# ([\w/]+\.py)\n", text)
                (clone / FOLDERS.get(page, ".") / name).write_text(text)
            case "text":
                assert comparable(printed) == comparable(text)
            case "console" if not page.startswith("tutorial"):
                pass
            case _:
                pytest.fail(f"a block of language {language!r} would not be executed")


def test_the_claims_of_the_threat_model_have_tests() -> None:
    """Each test that docs/security.md names exists."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text()))
    sources = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = {
        name for text in sources for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)
    }
    assert named
    assert named <= defined
