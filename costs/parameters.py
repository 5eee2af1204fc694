"""The parameters of `template.yaml` on which costs depend, as `sam deploy` takes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from costs.stack import Stack


def _within(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        expected = f"expected {low} to {high}"
        try:
            value = int(text)
        except ValueError:
            raise ValueError(expected) from None
        if not low <= value <= high:
            raise ValueError(expected)
        return value

    return parse


def _one_of(**values: Any) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if text not in values:
            raise ValueError(f"expected one of {', '.join(values)}")
        return values[text]

    return parse


#: The values that the template allows.
TIMEOUTS = {text: int(text) for text in ("60", "120", "300", "600", "900")}
MIN_CAPACITIES = {text: float(text) for text in ("0", "0.5", "1", "2", "4", "8", "16", "32", "64")}

_RATE = re.compile(r"rate\(([1-9][0-9]{0,5}) (minute|hour|day)s?\)")
_UNIT_HOURS = {"minute": 1 / 60, "hour": 1.0, "day": 24.0}


def _sweep_hours(text: str) -> float:
    match = _RATE.fullmatch(text.strip("'"))
    if not match:
        raise ValueError("expected a rate such as rate(6 hours)")
    return int(match[1]) * _UNIT_HOURS[match[2]]


_SWITCH = _one_of(on=True, off=False)

#: Fields of `Stack` and parsers, by parameter of the template.
PARAMETERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Architecture": ("architecture", _one_of(arm64="arm64", x86_64="x86_64")),
    "MemoryMb": ("memory_mb", _within(512, 10240)),
    "WorkerMemoryMb": ("worker_memory_mb", _within(512, 10240)),
    "TimeoutSeconds": ("timeout_seconds", _one_of(**TIMEOUTS)),
    "SnapStart": ("snap_start", _SWITCH),
    "Tracing": ("tracing", _SWITCH),
    "EventBus": ("event_bus", bool),
    "MaxFunctions": ("max_functions", _within(1, 1000)),
    "ClientStatus": ("client_status", _SWITCH),
    "Privacy": ("privacy", _SWITCH),
    "ReadThreads": ("read_threads", _within(1, 128)),
    "SweepSchedule": ("sweep_hours", _sweep_hours),
    "UpdateRetentionDays": ("update_retention_days", _within(7, 3650)),
    "EndpointZones": ("endpoint_zones", _within(0, 2)),
    "DatabaseMinCapacity": ("database_min_capacity", _one_of(**MIN_CAPACITIES)),
    "DatabasePauseSeconds": ("database_pause_seconds", _within(300, 86400)),
    "DatabaseProxy": ("database_proxy", _SWITCH),
}


def stack_with(parameters: Mapping[str, str], **fields: Any) -> Stack:
    """Return the stack that these parameters of the template create.

    Raises
    ------
    ValueError
        If a parameter is unknown, or has a value that the template refuses. The message names it.
    """
    for name, text in parameters.items():
        if name not in PARAMETERS:
            raise ValueError(
                f"costs do not depend on a parameter {name}; they depend on {', '.join(PARAMETERS)}"
            )
        field, parse = PARAMETERS[name]
        try:
            fields[field] = parse(text)
        except ValueError as error:
            raise ValueError(f"{name}={text}: {error}") from error
    stack = Stack(**fields)
    if stack.database_proxy and not stack.database_min_capacity:
        raise ValueError("DatabaseProxy holds connections open: set DatabaseMinCapacity above 0")
    return stack
