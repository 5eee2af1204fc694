"""When a requirement lets a round start, and which requirements are refused."""

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
    """The cases of these tests cover every requirement."""
    assert [*known_requirements()] == [name for name, _ in EVERY if name]


@pytest.mark.parametrize(("name", "arguments"), EVERY)
@pytest.mark.parametrize("members", [0, 1, 3])
def test_no_round_starts_without_an_update(name: str | None, arguments: Any, members: int) -> None:
    """No requirement lets a round start without an update, even if the model has no clients."""
    assert unmet(name, arguments, members=members, ready=0, minutes=60)


@pytest.mark.parametrize(("name", "arguments"), EVERY)
@given(members=st.integers(1, 50), data=st.data())
def test_a_met_requirement_stays_met(
    name: str | None, arguments: Any, members: int, data: Any
) -> None:
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
def test_the_needed_number_of_clients_is_exact(
    name: str | None, arguments: Any, members: int, enough: int
) -> None:
    """The requirement is met by exactly this many clients, and its reason states both numbers."""
    assert unmet(name, arguments, members, enough) is None
    if enough > 1:
        reason = unmet(name, arguments, members, enough - 1)
        assert reason == f"{enough - 1} of {enough} clients ready ({name})"


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_fraction_is_exact(part: int, members: int) -> None:
    """A fraction part/members requires exactly ``part`` clients, despite rounding in float64."""
    part = min(part, members)
    f = part / members
    needed = math.ceil(Fraction(part, members) * members) if f < 1 else members
    assert create_requirement("require_fraction", [f]).needed(
        Readiness(members=members, ready=0)
    ) == max(needed, 1)


@pytest.mark.parametrize(
    ("f", "members", "needed"), [(0.7, 10, 7), (0.07, 100, 7), (0.071, 100, 8)]
)
def test_a_rounded_product_requires_no_extra_client(f: float, members: int, needed: int) -> None:
    """0.07 * 100 is 7.000000000000001 in float64, and still requires seven clients."""
    readiness = Readiness(members=members, ready=0)
    assert create_requirement("require_fraction", [f]).needed(readiness) == needed


@pytest.mark.parametrize(
    ("ready", "minutes", "met"),
    [(5, 0, True), (4, 9.99, False), (2, 10, True), (1, 1000, False), (4, 10.01, True)],
)
def test_a_quorum_waits_for_all_and_then_for_some(ready: int, minutes: float, met: bool) -> None:
    """A quorum needs all clients, or x once the oldest update has waited; fewer are never enough."""
    assert (unmet("quorum", [2, 10], 5, ready, minutes) is None) is met


def test_a_quorum_larger_than_the_model_is_all_of_it() -> None:
    """If fewer than x clients remain in the model, all of them are enough after the wait."""
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
        ("require_fraction", [1.1], "at most 1"),
        ("require_fraction", [math.nan], "must be a finite number"),
        ("require_fraction", ["0.5"], "must be a finite number"),
        ("require_fraction", [10**400], "at most 1"),
        ("quorum", [2], "takes the arguments x, after_minutes"),
        ("quorum", [0, 5], "at least 1"),
        ("quorum", [2, -1], "at least 0"),
        ("quorum", [2, math.inf], "must be a finite number"),
        ("quorum", [2, None], "must be a finite number"),
    ],
)
def test_invalid_requirements_are_refused(name: str, arguments: Any, message: str) -> None:
    """The error names an unknown requirement, or the argument that does not fit."""
    with pytest.raises(RuleError) as refused:
        create_requirement(name, arguments)
    assert message in str(refused.value)


@pytest.mark.parametrize("minutes", [10**400, 1e300, 10**15])
def test_a_quorum_refuses_a_wait_that_is_too_long(minutes: Any) -> None:
    """More minutes than a `timedelta` holds are refused when the model is saved."""
    with pytest.raises(RuleError, match="after_minutes"):
        create_requirement("quorum", [2, minutes])


@pytest.mark.parametrize(("name", "arguments"), EVERY)
def test_positional_arguments_make_the_same_requirement(name: str | None, arguments: Any) -> None:
    """A requirement made from its positional arguments is equal to the original."""
    requirement = create_requirement(name, arguments)
    assert create_requirement(name, positional_arguments(requirement)) == requirement
    assert positional_arguments(requirement) == list(arguments or [])
