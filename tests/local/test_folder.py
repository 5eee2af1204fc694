"""Tests of the folder of results: the last run is kept, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.errors import FolderUnusable
from local.folder import prepare_folder


def run_in(folder: Path, content: str) -> None:
    """Write what a run leaves."""
    (folder / "bucket" / "aggregates").mkdir(parents=True)
    for name in ("bucket/aggregates/1", "database.sqlite3", "function.log", "learning-curve.png"):
        (folder / name).write_text(content)


def test_first_run_finds_an_empty_folder(tmp_path: Path) -> None:
    """The folder is created, with the folders above it."""
    folder = tmp_path / "a" / "run"
    assert prepare_folder(folder) is None
    assert list(folder.iterdir()) == []


def test_results_of_the_last_run_are_kept(tmp_path: Path) -> None:
    """They move into a folder of their own, which has the results of one run only."""
    for content in ("first", "second"):
        run_in(tmp_path, content)
        assert prepare_folder(tmp_path) == tmp_path / "previous"
        assert [path.name for path in tmp_path.iterdir()] == ["previous"]
        kept = {path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
        assert kept == {content}


def test_files_of_the_user_are_left_alone(tmp_path: Path) -> None:
    """What no run writes stays where it is."""
    (tmp_path / "notes.txt").write_text("mine")
    run_in(tmp_path, "first")
    prepare_folder(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """The message has the path and the cause."""
    (tmp_path / "run").write_text("a file")
    with pytest.raises(FolderUnusable, match=r"cannot write to the folder .*run: File exists"):
        prepare_folder(tmp_path / "run")
