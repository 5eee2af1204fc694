"""The demonstration's mishaps fit into every federation it takes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from local.network import initial_model
from local.script import MIN_CLIENTS, MIN_ROUNDS, Script


@given(st.integers(MIN_CLIENTS, 50), st.integers(MIN_ROUNDS, 500))
def test_no_round_is_left_without_half_of_the_clients(n_clients: int, n_rounds: int) -> None:
    """In every round the quorum, half of the clients, sends usable updates: no round waits for ever."""
    script = Script.for_federation(n_clients, n_rounds)
    garbage = {script.wrong_shape_round, script.nan_round}
    for number in {1, script.last_round, script.last_round + 1, *garbage, n_rounds}:
        usable = [
            client
            for client in range(n_clients)
            if script.takes_part(client, number)
            and not (client == script.vandal and number in garbage)
        ]
        assert len(usable) >= n_clients // 2 >= 1


@given(st.integers(MIN_CLIENTS, 50), st.integers(MIN_ROUNDS, 500))
def test_every_mishap_is_seen(n_clients: int, n_rounds: int) -> None:
    """Both kinds of garbage come in rounds of their own, and the deserter is seen before and after."""
    script = Script.for_federation(n_clients, n_rounds)
    assert 1 <= script.wrong_shape_round < script.nan_round <= n_rounds
    assert 1 <= script.last_round < n_rounds
    assert script.deserter != script.vandal
    assert 0 <= script.deserter < n_clients
    assert 0 <= script.vandal < n_clients


def test_garbage_is_what_it_is_called() -> None:
    """The vandal's two uploads have a wrong shape and a NaN; the others' are what they trained."""
    script = Script.for_federation(10, 15)
    model = initial_model(64, 10, np.random.default_rng(0))
    wrong = script.upload(script.vandal, script.wrong_shape_round, model)
    assert wrong["output.bias"].shape == (9,)
    spoiled = script.upload(script.vandal, script.nan_round, model)
    assert np.isnan(spoiled["output.bias"]).any()
    assert script.upload(0, script.nan_round, model) is model
    assert script.upload(script.vandal, 1, model) is model
