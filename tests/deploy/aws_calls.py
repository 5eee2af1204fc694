"""A pytest plugin that records the AWS calls of the functions and fails a test with a forbidden one.

The caller is found on the stack: a call belongs to a function if the nearest frame of this project is in
deployed code, and to the test if it is in the tests or in the embedded cloud. While the operators' function
or a worker runs, calls of all its threads belong to it; otherwise a command calls with the permissions of
the person who runs it. moto invokes functions for the state machine, from threads without a frame of this
project. Calls in a process that a test starts are not recorded.

The suite runs in several processes: if AWS_CALLS names a file, each process appends its records to it, and
a run of the last test alone reads all of them.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
from botocore import handlers
from django.conf import settings

from tests.deploy.policy import Need, Place, UnknownCall, allowed, needs, permits
from tests.deploy.stack import ROOT, template

#: What the zip contains.
DEPLOYED = {"lambda_handler.py", "settings.py", "aggregation", "connectors", "models_app"}

AGGREGATOR, OPERATOR, WORKER = "AggregatorRole", "MigrationRole", "WorkerRole"
API = "ApiRole"
STATE_MACHINE = "RoundRole"

#: Roles by the handlers of functions that are not the aggregating one.
HANDLERS = {"migrate": OPERATOR, "work": WORKER, "api": API}

#: The last test of a complete run: only then is it known what nothing used.
LAST = "test_nothing_is_allowed_that_nothing_uses"


class Use(NamedTuple):
    """A permission that a role needed."""

    role: str
    need: Need


class Recorder:
    """Records what the calls of the functions needed, in this test and so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.latest: list[Use] = []
        self.unknown: list[str] = []
        self.used: set[Use] = set()
        self._file = Path(os.environ["AWS_CALLS"]) if "AWS_CALLS" in os.environ else None
        if self._file and self._file.exists():
            lines = map(json.loads, self._file.read_text().splitlines())
            self.used = {Use(role, Need(*need)) for role, *need in lines}

    def record(self, params: dict[str, Any], model: Any, context: Any, **_: Any) -> None:
        """Record a request; botocore calls this before it sends or presigns one."""
        if not (context.get("is_presign_request") and model.name == "CreateBucket"):  # a post's
            self._add(f"{model.service_model.service_name}.{model.name}", params)

    def record_post(self, context: Any, **_: Any) -> None:
        """Record a presigned PUT or post, which has the permissions of its signer."""
        if "s3-presign-post-policy" in context:
            key = context["s3-presign-post-fields"]["key"]
            self._add("s3.PutObject", {"Bucket": settings.BUCKET, "Key": key})

    def _add(self, operation: str, params: dict[str, Any]) -> None:
        role = _caller(operation)
        if role is None:
            return
        with self._lock:
            try:
                found = [Use(role, need) for need in needs(operation, params, _place())]
            except UnknownCall:
                self.unknown.append(operation)
            else:
                self.latest += found
                self._keep(set(found) - self.used)

    def _keep(self, new: set[Use]) -> None:
        self.used |= new
        if self._file and new:
            lines = [json.dumps([role, need.action, need.resource]) for role, need in new]
            with self._file.open("a") as file:
                file.writelines(f"{line}\n" for line in lines)

    def forget(self) -> None:
        """Start a test."""
        with self._lock:
            self.latest, self.unknown = [], []


def _place() -> Place:
    """Return the names in the recorded calls; the dead-letter queue is that of the embedded cloud."""
    queue = settings.QUEUE_URL.rsplit("/", 1)[-1]
    dead_letters = f"{queue.removesuffix('-events')}-dead-letters"
    return Place(
        bucket=settings.BUCKET,
        queues={queue: "UploadQueue", dead_letters: "DeadLetterQueue"},
        event_bus=settings.EVENT_BUS,
        state_machine=settings.STATE_MACHINE_ARN,
    )


def _caller(operation: str) -> str | None:
    """Return the role of the current call; None if it does not belong to a function."""
    stack = list(_project_frames(sys._getframe(3)))
    nearest = stack[0][0] if stack else ""
    if role := _role_of_handler(stack):
        # A thread of the SDK has no frame of this project, but works for one that has.
        return role if nearest in DEPLOYED or not stack else None
    if operation == "lambda.Invoke":
        return None if stack else STATE_MACHINE
    typed = any("commands" in parts for parts in stack)
    return AGGREGATOR if nearest in DEPLOYED and not typed else None


def _role_of_handler(stack: list[tuple[str, ...]]) -> str | None:
    """Return the role of the handler that a stack, or that of the thread that started this one, is in."""
    inherited: str | None = getattr(threading.current_thread(), "started_by_role", None)
    found = (role for name, role in HANDLERS.items() if ("lambda_handler.py", name) in stack)
    return inherited or next(found, None)


_start_thread = threading.Thread.start


def _start_noting_role(thread: threading.Thread) -> None:
    # The frames of other running threads cannot be read safely, so that a thread notes this as it starts.
    stack = list(_project_frames(sys._getframe(1)))
    thread.started_by_role = _role_of_handler(stack)  # type: ignore[attr-defined]
    _start_thread(thread)


setattr(threading.Thread, "start", _start_noting_role)  # noqa: B010 (mypy refuses the assignment)


def _project_frames(frame: FrameType | None) -> Iterator[tuple[str, ...]]:
    """Yield path and function of each frame of the project, the nearest first."""
    while frame:
        parts = _in_project(frame.f_code.co_filename)
        if parts:
            yield (*parts, frame.f_code.co_name)
        frame = frame.f_back


@cache
def _in_project(filename: str) -> tuple[str, ...]:
    path = Path(filename)
    if not path.is_relative_to(ROOT) or path.is_relative_to(ROOT / ".venv"):
        return ()
    return path.relative_to(ROOT).parts


recorder = Recorder()
# Every session of botocore that is created from now on calls it.
handlers.BUILTIN_HANDLERS += [
    ("provide-client-params", recorder.record),
    ("choose-signer.s3.PutObject", recorder.record_post),
]


@cache
def grants_of(role: str) -> list[Need]:
    """Return what a role of the template allows the code."""
    return allowed(template(), role)


@pytest.fixture(autouse=True)
def only_allowed_calls() -> Iterator[None]:
    """Fail a test in which a function makes a call that its role forbids."""
    recorder.forget()
    yield
    refused = {
        use
        for use in recorder.latest
        if not any(permits(grant, use.need) for grant in grants_of(use.role))
    }
    assert not refused, f"calls that template.yaml forbids: {refused}"
    assert not recorder.unknown, f"calls to add to tests/deploy/policy.py: {set(recorder.unknown)}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the last test last, and only in a complete run."""
    last = [item for item in items if item.name == LAST]
    items[:] = [item for item in items if item.name != LAST]
    alone = [argument.rsplit("::", 1)[-1] for argument in config.args] == [LAST]
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    in_one = whole and not config.option.keyword and "PYTEST_XDIST_WORKER" not in os.environ
    if alone or in_one:
        items += last
