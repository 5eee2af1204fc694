"""Requirements: when a round may start, and what is refused when a model is saved."""

from __future__ import annotations

import math
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.errors import RuleError
from aggregation.requirements import (
    Readiness,
    create_requirement,
    known_requirements,
    positional_arguments,
)


def unmet(name: str | None, arguments: Any, members: int, ready: int, minutes: float = 0) -> Any:
    waited = timedelta(minutes=minutes)
    readiness = Readiness(members=members, ready=ready, waited=waited)
    return create_requirement(name, arguments).unmet(readiness)


EVERY: list[tuple[str | None, Any]] = [
    (None, None),
    ("", []),
    ("all_clients", None),
    ("require_x_updates", [2]),
    ("require_fraction", [0.5]),
    ("quorum", [2, 10]),
]


def test_every_requirement_is_tested() -> None:
    """The names a model may give are these."""
    assert known_requirements() == [name for name, _ in EVERY if name]


@pytest.mark.parametrize(("name", "arguments"), EVERY)
@pytest.mark.parametrize("members", [0, 1, 3])
def test_no_round_starts_without_an_update(name: str | None, arguments: Any, members: int) -> None:
    """Whatever the requirement, and were there no clients at all."""
    assert unmet(name, arguments, members=members, ready=0, minutes=60)


@pytest.mark.parametrize(("name", "arguments"), EVERY)
@given(members=st.integers(1, 50), data=st.data())
def test_more_clients_never_hurt(name: str | None, arguments: Any, members: int, data: Any) -> None:
    """A requirement that is met stays met when another client becomes ready, or more time passes."""
    ready = data.draw(st.integers(1, members))
    minutes = data.draw(st.integers(0, 30))
    if unmet(name, arguments, members, ready, minutes) is None:
        assert unmet(name, arguments, members, ready + 1, minutes) is None
        assert unmet(name, arguments, members, ready, minutes + 1) is None


@pytest.mark.parametrize(
    ("name", "arguments", "members", "enough"),
    [
        (None, None, 5, 1),
        ("all_clients", None, 5, 5),
        ("all_clients", [], 1, 1),
        ("require_x_updates", [3], 5, 3),
        ("require_x_updates", {"x": 3}, 2, 3),
        ("require_fraction", [0.5], 5, 3),
        ("require_fraction", {"f": 0.5}, 4, 2),
        ("require_fraction", [1], 4, 4),
        ("require_fraction", [1.0], 4, 4),
        ("require_fraction", [0.001], 4, 1),
        ("quorum", [2, 10], 5, 5),
        ("quorum", {"after_minutes": 0, "x": 2}, 5, 2),
    ],
)
def test_so_many_clients_are_enough(
    name: str | None, arguments: Any, members: int, enough: int
) -> None:
    """One less is too few, and the answer says of how many."""
    assert unmet(name, arguments, members, enough) is None
    if enough > 1:
        reason = unmet(name, arguments, members, enough - 1)
        assert reason == f"{enough - 1} of {enough} clients ready ({name})"


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_fraction_is_exact(part: int, members: int) -> None:
    """7 of 10 are 0.7 of them, whatever floating point makes of it."""
    part = min(part, members)
    f = part / members
    needed = math.ceil(Fraction(part, members) * members) if f < 1 else members
    assert create_requirement("require_fraction", [f]).needed(
        Readiness(members=members, ready=0)
    ) == max(needed, 1)


@pytest.mark.parametrize(
    ("ready", "minutes", "met"),
    [(5, 0, True), (4, 9.99, False), (2, 10, True), (1, 1000, False), (4, 10.01, True)],
)
def test_a_quorum_waits_for_all_and_then_for_some(ready: int, minutes: float, met: bool) -> None:
    """All clients at any time; some once the oldest update has waited; fewer never."""
    assert (unmet("quorum", [2, 10], 5, ready, minutes) is None) is met


def test_a_quorum_larger_than_the_model_is_all_of_it() -> None:
    """When clients leave, those that remain are enough, in the end."""
    assert unmet("quorum", [5, 10], 3, 3, minutes=10) is None
    assert unmet("quorum", [5, 10], 3, 2, minutes=10) == "2 of 3 clients ready (quorum)"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nope", None, "unknown requirement 'nope'; known are all_clients, require_x_updates"),
        ("All_Clients", None, "unknown requirement"),
        ("all_clients", [3], "takes 0 argument"),
        ("all_clients", {"x": 3}, "takes no arguments"),
        ("", [3], "a model without a requirement takes 0 argument"),
        ("require_x_updates", None, "takes the arguments x"),
        ("require_x_updates", [], "takes the arguments x"),
        ("require_x_updates", [1, 2], "takes 1 argument"),
        ("require_x_updates", {"y": 1}, "takes the arguments x"),
        ("require_x_updates", 3, "takes 1 argument"),
        ("require_x_updates", "3", "takes 1 argument"),
        ("require_x_updates", [0], "at least 1; got 0"),
        ("require_x_updates", [-1], "at least 1"),
        ("require_x_updates", [1.0], "whole number"),
        ("require_x_updates", ["3"], "whole number"),
        ("require_x_updates", [True], "whole number"),
        ("require_x_updates", [None], "whole number"),
        ("require_fraction", [0], "above 0"),
        ("require_fraction", [-0.5], "above 0"),
        ("require_fraction", [1.1], "below 1"),
        ("require_fraction", [math.nan], "must be a number"),
        ("require_fraction", ["0.5"], "must be a number"),
        ("require_fraction", [10**400], "below 1"),
        ("quorum", [2], "takes the arguments x, after_minutes"),
        ("quorum", [0, 5], "at least 1"),
        ("quorum", [2, -1], "above 0"),
        ("quorum", [2, math.inf], "must be a number"),
        ("quorum", [2, None], "must be a number"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, arguments: Any, message: str) -> None:
    """An unknown name, or an argument that is missing, unknown or out of range, is named."""
    with pytest.raises(RuleError) as refused:
        create_requirement(name, arguments)
    assert message in str(refused.value)


@pytest.mark.parametrize("minutes", [10**400, 1e300, 10**15])
def test_a_quorum_waits_no_longer_than_time_can_be_told(minutes: Any) -> None:
    """Minutes that no time has are refused when the model is saved, not when a round runs."""
    with pytest.raises(RuleError, match="after_minutes"):
        create_requirement("quorum", [2, minutes])


@pytest.mark.parametrize(("name", "arguments"), EVERY)
def test_positional_arguments_make_the_same_requirement(name: str | None, arguments: Any) -> None:
    """What a workflow splats is what the model was given, in order."""
    requirement = create_requirement(name, arguments)
    assert create_requirement(name, positional_arguments(requirement)) == requirement
    assert positional_arguments(requirement) == list(arguments or [])
