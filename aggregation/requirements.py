"""Requirements: when a round may start. A requirement counts clients, never uploads."""

from __future__ import annotations

import dataclasses
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from aggregation.arguments import instantiate, number, whole_number
from aggregation.errors import RuleError

#: A hundred years. A `timedelta` cannot hold more than a few million years.
MAX_MINUTES = 100 * 365 * 24 * 60


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """The facts on which a requirement decides.

    Parameters
    ----------
    members : int
        Clients of the federated model.
    ready : int
        Members that have an update that a round could use.
    waited : timedelta
        How long the oldest of those updates has been waiting.
    """

    members: int
    ready: int
    waited: timedelta = timedelta(0)


class Requirement(ABC):
    """The condition under which a round may start. Its fields are its arguments."""

    name: ClassVar[str]

    @abstractmethod
    def needed(self, readiness: Readiness) -> int:
        """Return how many clients must be ready."""

    @property
    def patience(self) -> timedelta | None:
        """How long the oldest update waits until fewer clients are enough; None if that never happens."""
        return None

    def unmet(self, readiness: Readiness) -> str | None:
        """Return why a round may not start, or None if it may. Every round needs an update."""
        needed = max(1, self.needed(readiness))
        if readiness.ready >= needed:
            return None
        return f"{readiness.ready} of {needed} clients ready ({self.name or 'no requirement'})"


@dataclass(frozen=True)
class AnyUpdate(Requirement):
    """No requirement: one ready client is enough."""

    name = ""

    def needed(self, readiness: Readiness) -> int:
        return 1


@dataclass(frozen=True)
class AllClients(Requirement):
    """Every client of the model is ready."""

    name = "all_clients"

    def needed(self, readiness: Readiness) -> int:
        return readiness.members


@dataclass(frozen=True)
class RequireXUpdates(Requirement):
    """``x`` clients are ready.

    Parameters
    ----------
    x : int
        Clients that must be ready.
    """

    x: int
    name = "require_x_updates"

    def __post_init__(self) -> None:
        whole_number("x", self.x, at_least=1)

    def needed(self, readiness: Readiness) -> int:
        return self.x


@dataclass(frozen=True)
class RequireFraction(Requirement):
    """At least the fraction ``f`` of the model's clients is ready, ``0 < f <= 1``.

    Parameters
    ----------
    f : float
        The fraction; 0.5 is half of the clients, rounded up.
    """

    f: float
    name = "require_fraction"

    def __post_init__(self) -> None:
        number("f", self.f, above=0, at_most=1)

    def needed(self, readiness: Readiness) -> int:
        # 0.07 * 100 is 7.000000000000001 in float64, and must not require an eighth client.
        return math.ceil(round(self.f * readiness.members, 9))


@dataclass(frozen=True)
class Quorum(Requirement):
    """All clients are ready, or ``x`` clients once the oldest update has waited ``after_minutes``.

    The scheduled sweep evaluates it again while no further updates arrive.

    Parameters
    ----------
    x : int
        Clients that suffice after the wait.
    after_minutes : float
        How long the oldest update waits for the other clients.
    """

    x: int
    after_minutes: float
    name = "quorum"

    def __post_init__(self) -> None:
        whole_number("x", self.x, at_least=1)
        number("after_minutes", self.after_minutes, at_least=0, below=MAX_MINUTES)

    @property
    def patience(self) -> timedelta:
        return timedelta(minutes=self.after_minutes)

    def needed(self, readiness: Readiness) -> int:
        if readiness.waited >= self.patience:
            return min(self.x, readiness.members)
        return readiness.members


_KNOWN: dict[str, type[Requirement]] = {
    kind.name: kind for kind in (AnyUpdate, AllClients, RequireXUpdates, RequireFraction, Quorum)
}


def known_requirements() -> dict[str, type[Requirement]]:
    """Return the requirements by name, without the empty name for none."""
    return {name: kind for name, kind in _KNOWN.items() if name}


def create_requirement(
    name: str | None, arguments: Sequence[Any] | Mapping[str, Any] | None = None
) -> Requirement:
    """Return the requirement of that name; without a name, one that any update meets.

    Parameters
    ----------
    name : str or None
    arguments : sequence or mapping, optional
        By position, as the system whose interface is taken over stores them, or by name.

    Raises
    ------
    RuleError
        If the name or an argument is unknown, missing or out of range.
    """
    kind = _KNOWN.get(name or "")
    if kind is None:
        raise RuleError(
            f"unknown requirement {name!r}; known are {', '.join(known_requirements())}"
        )
    display_name = name or "a model without a requirement"
    if not arguments:
        return instantiate(kind, display_name, {})
    if isinstance(arguments, Mapping):
        return instantiate(kind, display_name, arguments)
    names = list(inspect.signature(kind).parameters)
    if (
        not isinstance(arguments, Sequence)
        or isinstance(arguments, str)
        or len(arguments) > len(names)
    ):
        raise RuleError(f"{display_name} takes {len(names)} argument(s) {names}; got {arguments!r}")
    return instantiate(kind, display_name, dict(zip(names, arguments, strict=False)))


def positional_arguments(requirement: Requirement) -> list[Any]:
    """Return the arguments of a requirement in order, as third-party workflows pass them."""
    return list(dataclasses.astuple(requirement))  # type: ignore[call-overload]
