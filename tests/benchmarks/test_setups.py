"""The set-ups of the learning benchmark."""

from __future__ import annotations

from benchmarks.learning.setups import OURS


def test_every_setup_has_a_name_of_its_own() -> None:
    """The names, which the table shows, differ."""
    assert len({setup.name for setup in OURS}) == len(OURS)
