"""The form of a federated model's settings, as a browser without scripts uses it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from io import StringIO
from itertools import cycle
from typing import Any

import pytest
from django.core.management import call_command

from aggregation.description import arguments_of
from aggregation.optimizers import known_optimizers
from aggregation.pre_aggregation import known_pre_aggregations
from aggregation.rules import known_rules
from models_app.models import FederatedModel
from tests.admin.conftest import Visitor
from tests.admin.forms import Form
from tests.factories import filled, make_model

LogIn = Callable[..., Visitor]
ADD = "/models_app/federatedmodel/add/"


def settings(model: FederatedModel) -> str:
    """Return the path of a model's form."""
    return f"/models_app/federatedmodel/{model.pk}/change/"


def save(someone: Visitor, path: str, **changes: Any) -> str:
    """Open a form, change some of its inputs, send all, and return the text of the page that answers."""
    form = Form(someone.get(path).text)
    values = {name.replace("__", "-"): value for name, value in changes.items()}
    return send(someone, path, {**form.values, **values})


def send(someone: Visitor, path: str, values: dict[str, str]) -> str:
    """Send a form, and return the text of the page that answers, after a redirection."""
    answer = someone.post(path, **{k: v for k, v in values.items() if k != "csrfmiddlewaretoken"})
    assert answer.status_code == 200
    return html.unescape(answer.text)


@pytest.fixture(scope="module")
def operators() -> list[Visitor]:
    """The operator, after the first test has logged one in."""
    return []


@pytest.fixture
def operator(visitor: LogIn, operators: list[Visitor]) -> Visitor:
    """A user who may add and change models, the same in all tests."""
    if not operators:
        operators.append(visitor("operator", "view", "change", "add"))
    return operators[0]


def test_a_form_that_is_saved_unchanged_changes_nothing(operator: Visitor) -> None:
    """Also arguments by position, an alias and a policy stay as they were stored."""
    model = make_model(
        6,
        initial=filled(0.0),
        aggregator="multi_krum",
        aggregator_args={"f": 1, "m": None},
        pre_aggregation=["arc(f=1)", "nnm(f=1)"],
        server_optimizer="fedadam",
        server_optimizer_args={"eta": 0.01},
        requirement="quorum",
        requirement_args=[5, 20],
        furthest_base_agg=1,
        tensor_policies=[["head.*", "exclude"], ["*.bias", "keep"]],
        freeze={"odd": ["*.a"], "even": ["*.b", "*.c"]},
    )
    before = FederatedModel.objects.values().get(pk=model.pk)
    text = save(operator, settings(model))
    after = FederatedModel.objects.values().get(pk=model.pk)
    assert after == {**before, "last_modified": after["last_modified"]}
    assert "From the next round on" not in text


def test_another_rule_brings_its_arguments(operator: Visitor) -> None:
    """Choosing a rule that has arguments shows them; the second save stores them and says what changes."""
    model = make_model(6)
    text = save(operator, settings(model), aggregator="multi_krum")
    assert "These are the arguments of multi_krum" in text
    model.refresh_from_db()
    assert model.aggregator == "weighted_mean"
    form = Form(text)
    assert form.values["aggregator_args-of"] == form.values["aggregator"] == "multi_krum"
    assert {"aggregator_args-f", "aggregator_args-m"} <= form.values.keys()
    text = send(operator, settings(model), {**form.values, "aggregator_args-f": "1"})
    model.refresh_from_db()
    assert (model.aggregator, model.aggregator_args) == ("multi_krum", {"f": 1})
    assert (
        "From the next round on: Updates are combined by multi_krum(f=1) instead of weighted_mean; "
        "it needs at least 5 updates." in text
    )


def test_a_rule_without_arguments_is_saved_immediately(operator: Visitor) -> None:
    """The arguments of the rule before it are removed."""
    model = make_model(6, aggregator="krum", aggregator_args={"f": 1})
    save(operator, settings(model), aggregator="weighted_mean")
    model.refresh_from_db()
    assert (model.aggregator, model.aggregator_args) == ("weighted_mean", {})


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("-1", "f must be a whole number, at least 0; got -1"),
        ("1.5", "f must be a whole number; got '1.5'"),
        ("", "f is required"),
    ],
)
def test_an_invalid_argument_is_refused_in_its_field(
    operator: Visitor, typed: str, problem: str
) -> None:
    """The message names the argument and its bounds, and what was typed stays in the form."""
    model = make_model(6, aggregator="krum", aggregator_args={"f": 1})
    text = save(operator, settings(model), aggregator_args__f=typed)
    assert problem in text
    assert Form(text).values["aggregator_args-f"] == typed
    model.refresh_from_db()
    assert model.aggregator_args == {"f": 1}


def test_arguments_that_contradict_each_other_are_refused(operator: Visitor) -> None:
    """A rule's own check is shown at the rule."""
    model = make_model(3, aggregator="trimmed_mean", aggregator_args={"f": 1})
    assert "give either beta or f" in save(operator, settings(model), aggregator_args__beta="0.1")


def test_every_argument_is_a_field_with_its_documentation(operator: Visitor) -> None:
    """The forms of all rules and optimizers show each argument's meaning, bounds and default."""
    model, optimizers = make_model(3), cycle(known_optimizers().items())
    for rule, optimizer in zip(known_rules().items(), optimizers, strict=False):
        text = send(
            operator, settings(model), {"aggregator": rule[0], "server_optimizer": optimizer[0]}
        )
        shown = " ".join(text.split())
        for field, kind in (("aggregator", rule[1]), ("server_optimizer", optimizer[1])):
            for each in arguments_of(kind):
                assert f'name="{field}_args-{each.name}"' in text
                assert each.meaning.replace("`", "") in shown
                assert each.bounds in shown
                assert each.default is None or f"Empty: {each.default}." in shown


def test_steps_are_chosen_with_their_order(operator: Visitor) -> None:
    """A step has a place and its arguments; two steps cannot have the same place."""
    model = make_model(9, aggregator="krum", aggregator_args={"f": 1})
    chosen: dict[str, Any] = {
        "pre_aggregation__nnm__place": "2",
        "pre_aggregation__nnm__f": "1",
        "pre_aggregation__arc__place": "1",
        "pre_aggregation__arc__f": "1",
    }
    text = save(operator, settings(model), **chosen)
    model.refresh_from_db()
    assert model.pre_aggregation == ["arc(f=1)", "nnm(f=1)"]
    assert "combined by arc(f=1), nnm(f=1), krum(f=1) instead of krum(f=1)" in text
    for name in known_pre_aggregations():
        assert f'name="pre_aggregation-{name}-place"' in operator.get(settings(model)).text
    text = save(operator, settings(model), pre_aggregation__nnm__place="1")
    assert "Two steps have the same place" in text
    text = save(operator, settings(model), pre_aggregation__nnm__f="0")
    assert "nnm: f must be a whole number, at least 1; got 0" in text


def test_policies_and_frozen_tensors_are_rows(operator: Visitor) -> None:
    """A row is added, another removed, and there are always empty ones; JSON is typed for schemas alone."""
    model = make_model(2, initial=filled(0.0), tensor_policies=[["a", "keep"], ["b", "max"]])
    text = operator.get(settings(model)).text
    assert text.count("-glob") >= 5
    assert set(re.findall(r'<textarea name="(\w+)"', text)) == {
        "client_agg_results_schema",
        "update_schema",
    }
    text = save(
        operator,
        settings(model),
        tensor_policies__0__glob="",
        tensor_policies__2__glob="head.*",
        tensor_policies__2__policy="exclude",
        freeze__odd="*.a\n\n *.b ",
        freeze__even="*.a\r\n*.b",
    )
    model.refresh_from_db()
    assert model.tensor_policies == [["b", "max"], ["head.*", "exclude"]]
    assert model.freeze == {"odd": ["*.a", "*.b"], "even": ["*.a", "*.b"]}
    assert 'Policies of tensors: [["b", "max"], ["head.*", "exclude"]] instead of' in text


def test_optional_settings_are_inputs(operator: Visitor) -> None:
    """Without any value, masks stay off; a wrong value is refused, and all of them together are saved."""
    model = make_model(
        3, initial=filled(0.0), update_kind="differences", aggregator="unweighted_mean"
    )
    assert "null" not in [*Form(operator.get(settings(model)).text).values.values()]
    text = save(operator, settings(model), secure_aggregation__clip_norm="much")
    assert "clip_norm must be a number; got 'much'" in text
    assert "keeper is required" in text
    key = "ab" * 32
    queue = "https://sqs.eu-central-1.amazonaws.com/123456789012/keeper"
    given = {
        "secure_aggregation__keeper": key,
        "secure_aggregation__clip_norm": "1.5",
        "secure_aggregation__queue": queue,
    }
    save(operator, settings(model), **given)
    model.refresh_from_db()
    assert model.secure_aggregation == {"keeper": key, "clip_norm": 1.5, "queue": queue}
    save(operator, settings(model), **dict.fromkeys(given, ""))
    model.refresh_from_db()
    assert model.secure_aggregation == {}


def test_every_field_has_a_heading(operator: Visitor) -> None:
    """No setting is left out of the form, except the clients, which may be many."""
    inputs = {name.split("-")[0] for name in Form(operator.get(ADD).text).values}
    editable = {field.name for field in FederatedModel._meta.fields if field.editable}
    # Only the buttons pause a model; a box that is not checked has no value.
    assert editable - inputs == {"id", "allow_aggregation", "lower_is_better"}


def test_a_model_that_is_added_equals_one_of_the_command(operator: Visitor) -> None:
    """The form's defaults are those of `create_model`: only the name is typed."""
    text = save(operator, ADD, name="by form")
    assert "These are the arguments" not in text
    call_command("create_model", "by command", stdout=StringIO(), stderr=StringIO())
    by_form, by_command = (
        dict(FederatedModel.objects.values().get(name=name)) for name in ("by form", "by command")
    )
    # Arguments that are not given are none or empty, which is the same.
    differing = {n for n, value in by_form.items() if (value or None) != (by_command[n] or None)}
    assert differing <= {"id", "name", "created_on", "last_modified", "pointer_digest"}


def test_the_requirement_is_put_into_words(operator: Visitor) -> None:
    """A changed requirement is said as a sentence."""
    model = make_model(5)
    form = Form(save(operator, settings(model), requirement="quorum"))
    typed = {"requirement_args-x": "1", "requirement_args-after_minutes": "20"}
    text = send(operator, settings(model), {**form.values, **typed})
    assert "A round starts with 5 updates, or one after 20 minutes." in text


def test_every_input_has_a_label(operator: Visitor) -> None:
    """Each input that is shown is named by a label."""
    model = make_model(2, aggregator="krum", aggregator_args={"f": 1})
    text = operator.get(settings(model)).text
    form = Form(text)
    assert len(form.ids) > 30
    assert form.ids - form.labelled <= {"", "id_action"}
    assert "What clients send" in text  # Also what can only be read.


@pytest.mark.parametrize(
    "changes",
    [
        {"tensor_policies__0__glob": "head.*", "tensor_policies__0__policy": "exclude"},
        {"freeze__odd": "*.a", "freeze__even": "*.b", "furthest_base_agg": "1"},
    ],
    ids=["exclude", "freeze"],
)
def test_a_new_model_without_weights_needs_none(operator: Visitor, changes: dict[str, Any]) -> None:
    """The form cannot give a model initial weights, so that it refuses settings that need them."""
    assert "the model needs initial weights" in save(operator, ADD, name="bare", **changes)
    assert not FederatedModel.objects.filter(name="bare").exists()
