"""The arguments of `Client`, checked where they are given."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import BinaryIO

from . import limits
from ._core.formats import COMPRESSIONS
from .errors import BadArgument, BadWeights


def checked_model_id(value: object) -> int:
    """Return a model's id."""
    try:
        number = 0 if isinstance(value, bool) else int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        number = 0
    if number < 1 or (not isinstance(value, str) and number != value):
        raise BadArgument(f"model_id is {value!r}, expected a whole number from 1")
    return int(number)


def checked_client_id(value: object) -> uuid.UUID:
    """Return a client's id."""
    try:
        return uuid.UUID(str(value))
    except ValueError as error:
        raise BadArgument(
            f"client_id is {value!r}, expected a UUID such as 11111111-1111-4111-8111-000000000001: "
            "the operator knows yours"
        ) from error


def checked_count(value: object, name: str = "num_examples") -> int:
    """Return a count, if the aggregator accepts it."""
    try:
        whole = None if isinstance(value, bool) else int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        whole = None
    if whole is None or whole != value or not 1 <= whole <= limits.MAX_NUM_EXAMPLES:
        raise BadWeights(
            f"{name} is {value!r}, expected a whole number from 1 to {limits.MAX_NUM_EXAMPLES}"
        )
    return int(whole)


def stated_counts(num_examples: object, num_steps: object) -> dict[str, int]:
    """Return the numbers that the metadata of an update states, checked, by name."""
    stated = {"num-examples": checked_count(num_examples)}
    if num_steps is not None:
        stated["num-steps"] = checked_count(num_steps, "num_steps")
    return stated


def checked_compression(value: str | None) -> str:
    """Return the name of a compression; empty for none."""
    if value is not None and value not in COMPRESSIONS:
        raise BadArgument(f"compression is {value!r}, expected one of {', '.join(COMPRESSIONS)}")
    return value or ""


def checked_target(path: str | Path, key: str) -> Path:
    """Return the path for the weights of an object; one without a suffix gets that of their format."""
    target, suffix = Path(path), Path(key).suffix
    if target.suffix.lower() == suffix:
        return target
    if target.suffix:
        raise BadArgument(
            f"the weights are {suffix[1:]}, which the suffix of {target.name!r} is not: name the file "
            f"{target.stem + suffix!r}, or {target.stem!r} to have the suffix added"
        )
    return target.with_suffix(suffix)


def open_file(path: str | Path) -> BinaryIO:
    """Open a file of weights."""
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise BadWeights(f"{path} cannot be read: {error.strerror}") from error
