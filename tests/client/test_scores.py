"""What the client accepts as a score, the aggregator accepts, and the other way round."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from aggregation.errors import UpdateRejected
from aggregation.scores import MAX_VALUE
from connectors.intake.results import parse_results
from connectors.intake.scores import MAX_SCORE_BYTES
from connectors.intake.strict_json import MAX_DEPTH
from federated_client import BadScore, limits
from federated_client.scores import encode_score

NUMBERS = st.floats() | st.integers(-(10**400), 10**400)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(st.characters(codec=None), max_size=5), VALUES, max_size=3))
def test_client_and_aggregator_accept_the_same_scores(results: dict[str, Any]) -> None:
    """A score is refused before it is sent if and only if intake would refuse it."""
    try:
        body = encode_score(results)
    except BadScore:
        with pytest.raises(UpdateRejected):
            parse_results(json.dumps(results).encode())
    else:
        assert parse_results(body) == json.loads(body)


@pytest.mark.parametrize("depth", [19, 20, 21, 5000])
def test_the_deepest_score_is_the_same_for_both(depth: int) -> None:
    """Client and aggregator draw the line at the same depth."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    try:
        body = encode_score({"loss": value})
    except BadScore:
        assert depth > 19
    else:
        assert parse_results(body)["loss"] == value


def test_the_limits_of_scores_are_the_aggregators() -> None:
    """The numbers that the client states are those that intake applies."""
    assert (limits.MAX_SCORE_VALUE, limits.MAX_SCORE_DEPTH) == (MAX_VALUE, MAX_DEPTH)
    assert limits.MAX_SCORE_BYTES == MAX_SCORE_BYTES
    assert limits.MAX_NUM_EXAMPLES == settings.MAX_NUM_EXAMPLES
