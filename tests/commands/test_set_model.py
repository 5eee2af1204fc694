"""`set_model`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError

from connectors.storage.keys import pointer_key
from models_app.models import ClientAggregateScore, FederatedModel, ModelAggregate
from tests.factories import client_id, filled, get, make_model

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]


def changed(run_command: RunCommand, model: FederatedModel, *options: Any) -> FederatedModel:
    run_command("set_model", model.name, *options)
    return FederatedModel.objects.get(pk=model.pk)


def test_the_given_settings_are_changed(run_command: RunCommand) -> None:
    """Rule, requirement, caps, score and developer are changed; everything else stays."""
    get_user_model().objects.create(username="ada")
    model = make_model(3, furthest_base_agg=2)
    after = changed(
        run_command,
        model,
        *("--rule", "trimmed_mean", "--rule-arg", "beta=0.2", "--max-num-examples", 500),
        *("--requirement", "quorum", "--requirement-arg", "x=2"),
        *("--requirement-arg", "after_minutes=5", "--score-metric", "loss", "--lower-is-better"),
        *("--max-score-drop", 0.5, "--developer", "ada", "--name", "renamed"),
        *("--max-functions", 3, "--target-round-seconds", 12),
    )
    assert (after.aggregator, after.aggregator_args) == ("trimmed_mean", {"beta": 0.2})
    assert (after.requirement, after.requirement_args) == ("quorum", {"x": 2, "after_minutes": 5})
    assert (after.score_metric, after.lower_is_better, after.max_score_drop) == ("loss", True, 0.5)
    assert (after.name, after.max_num_examples, after.furthest_base_agg) == ("renamed", 500, 2)
    assert (after.max_functions, after.target_round_seconds) == (3, 12.0)
    assert str(after.developer) == "ada"
    assert after.clients.count() == 3


def test_settings_are_removed(run_command: RunCommand) -> None:
    """`none` removes a cap or a schema, `''` a requirement, `--no-lower-is-better` a direction."""
    model = make_model(
        1,
        requirement="all_clients",
        max_num_examples=5,
        furthest_base_agg=2,
        score_metric="loss",
        lower_is_better=True,
        max_score_drop=0.1,
        client_agg_results_schema={},
    )
    after = changed(
        run_command,
        model,
        *("--max-num-examples", "none", "--furthest-base", "none", "--max-score-drop", "none"),
        *("--no-lower-is-better", "--requirement=", "--score-schema", "none"),
    )
    assert (after.max_num_examples, after.furthest_base_agg, after.max_score_drop) == (None,) * 3
    assert (after.requirement, after.lower_is_better) == ("", False)
    assert after.client_agg_results_schema is None
    assert after.score_metric == "loss"


def test_arguments_of_an_unchanged_rule_are_merged(run_command: RunCommand) -> None:
    """An argument that is given replaces one; a new rule starts without arguments."""
    model = make_model(1, aggregator="centered_clipping", aggregator_args={"tau": 1.0})
    after = changed(run_command, model, "--rule-arg", "iterations=3")
    assert after.aggregator_args == {"tau": 1.0, "iterations": 3}
    with pytest.raises(CommandError, match="--rule: krum takes the arguments f"):
        changed(run_command, model, "--rule", "krum")


def test_the_server_optimizer_is_changed(run_command: RunCommand) -> None:
    """Arguments of an unchanged optimizer are merged; a wrong one is refused by the option's name."""
    model = make_model(1)
    after = changed(run_command, model, "--optimizer", "fedadam", "--optimizer-arg", "eta=0.03")
    assert (after.server_optimizer, after.server_optimizer_args) == ("fedadam", {"eta": 0.03})
    after = changed(run_command, model, "--optimizer-arg", "tau=0.01")
    assert after.server_optimizer_args == {"eta": 0.03, "tau": 0.01}
    with pytest.raises(CommandError, match="--optimizer: fedadam: eta must be"):
        run_command("set_model", model.name, "--optimizer-arg", "eta=-1")
    after = changed(run_command, model, "--optimizer", "none")
    assert (after.server_optimizer, after.server_optimizer_args) == ("none", {})


def test_steps_before_the_rule_are_replaced_and_removed(run_command: RunCommand) -> None:
    """`--pre-aggregation` gives all steps in their order; `none` removes them."""
    model = make_model(1, aggregator="coordinate_median")
    steps = ("--pre-aggregation", "arc(f=1)", "--pre-aggregation", "nnm(f=1)")
    assert changed(run_command, model, *steps).pre_aggregation == ["arc(f=1)", "nnm(f=1)"]
    with pytest.raises(CommandError, match="--rule: weighted_mean withstands no hostile update"):
        changed(run_command, model, "--rule", "weighted_mean")
    with pytest.raises(CommandError, match="--pre-aggregation: unknown step before the rule 'mix'"):
        changed(run_command, model, "--pre-aggregation", "mix(f=1)")
    assert changed(run_command, model, "--pre-aggregation", "none").pre_aggregation == []


def test_scores_follow_the_metric(run_command: RunCommand, lineage: list[ModelAggregate]) -> None:
    """After a change of the metric, the latest aggregates are scored by it."""
    model = lineage[0].federated_model
    for aggregate, loss in zip(lineage, (3.0, 2.0, 1.0), strict=True):
        results = {"accuracy": 0.5, "loss": loss}
        ClientAggregateScore.objects.create(
            aggregate=aggregate, client_id=client_id(1), validation_results=results
        )
    changed(run_command, model, "--score-metric", "loss")
    assert list(model.aggregates.order_by("number").values_list("validation_score", flat=True)) == [
        3.0,
        2.0,
        1.0,
    ]
    changed(run_command, model, "--score-metric=")
    assert set(model.aggregates.values_list("validation_score", flat=True)) == {None}


def test_clients_see_the_new_settings(run_command: RunCommand) -> None:
    """`latest.json` is written again."""
    model = make_model(1, initial=filled(0.0))
    changed(run_command, model, "--rule", "coordinate_median")
    assert json.loads(get(pointer_key(model.pk)))["rule"] == "coordinate_median"


def test_the_change_is_printed_as_json(run_command: RunCommand) -> None:
    """`--json` prints the fields and their new values."""
    model = make_model(1)
    answer = json.loads(run_command("set_model", model.pk, "--max-num-examples", 7, "--json"))
    assert answer == {"model": model.pk, "changes": {"max_num_examples": 7}}


def test_a_name_must_be_unambiguous(run_command: RunCommand) -> None:
    """An ambiguous name is refused, and an id takes precedence over a name."""
    first, second = (FederatedModel.objects.create(name="twin") for _ in range(2))
    with pytest.raises(CommandError, match=f"give one of the ids {first.pk}, {second.pk}"):
        run_command("pause", "twin")
    with pytest.raises(CommandError, match=f"model {first.pk} already has the name 'twin'"):
        run_command("set_model", second.pk, "--name", "twin")
    FederatedModel.objects.create(name=str(first.pk))
    run_command("pause", first.pk)
    first.refresh_from_db()
    assert not first.allow_aggregation
