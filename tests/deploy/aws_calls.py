"""A pytest plugin: records the function's AWS calls, and fails a test in which one is not allowed.

Which code calls is read off the stack: a call is the function's if the nearest frame of this project is
in what is deployed, and the test's own if it is in the tests or in the embedded cloud. An operator's
command calls with the operator's permissions. Calls in a process that a test starts are not seen.

The suite runs in several processes: where AWS_CALLS names a file, each adds what it has seen to it, and a
run of the last test alone reads what all of them have.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from botocore import handlers
from django.conf import settings

from tests.deploy.policy import Need, Place, UnknownCall, allowed, needs, permits
from tests.deploy.stack import ROOT, template

#: What goes into the zip.
DEPLOYED = {"lambda_handler.py", "settings.py", "aggregation", "connectors", "models_app"}

#: The last test of a whole run: only then is known what nothing used.
LAST = "test_nothing_is_allowed_that_nothing_uses"


class Recorder:
    """The needs of the function's calls: of this test, and of all until now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.latest: list[Need] = []
        self.unknown: list[str] = []
        self.used: set[Need] = set()
        self._file = Path(os.environ["AWS_CALLS"]) if "AWS_CALLS" in os.environ else None
        if self._file and self._file.exists():
            lines = self._file.read_text().splitlines()
            self.used = {Need(*json.loads(line)) for line in lines}

    def record(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        """Called by botocore before each request."""
        if not _by_the_function():
            return
        operation = f"{model.service_model.service_name}.{model.name}"
        place = Place(
            bucket=settings.BUCKET, queue_url=settings.QUEUE_URL, event_bus=settings.EVENT_BUS
        )
        with self._lock:
            try:
                found = needs(operation, params, place)
            except UnknownCall:
                self.unknown.append(operation)
            else:
                self.latest += found
                self._keep(set(found) - self.used)

    def _keep(self, new: set[Need]) -> None:
        self.used |= new
        if self._file and new:
            with self._file.open("a") as file:
                file.writelines(json.dumps(astuple(need)) + "\n" for need in new)

    def forget(self) -> None:
        """Begin a test."""
        with self._lock:
            self.latest, self.unknown = [], []


def _by_the_function() -> bool:
    frame: FrameType | None = sys._getframe(2)
    nearest = ""
    while frame:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / ".venv"):
            parts = path.relative_to(ROOT).parts
            if "commands" in parts:
                return False
            nearest = nearest or parts[0]
        frame = frame.f_back
    return nearest in DEPLOYED


recorder = Recorder()
# Every session of botocore that is made from now on calls it.
handlers.BUILTIN_HANDLERS.append(("provide-client-params", recorder.record))  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def only_allowed_calls() -> Iterator[None]:
    """Fail a test in which the function makes a call that its role does not allow."""
    recorder.forget()
    yield
    grants = allowed(template(), "AggregatorRole")
    refused = [one for one in recorder.latest if not any(permits(grant, one) for grant in grants)]
    assert not refused, f"calls that AggregatorRole in template.yaml does not allow: {set(refused)}"
    assert not recorder.unknown, f"calls to add to tests/deploy/policy.py: {set(recorder.unknown)}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the last test last; in a part of the suite, which proves nothing about it, not at all."""
    last = [item for item in items if item.name == LAST]
    items[:] = [item for item in items if item.name != LAST]
    alone = [argument.rsplit("::", 1)[-1] for argument in config.args] == [LAST]
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    in_one = whole and not config.option.keyword and "PYTEST_XDIST_WORKER" not in os.environ
    if alone or in_one:
        items += last
