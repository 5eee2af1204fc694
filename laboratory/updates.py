"""Updates: as training returns them, as they arrive, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from laboratory.errors import BadArgument
from laboratory.models import Arrays


@dataclass(frozen=True)
class Update:
    """What training returns if there is more to say than the weights.

    Parameters
    ----------
    weights : Any
        The model after training.
    num_examples : int
        How many examples it was trained on.
    num_steps : int, optional
        Steps of local training, for ``normalized_mean``.
    metrics : mapping of str to float
        Recorded in the history.
    """

    weights: Any
    num_examples: int = 1
    num_steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Submitted:
    """An update that arrived.

    Parameters
    ----------
    client : int
        The client's position.
    arrays : dict of str to array
    num_examples : int
    num_steps : int, optional
    base : str, optional
        The location of the weights that it was trained from.
    base_number : int
        The number of that aggregate; 0 for the initial weights.
    metrics : mapping of str to float
        What training reported.
    """

    client: int
    arrays: Arrays
    num_examples: int
    num_steps: int | None
    base: str | None
    base_number: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What became of the updates of a round; the keys are the clients' positions.

    Parameters
    ----------
    weights : dict of int to float
        The scaling factors of the updates that the rule combined.
    norms : dict of int to float
        Of all updates that the rule considered.
    contributions : dict of int to float
        The cosines of their differences and the aggregate's.
    rejected : dict of int to str
        The reasons.
    rounds_late : dict of int to int
        How many aggregates were published since the one that each update was trained from.
    """

    weights: dict[int, float] = field(default_factory=dict)
    norms: dict[int, float] = field(default_factory=dict)
    contributions: dict[int, float] = field(default_factory=dict)
    rejected: dict[int, str] = field(default_factory=dict)
    rounds_late: dict[int, int] = field(default_factory=dict)


def as_update(returned: Any) -> Update:
    """Return what training returned as an update: ``weights``, ``(weights, num_examples)`` or an `Update`.

    Raises
    ------
    BadArgument
        If a number is not valid.
    """
    if (
        isinstance(returned, tuple)
        and len(returned) == 2
        and not hasattr(returned, "_fields")
        and isinstance(returned[1], Integral)
    ):
        returned = Update(*returned)
    update = returned if isinstance(returned, Update) else Update(returned)
    return Update(
        weights=update.weights,
        num_examples=_count("num_examples", update.num_examples),
        num_steps=None if update.num_steps is None else _count("num_steps", update.num_steps),
        metrics=as_metrics(update.metrics, "the metrics of an update"),
    )


def as_metrics(returned: Any, what: str) -> dict[str, float]:
    """Return metrics by name; a single number is called ``score``.

    Raises
    ------
    BadArgument
        If they are neither a number nor a mapping of names to numbers.
    """
    named = returned if isinstance(returned, Mapping) else {"score": returned}
    for name, value in named.items():
        if not isinstance(name, str) or not isinstance(value, Real):
            raise BadArgument(f"{what} must be a number, or numbers by name; got {returned!r:.80}")
    return {name: float(value) for name, value in named.items()}


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise BadArgument(f"{name} must be a whole number, at least 1; got {value!r:.80}")
    return int(value)
