"""Simulations: the rounds of the function on clients in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import aggregation
from aggregation.round import run_round
from connectors import application
from laboratory import ATTACKS, History, Scene, Update, simulate
from models_app.models import FederatedModel
from tests.factories import client_id, get, ready_update
from tests.laboratory.federation import INITIAL, TARGETS, evaluate, run, train


def of_client(history: History, client: Any) -> list[Any]:
    """Return the records of a client by round."""
    return [next(c for c in each.clients if c.client == client) for each in history.rounds]


def equal(first: Any, second: Any) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first.keys() | second.keys())


def test_a_seed_repeats_a_simulation() -> None:
    """The same seed gives the same bytes and records; another one, or another rule, does not."""
    options: dict[str, Any] = {"rule": "coordinate_median", "drop_out": 0.4, "attack": "ALIE"}
    options |= {"hostile": 2, "pre_aggregation": ["bucketing(s=2)"]}
    first, again, other = run(**options), run(**options), run(**options | {"seed": 8})
    assert first.rounds == again.rounds
    assert equal(first.weights, again.weights)
    assert not equal(first.weights, other.weights)
    sent = [[c.sent for c in each.clients] for each in run(drop_out=0.4).rounds]
    assert sent == [[c.sent for c in each.clients] for each in first.rounds]


@pytest.mark.parametrize(
    ("rule", "options", "arguments"),
    [
        ("weighted_mean", {}, {"num_examples": "capped"}),
        ("trimmed_mean(f=2)", {}, {"f": 2}),
        (
            "geometric_median",
            {"pre_aggregation": ["nnm(f=2)"], "optimizer": "fedadam(eta=0.3)"},
            {
                "pre_aggregation": ["nnm(f=2)"],
                "server_optimizer": "fedadam",
                "optimizer_args": {"eta": 0.3},
            },
        ),
    ],
)
def test_rounds_give_what_aggregate_gives(
    rule: str, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    """The weights are those of calling `aggregate` once for each round, and so are weights and norms."""
    seen: list[dict[str, Any]] = []

    def recorded(model: Any, target: float, rng: np.random.Generator) -> Any:
        update = train(model, target, rng)
        seen.append(update[0])
        return update

    history = run(rule=rule, train=recorded, rounds=3, **options)
    parent: Any = INITIAL
    counts = [int(abs(target) * 10) for target in TARGETS]
    if arguments.pop("num_examples", ""):
        arguments["num_examples"] = [min(count, 10 * sorted(counts)[3]) for count in counts]
    state = None
    for number in range(3):
        updates = seen[7 * number : 7 * number + 7]
        parent, info = aggregation.aggregate(
            rule.partition("(")[0],
            updates,
            parent=parent,
            optimizer_state=state,
            return_info=True,
            **arguments,
        )
        state = info.optimizer_state
        records = history.rounds[number].clients
        assert [record.norm for record in records] == pytest.approx(info.norms)
        assert [record.contribution for record in records] == pytest.approx(info.cosines, abs=2e-6)
        assert [r.weight for r in records if r.used] == list(info.scaling_factors)
    assert equal(history.weights, parent)


@pytest.mark.usefixtures("database", "cloud")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_function_publishes_the_same_bytes(tmp_path: Any, run_command: Any) -> None:
    """A model created from the settings, given the same updates, has the aggregates of the simulation."""
    seen: list[tuple[dict[str, Any], int]] = []

    def recorded(model: Any, target: float, rng: np.random.Generator) -> Any:
        seen.append(train(model, target, rng))
        return seen[-1]

    history = run(
        rule="history_filter(f=2)",
        pre_aggregation=["normalize"],
        optimizer="fedavgm(beta=0.5)",
        train=recorded,
        rounds=3,
    )
    settings, initial = tmp_path / "simulation.json", tmp_path / "initial.safetensors"
    history.save_settings(settings)
    safetensors.numpy.save_file(INITIAL, initial)
    clients = [option for n in range(1, 8) for option in ("--client", client_id(n))]
    run_command("create_model", "digits", "--from", settings, "--initial", initial, *clients)
    model = FederatedModel.objects.get()
    aggregate = None
    for number in range(3):
        for client, (arrays, count) in enumerate(seen[7 * number : 7 * number + 7], 1):
            ready_update(model, client, arrays, num_examples=count, base_aggregate=aggregate)
        assert run_round(application.round_connector(), model.pk).updates_used == 7
        aggregate = model.aggregates.get(number=number + 1)
    assert aggregate
    assert equal(safetensors.numpy.load(get(str(aggregate.result.name))), history.weights)


def test_bad_updates_are_rejected_with_their_reason() -> None:
    """A NaN and a wrong shape are rejected as by the function, and the round goes on without them."""

    def broken(model: Any, target: float, rng: np.random.Generator) -> Any:
        if target == 40.0:
            return {"w": np.full((4, 5), np.nan, np.float32), "b": model["b"]}
        return {"w": np.zeros((4, 6), np.float32), "b": model["b"]} if target < 0 else model

    history = run(train=broken, rounds=1)
    assert [record.used for record in history.rounds[0].clients] == [True] * 5 + [False] * 2
    assert "nan in tensor 'w'" in history.rounds[0].clients[5].rejection
    assert "F32 [4, 6]" in history.rounds[0].clients[6].rejection
    assert history.rounds[0].clients[6].norm is None


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_every_attack_can_be_named(attack: str) -> None:
    """Under each attack hostile clients are marked, and all clients send an update."""
    poison = {"poison": lambda target: 9 - target} if attack == "labels" else {}
    options: dict[str, Any] = {"attack": attack, "hostile": [5, 6], **poison}
    history = run(**options)
    assert [c.hostile for c in history.rounds[0].clients] == [False] * 5 + [True] * 2
    assert [c.sent for c in history.rounds[0].clients] == [True] * 7


def test_an_attack_sees_the_differences_and_decides_what_is_sent() -> None:
    """A function gets the differences of the honest clients, and what it returns is added to the parent."""
    scenes: list[Scene] = []

    def attack(scene: Scene) -> Any:
        scenes.append(scene)
        return np.full_like(scene.own, -3.0)

    history = run(attack=attack, hostile=2, rounds=1, rule="unweighted_mean")
    (scene,) = scenes
    assert (scene.honest.shape, scene.own.shape, scene.poisoned) == ((5, 25), (2, 25), None)
    np.testing.assert_allclose(scene.honest.mean(axis=1), np.array(TARGETS[:5]) / 2, atol=0.02)
    expected = (scene.honest.sum(axis=0) - 6.0) / 7
    np.testing.assert_allclose(history.weights["b"], expected[20:], rtol=1e-12)
    assert history.simulation["attack"] == "attack"


def test_a_label_flip_trains_on_poisoned_data() -> None:
    """Hostile clients send what they trained on the data that ``poison`` returns."""
    history = run(attack="labels", hostile=2, poison=lambda target: -100.0, rounds=1)
    norms = [record.norm or 0.0 for record in history.rounds[0].clients]
    assert norms[5:] == [pytest.approx(50 * 5, rel=0.01)] * 2
    assert history.rounds[0].clients[5].num_examples == 400


def test_clients_that_drop_out_send_nothing() -> None:
    """A function says who drops out; a probability of 0.4 leaves out about that share."""
    history = run(drop_out=lambda number, client: client == number)
    assert [[c.client for c in each.clients if not c.sent] for each in history.rounds] == [
        [number] for number in range(1, 6)
    ]
    many = simulate(train, [1.0] * 50, rounds=8, seed=1, initial=INITIAL, drop_out=0.4)
    share = np.mean([record.sent for each in many.rounds for record in each.clients])
    assert 0.5 < share < 0.7


def test_late_updates_are_compared_with_their_own_base() -> None:
    """An update that arrives two rounds later is discounted, and its difference counts, not its weights."""

    def step(model: Any, target: float, rng: np.random.Generator) -> Any:
        return {"w": model["w"] + np.float64(target)}

    history = simulate(
        step,
        [6.0, 1.0],
        rounds=3,
        seed=1,
        initial={"w": np.zeros(2)},
        delay=lambda number, client: 2 if client == 0 and number == 1 else 0,
        staleness="polynomial(a=0.5)",
        furthest_base=3,
    )
    slow = of_client(history, 0)
    assert [record.sent for record in slow] == [False, False, True]
    assert [record.rounds_late for record in slow] == [0, 0, 2]
    discount = 3**-0.5
    assert slow[2].weight == pytest.approx(discount / 2)
    np.testing.assert_allclose(history.weights["w"], 2 + (6 * discount + 1) / 2, rtol=1e-9)


def test_updates_that_are_too_old_are_rejected() -> None:
    """With ``furthest_base=1``, an update that arrives a round later is rejected with the reason."""
    history = run(
        delay=lambda number, client: int(client == 0 and number == 1), furthest_base=1, rounds=2
    )
    record = of_client(history, 0)[1]
    assert (record.sent, record.used) == (True, False)
    assert record.rejection == (
        "based on aggregate number 0; the latest is 1 and furthest_base_agg is 1"
    )


def test_a_requirement_lets_rounds_wait() -> None:
    """Updates of a round that waits are used in the next one, with newer ones of the same clients."""
    history = run(
        requirement="all_clients", drop_out=lambda number, client: number == 1 and client == 3
    )
    assert [each.status for each in history.rounds] == ["waiting", *["published"] * 4]
    assert history.rounds[0].reason == "6 of 7 clients ready (all_clients)"
    assert not any(record.used for record in history.rounds[0].clients)
    history = run(
        requirement="all_clients", drop_out=lambda number, client: (client == 3) == (number == 1)
    )
    assert [record.used for record in history.rounds[1].clients] == [True] * 7
    assert [record.sent for record in history.rounds[1].clients].count(True) == 1


def test_a_round_with_too_few_usable_updates_is_rejected() -> None:
    """The weights stay, the reason is recorded, and the usable updates are ready again."""
    nan = {name: np.full_like(array, np.nan) for name, array in INITIAL.items()}
    history = run(
        train=lambda model, target, rng: nan if target > 1.05 else model,
        requirement="require_x_updates(x=6)",
        rounds=1,
    )
    (only,) = history.rounds
    assert only.status == "rejected"
    assert only.reason == "3 updates rejected, 4 of 6 clients ready (require_x_updates)"
    assert equal(history.weights, INITIAL)


def test_training_may_start_without_a_model() -> None:
    """Without ``initial``, training gets None until the first aggregate exists."""
    seen: list[Any] = []

    def start(model: Any, value: float, rng: np.random.Generator) -> list[Any]:
        seen.append(model)
        return [np.array([value])] if model is None else model

    history = simulate(start, [1.0, 3.0], rounds=2, seed=1)
    assert seen[:2] == [None, None]
    assert seen[2] == [np.array([2.0])]
    assert history.rounds[0].clients[0].contribution is None
    np.testing.assert_array_equal(history.weights, [[2.0]])


def test_steps_and_metrics_of_training_are_used() -> None:
    """``num_steps`` reaches the rule, and metrics reach the history."""

    def steps(model: Any, count: int, rng: np.random.Generator) -> Update:
        return Update([model[0] + float(count)], 10, num_steps=count, metrics={"loss": 1 / count})

    history = simulate(
        steps, [1, 4], rounds=1, seed=1, rule="normalized_mean", initial=[np.zeros(1)]
    )
    np.testing.assert_allclose(history.weights, [[2.5]])  # Each step moves by 1, and 2.5 are taken.
    assert [c.metrics for c in history.rounds[0].clients] == [{"loss": 1.0}, {"loss": 0.25}]


def test_training_cannot_change_the_models_of_others() -> None:
    """Each call gets a copy: what it changes in place is not seen by the next client."""

    def spoil(model: Any, value: float, rng: np.random.Generator) -> Any:
        before = model["w"].copy()
        model["w"] += 100.0
        return {"w": before + value}

    initial = {"w": np.zeros(2)}
    history = simulate(spoil, [1.0, 3.0], rounds=2, seed=1, initial=initial)
    np.testing.assert_array_equal(history.weights["w"], [4.0, 4.0])
    np.testing.assert_array_equal(initial["w"], [0.0, 0.0])


def test_an_error_in_training_names_the_round_and_the_client() -> None:
    """The error is that of training, with a note."""

    def fail(model: Any, data: Any, rng: np.random.Generator) -> Any:
        raise ZeroDivisionError("no examples")

    with pytest.raises(ZeroDivisionError, match="no examples") as raised:
        simulate(fail, {"north": 1}, rounds=1, seed=1)
    assert raised.value.__notes__ == ["In round 1 of the simulation, client 'north'."]


def test_a_robust_rule_helps_and_the_history_shows_it() -> None:
    """Under an attack that the mean does not survive, multi-Krum leaves the hostile clients out."""
    attacked: dict[str, Any] = {"attack": "flip x10", "hostile": 2, "rounds": 6}
    mean, robust = run(**attacked), run(rule="multi_krum(f=2)", **attacked)
    assert mean.metrics["score"][-1] > 10 * robust.metrics["score"][-1]
    assert not any(c.used for each in robust.rounds for c in each.clients if c.hostile)
    assert robust.metrics["score"][-1] == evaluate(robust.weights)


def test_without_a_terminal_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """The progress bar is shown on a terminal, or if it is asked for."""
    run(rounds=1)
    assert capfd.readouterr() == ("", "")
    run(rounds=1, progress=True)
    assert "weighted_mean: 100%" in capfd.readouterr().err
