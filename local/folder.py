"""The folder with the results of the demonstration, and those of the run before."""

from __future__ import annotations

import shutil
from pathlib import Path

from local.errors import FolderUnusable

#: What a run writes into its folder.
RESULTS = ("bucket", "database.*", "*.log", "learning-curve.png")

PREVIOUS = "previous"


def prepare_folder(folder: Path) -> Path | None:
    """Create the folder, and move the results of an earlier run aside.

    Returns
    -------
    Path or None
        The folder that the earlier results are in now; what was in it before is deleted. None if there
        were none.

    Raises
    ------
    FolderUnusable
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results = [path for pattern in RESULTS for path in folder.glob(pattern)]
        if not results:
            return None
        previous = folder / PREVIOUS
        if previous.exists():
            shutil.rmtree(previous)
        previous.mkdir()
        for path in results:
            path.rename(previous / path.name)
        return previous
    except OSError as error:
        raise FolderUnusable(f"cannot write to the folder {folder}: {error.strerror}") from error
