"""Pages and commands cost the same beside few updates and beside many."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from benchmarks.scale.__main__ import MAX_PARAMETERS, costs

#: Above the page size, and above the number of rounds that are drawn.
ROUNDS = 65
FEW, MANY = 100, 500

#: Rows of a page that searches: names and ids of clients are looked up first, of which there are a few
#: hundred at most.
MAX_FOUND = 500

Costs = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def measured(postgres: Any) -> tuple[Costs, Costs]:
    """The costs beside 6,500 and beside 32,500 updates, by the name of the page or command."""
    found = []
    for clients in (FEW, MANY):
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE scale_{clients}")
        url = postgres.url.replace("/postgres?", f"/scale_{clients}?", 1)
        assert url != postgres.url
        found.append({each["name"]: each for each in costs(url, clients, ROUNDS)})
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE scale_{clients}")
    return found[0], found[1]


def test_the_number_of_statements_is_constant(measured: tuple[Costs, Costs]) -> None:
    """No page and no command takes more statements for more clients and updates."""
    few, many = measured
    assert len(few) > 100
    assert {name: each["statements"] for name, each in many.items()} == {
        name: each["statements"] for name, each in few.items()
    }


def test_the_rows_that_are_read_are_bounded(measured: tuple[Costs, Costs]) -> None:
    """Five times as many clients and updates do not make the database send more rows."""
    few, many = measured
    more = {
        name: (few[name]["rows"], each["rows"])
        for name, each in many.items()
        if each["rows"] > few[name]["rows"] + 5 and not searches(name)
    }
    assert more == {}
    assert max(each["rows"] for name, each in many.items() if searches(name)) < MAX_FOUND
    assert max(each["rows"] for each in many.values()) < 5000


def searches(name: str) -> bool:
    """Return whether a page looks for a text."""
    return "q=" in name or "term=" in name


def test_no_statement_has_many_parameters(measured: tuple[Costs, Costs]) -> None:
    """A statement has at most 1,000 parameters."""
    assert max(each["parameters"] for each in measured[1].values()) <= MAX_PARAMETERS


def test_pages_stay_small(measured: tuple[Costs, Costs]) -> None:
    """No page has more than 250 kB, that with the plots and their tables included."""
    assert max(each["size"] for each in measured[1].values()) < 250_000
