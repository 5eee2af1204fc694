"""The description of arguments: their bounds are those that are checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from aggregation.arguments import number, whole_number
from aggregation.description import Argument, arguments_of, describe
from aggregation.errors import RuleError
from aggregation.optimizers import known_optimizers
from aggregation.pre_aggregation import known_pre_aggregations
from aggregation.requirements import known_requirements
from aggregation.rules import known_rules
from aggregation.staleness import known_discounts

KINDS: dict[str, type[Any]] = {
    **known_rules(),
    **known_optimizers(),
    **known_pre_aggregations(),
    **known_requirements(),
    **known_discounts(),
}

MOST = 7


@dataclass(frozen=True)
class Example:
    """Something with arguments.

    More about it.

    Parameters
    ----------
    count : int
        How many, `1` or more,
        in all.
    share : float
        A share.
    name : str
        What it is called.
    """

    count: int
    share: float = 0.5
    name: str = ""

    def __post_init__(self) -> None:
        whole_number("count", self.count, at_least=1)
        number("count", self.count, at_most=2**11)
        number("share", self.share, above=0, below=MOST)


def arguments() -> Iterator[tuple[str, Argument]]:
    """Yield each argument of everything that is known."""
    for name, kind in KINDS.items():
        for each in arguments_of(kind):
            yield name, each


def test_an_argument_is_described() -> None:
    """Its type, default, bounds, also of constants and expressions, and meaning are found."""
    count, share, name = arguments_of(Example)
    assert describe(Example) == "Something with arguments.\n\nMore about it."
    assert (count.is_whole, count.is_required, count.default) == (True, True, None)
    assert count.limits == {"at_least": 1, "at_most": 2048}
    assert count.bounds == "at least 1, at most 2,048"
    assert count.meaning == "How many, `1` or more, in all."
    assert (share.bounds, share.default) == ("above 0, below 7", 0.5)
    assert (name.noun, name.parse("a")) == ("text", "a")


@pytest.mark.parametrize("typed", ["0", "2049", "1.5", "one", ""])
def test_what_is_out_of_bounds_is_refused(typed: str) -> None:
    """The message names the argument."""
    count = arguments_of(Example)[0]
    assert count.parse("8") == 8
    with pytest.raises(RuleError, match="count must be a"):
        count.parse(typed)


@pytest.mark.parametrize(("name", "argument"), list(arguments()))
def test_bounds_are_those_that_are_checked(name: str, argument: Argument) -> None:
    """A value at an exclusive bound, or beyond another, is refused by the form and by the class."""
    others = {each.name: 1 for each in arguments_of(KINDS[name]) if each.is_required}
    for bound, limit in argument.limits.items():
        step = {"at_least": -1, "at_most": 1}.get(bound, 0)
        outside = type(limit)(limit + step)
        with pytest.raises(RuleError, match=argument.name):
            argument.parse(str(outside))
        with pytest.raises(RuleError, match=argument.name):
            KINDS[name](**{**others, argument.name: outside})
    assert argument.limits
    assert argument.meaning
