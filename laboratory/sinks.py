"""Where a simulated round stores its result."""

from __future__ import annotations

from typing import Any

from aggregation.engine.output import MemorySink


class LaboratorySink(MemorySink):
    """A result in memory, with a name."""

    def __init__(self, location: str) -> None:
        super().__init__()
        self.location = location

    def begin(self) -> dict[str, Any]:
        return {}

    def stored_parts(self) -> set[int]:
        return set(range(1, len(self._parts) + 1))
