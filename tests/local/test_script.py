"""Tests of the faults of the demonstration: they fit into every federation that it accepts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from local.network import initial_model
from local.script import MIN_CLIENTS, MIN_ROUNDS, Script


@given(st.integers(MIN_CLIENTS, 50), st.integers(MIN_ROUNDS, 500))
def test_every_round_has_its_quorum(n_clients: int, n_rounds: int) -> None:
    """In every round half of the clients send valid updates, so that no round waits without end."""
    script = Script.for_federation(n_clients, n_rounds)
    invalid = {script.wrong_shape_round, script.nan_round}
    for number in {1, script.last_round, script.last_round + 1, *invalid, n_rounds}:
        usable = [
            client
            for client in range(n_clients)
            if script.takes_part(client, number)
            and not (client == script.hostile and number in invalid)
        ]
        assert len(usable) >= n_clients // 2 >= 1


@given(st.integers(MIN_CLIENTS, 50), st.integers(MIN_ROUNDS, 500))
def test_every_fault_happens(n_clients: int, n_rounds: int) -> None:
    """Both invalid updates are sent, and there are rounds with and without the dropout."""
    script = Script.for_federation(n_clients, n_rounds)
    assert 1 <= script.wrong_shape_round < script.nan_round <= n_rounds
    assert 1 <= script.last_round < n_rounds
    assert script.dropout != script.hostile
    assert 0 <= script.dropout < n_clients
    assert 0 <= script.hostile < n_clients


def test_invalid_updates_have_a_wrong_shape_and_a_nan() -> None:
    """The other updates are the models that the clients trained."""
    script = Script.for_federation(10, 15)
    model = initial_model(64, 10, np.random.default_rng(0))
    wrong = script.upload(script.hostile, script.wrong_shape_round, model)
    assert wrong["output.bias"].shape == (9,)
    with_nan = script.upload(script.hostile, script.nan_round, model)
    assert np.isnan(with_nan["output.bias"]).any()
    assert script.upload(0, script.nan_round, model) is model
    assert script.upload(script.hostile, 1, model) is model
