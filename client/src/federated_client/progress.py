"""Progress bars, which are silent without a terminal and without tqdm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .storage import Progress


@contextmanager
def progress_bar(label: str) -> Iterator[Progress | None]:
    """Yield what draws a bar of bytes on standard error; None if there is nothing to draw on."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    if not sys.stderr.isatty():
        yield None
        return
    with tqdm(desc=label, unit="B", unit_scale=True, unit_divisor=1024, leave=False) as bar:

        def draw(sent: int, size: int) -> None:
            bar.total = size
            bar.update(sent - bar.n)

        yield draw
