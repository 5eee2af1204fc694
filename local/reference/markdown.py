"""Markdown, as the pages that are written have it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs"

#: Why nobody should edit them.
NOTICE = "<!-- Written by `make reference`: edit what it is written from. -->"


def page(title: str, *paragraphs: str) -> str:
    """A page of Markdown."""
    return "\n\n".join([f"# {title}", NOTICE, *(each.strip("\n") for each in paragraphs)]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(each) for each in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """Text as code."""
    return f"`{text}`"
