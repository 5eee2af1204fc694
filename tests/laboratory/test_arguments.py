"""Arguments that cannot be used are refused before anything is trained, with what is expected."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from laboratory import BadArgument, Update, simulate
from tests.laboratory.federation import run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be a whole number, at least 1; got 0"),
        ({"rounds": 2.5}, "rounds must be a whole number, at least 1; got 2.5"),
        ({"seed": -1}, "seed must be a whole number, at least 0; got -1"),
        ({"seed": True}, "seed must be a whole number"),
        ({"train": 5}, "train must be a function, called as train(model, data, rng); got 5"),
        ({"evaluate": "accuracy"}, "evaluate must be a function, called as evaluate(model)"),
        ({"delay": 2}, "delay must be a function, called as delay(round, client); got 2"),
        ({"rule": "mean"}, "unknown aggregation rule 'mean'; known are"),
        ({"rule": "krum"}, "krum takes the arguments f; got {}"),
        ({"rule": "krum(2)"}, "rule: an argument is written as f=2; got '2'"),
        ({"rule": "krum(f=1, f=2)"}, "rule: the argument 'f' is given twice"),
        ({"rule": "krum(f=2"}, "rule is written as 'krum(f=2)'; got 'krum(f=2'"),
        ({"rule": ("krum", 2)}, "rule is written as 'krum(f=2)'; got ('krum', 2)"),
        ({"rule": "krum(f=3)"}, "krum needs at least 9 updates, and there are 7 clients"),
        ({"optimizer": "adam"}, "unknown server optimizer 'adam'; known are none, "),
        ({"optimizer": "fedadam(eta=0)"}, "eta must be a finite number, above 0"),
        ({"pre_aggregation": "nnm(f=2)"}, "expected a list of steps"),
        ({"pre_aggregation": ["nnm(f=2)"]}, "weighted_mean withstands no hostile update"),
        ({"tensor_policies": [("w", "avg")]}, "unknown tensor policy 'avg'"),
        ({"max_num_examples": 0}, "max_num_examples must be a whole number, at least 1; got 0"),
        ({"staleness": "polynomial"}, "staleness needs furthest_base_agg"),
        ({"staleness": "linear", "furthest_base": 2}, "unknown staleness 'linear'; known are"),
        ({"requirement": "half"}, "unknown requirement 'half'; known are"),
        ({"drop_out": 1.0}, "drop_out must be a probability, at least 0 and below 1"),
        ({"drop_out": "often"}, "or a function of round and client; got 'often'"),
        ({"attack": "ALIE"}, "an attack needs hostile=: how many clients are hostile, or which"),
        ({"attack": "alie", "hostile": 1}, "unknown attack 'alie'; known are 'flip',"),
        ({"attack": "labels", "hostile": 1}, "the attack 'labels' needs poison="),
        ({"attack": "labels", "hostile": 1, "poison": 3}, "poison must be a function, called as"),
        ({"attack": "ALIE", "hostile": 7}, "hostile must be from 1 to 6 of 7 clients; got 7"),
        ({"attack": "ALIE", "hostile": [9]}, "hostile names 9, which is not one of the clients"),
        (
            {"attack": "ALIE", "hostile": "all"},
            "hostile must be a number of clients, or their names",
        ),
        ({"attack": "ALIE", "hostile": range(7)}, "hostile must name some of the clients"),
        ({"attack": "ALIE", "hostile": 2, "initial": None}, "pass the model as initial="),
        ({"hostile": 2}, "hostile and poison need an attack: name it as attack="),
        ({"rule": "norm_filtered_mean", "initial": None}, "norm_filtered_mean needs a parent"),
        ({"tensor_policies": [("b", "exclude")], "initial": None}, "needs a parent to start from"),
        ({"initial": "weights"}, "cannot find weights in str"),
        ({"initial": {"w": "text"}}, "tensor 'w' is of type str, expected an array"),
    ],
)
def test_the_message_says_what_is_expected(options: dict[str, Any], message: str) -> None:
    """Each argument that cannot be used is named, with what is expected."""
    with pytest.raises(BadArgument, match=re.escape(message)):
        run(**options)


@pytest.mark.parametrize("clients", [[], 5, "abc", None, {}])
def test_clients_must_be_a_collection(clients: Any) -> None:
    """A number, a text, nothing, and no client at all are refused."""
    with pytest.raises(BadArgument, match=r"clients (is empty|must be a sequence)"):
        simulate(lambda model, data, rng: model, clients, rounds=1, seed=1)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "cannot find weights in NoneType"),
        ({"w": None}, "tensor 'w' is of type NoneType"),
        (({"w": np.zeros(2)}, 0), "num_examples must be a whole number, at least 1; got 0"),
        (Update([np.zeros(2)], 1.5), "num_examples must be a whole number"),  # type: ignore[arg-type]
        (Update([np.zeros(2)], num_steps=0), "num_steps must be a whole number, at least 1"),
        (Update([np.zeros(2)], metrics={"loss": "low"}), "the metrics of an update must be"),  # type: ignore[dict-item]
    ],
)
def test_what_training_returns_is_checked(returned: Any, message: str) -> None:
    """What is no update is refused, with the round and the client."""
    with pytest.raises(BadArgument, match=re.escape(message)) as raised:
        run(train=lambda model, data, rng: returned)
    assert raised.value.__notes__ == ["In round 1 of the simulation, client 0."]


def test_what_other_functions_return_is_checked() -> None:
    """A delay, a metric and the rows of an attack are checked as well."""
    for options, message in (
        ({"delay": lambda number, client: -1}, "what delay returns must be a whole number"),
        ({"evaluate": lambda model: "good"}, "what evaluate returns must be a number"),
        ({"attack": lambda scene: scene.honest, "hostile": 2}, "an attack returns a row for each"),
    ):
        with pytest.raises(BadArgument, match=message):
            run(**options)


def test_an_attack_needs_updates_of_the_models_shape() -> None:
    """An honest update with another tensor cannot be attacked, and the error names the tensor."""
    with pytest.raises(BadArgument, match="needs updates with the parent's tensor 'b'"):
        run(train=lambda model, data, rng: {"w": model["w"]}, attack="ALIE", hostile=2)
