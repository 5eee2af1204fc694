"""Tests of the schedule that replaces EventBridge."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from local.schedule import Schedule, scheduled_event

EVENTS = Path(__file__).parents[2] / "events"


def test_event_has_the_form_of_a_schedule() -> None:
    """The event has the fields of a real one, and asks for a sweep or for one model."""
    real = json.loads((EVENTS / "schedule-sweep.json").read_text())
    event = scheduled_event("eu-central-1")
    assert event.keys() == real.keys()
    same = ("detail-type", "source", "version", "account", "region", "detail")
    assert {name: event[name] for name in same} == {name: real[name] for name in same}
    assert scheduled_event("eu-central-1", {"model_id": 3})["detail"] == {"model_id": 3}


def test_schedule_continues_after_an_error_until_closed() -> None:
    """A failed sweep does not end the schedule; closing it does."""
    ticks: list[Any] = []
    third = threading.Event()

    def function(event: Any) -> None:
        ticks.append(event)
        if len(ticks) == 1:
            raise RuntimeError("the first one fails")
        if len(ticks) == 3:
            third.set()

    with Schedule(function, every_seconds=0.01, region="eu-central-1"):
        assert third.wait(30)
    assert len({tick["id"] for tick in ticks}) == len(ticks)
    assert "schedule" not in {thread.name for thread in threading.enumerate()}
