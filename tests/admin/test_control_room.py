"""The page of a federated model: what it shows, who may see it and who may act."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from django.core.management import load_command_class
from django.utils import timezone

from aggregation.round import run_round
from connectors import application
from models_app.control_room import control_room
from models_app.control_room.charts import BYTES, TIMES, amount
from models_app.control_room.norms import quartiles_by_round
from models_app.models import (
    AggregationRound,
    Client,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
    pause_changes,
)
from tests.admin.conftest import Visitor, messages
from tests.factories import client_id, filled, make_model, ready_update

LogIn = Callable[..., Visitor]


def trained(rounds: int = 2, **fields: Any) -> FederatedModel:
    """Return a model with some rounds and one rejected update, whose reason contains HTML."""
    model = make_model(2, initial=filled(0.0), **fields)
    for number in range(rounds):
        for client in (1, 2):
            ready_update(model, client, filled(number + client / 2), num_examples=client)
        run_round(application.round_connector(), model.pk)
    status = ModelUpdate.Status.INVALID
    reason = "<script>alert(1)</script>"
    ready_update(model, 1, filled(1.0), status=status, rejection_reason=reason)
    for client, accuracy in ((1, 0.5), (2, 0.8)):
        for aggregate in model.aggregates.all():
            results = {"accuracy": accuracy, "num_examples": client}
            ClientAggregateScore.objects.create(
                aggregate=aggregate, client_id=client_id(client), validation_results=results
            )
    return model


def page(model: FederatedModel) -> str:
    return f"/models_app/federatedmodel/{model.pk}/change/"


def act(model: FederatedModel, name: str) -> str:
    return f"/models_app/federatedmodel/{model.pk}/act/{name}/"


@pytest.mark.usefixtures("database", "cloud")
def test_statements_do_not_depend_on_the_number_of_updates() -> None:
    """On both databases, the page shows what is there, and takes no more statements for more updates."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    counts = []
    for rounds in (1, 4):
        model = trained(rounds, aggregator="norm_clipped_mean", aggregator_args={"max_norm": 9.0})
        with CaptureQueriesContext(
            connection,
        ) as captured:
            room = control_room(model)
            list(room["rejected"])
        counts.append(len(captured))
        assert [row["aggregate"].number for row in room["lineage"]] == [*range(rounds, 0, -1)]
        assert [round(row["score"], 6) for row in room["lineage"]] == [0.7] * rounds
        assert room["reasons"][0]["count"] == 1
        assert len(room["plots"]) == 5
    assert counts[0] == counts[1]


@pytest.mark.usefixtures("database", "cloud")
def test_directions_of_the_latest_updates_are_shown() -> None:
    """Where the rule compares updates, their cosines with the aggregate are listed, the lowest first."""
    model = make_model(5, initial=filled(0.0), aggregator="multi_krum", aggregator_args={"f": 1})
    for client, value in enumerate([1.0, 1.1, 1.2, 1.3, -9.0], 1):
        ready_update(model, client, filled(value))
    run_round(application.round_connector(), model.pk)
    cosines = [each.cosine for each in control_room(model)["contributions"]]
    assert cosines == [-1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.usefixtures("database", "cloud")
def test_updates_rejected_before_a_round_are_drawn() -> None:
    """Updates that were refused at intake belong to the next round; so do those before the first."""
    model = make_model(2, initial=filled(0.0))
    refused = {"status": ModelUpdate.Status.INVALID, "rejection_reason": "not a model"}
    for rejections in (1, 2):
        for _ in range(rejections):
            ready_update(model, 1, filled(0.0), **refused)
        ready_update(model, 2, filled(1.0))
        run_round(application.round_connector(), model.pk)
    ready_update(model, 1, filled(0.0), **refused)  # It belongs to the round that is to come.
    chart = next(each for each in control_room(model)["plots"] if "Clients of each" in each)
    assert "rejected before it: 3 updates in 2 rounds, at most 2" in chart
    assert "round 1, rejected before it: 1 updates" in chart


@pytest.mark.usefixtures("database", "cloud")
def test_norms_are_ranked_by_the_database() -> None:
    """Quartiles and medians of norms are those of Python's statistics, for odd and even counts."""
    model = make_model(9, initial=filled(0.0))
    rounds = {}
    for count in (1, 2, 5, 8, 9):
        made_by = model.rounds.create(
            number=count, state=1, lease_expires_at=timezone.now(), started_on=timezone.now()
        )
        norms = [float((7 * n) % 11) for n in range(1, count + 1)]
        for client, norm in enumerate(norms, 1):
            key = f"updates/{count}-{client}"
            model.model_updates.create(
                client_id=client_id(client), data=key, round=made_by, norm=norm, status=2
            )
        rounds[made_by.pk] = sorted(norms)
    found = quartiles_by_round(ModelUpdate.objects.filter(round__in=rounds))
    assert {pk: each.count for pk, each in found.items()} == {
        pk: len(norms) for pk, norms in rounds.items()
    }
    for pk, norms in rounds.items():
        assert found[pk].median == statistics.median(norms)
        assert found[pk].lower == norms[(len(norms) - 1) // 4]


@pytest.mark.usefixtures("database", "cloud")
def test_the_learning_curve_shows_the_score_metric() -> None:
    """If a model names its metric, the aggregates' validation scores are drawn, and the best is marked."""
    model = trained(2, score_metric="loss", lower_is_better=True, requirement="")
    for aggregate, score in zip(model.aggregates.order_by("number"), (0.25, 0.5), strict=True):
        aggregate.validation_score = score
        aggregate.save()
    room = control_room(model)
    assert [(row["score"], row["is_best"]) for row in room["lineage"]] == [
        (0.5, False),
        (0.25, True),
    ]
    assert "loss from 0.25 at 1 to 0.5 at 2" in room["plots"][0]


@pytest.mark.usefixtures("database", "cloud")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_extreme_reported_numbers_do_not_break_the_page() -> None:
    """The largest values cancel each other out; larger ones are ignored."""
    model = make_model(3)
    aggregate = ModelAggregate.objects.create(federated_model=model, number=1, result="r.npz")
    for client, value in enumerate((1e300, -1e300, 10**400), 1):
        ClientAggregateScore.objects.create(
            aggregate=aggregate,
            client_id=client_id(client),
            validation_results={"loss": value, "num_examples": 10**9},
        )
    assert [row["score"] for row in control_room(model)["lineage"]] == [0.0]


def test_an_aggregate_that_is_held_back_says_why(visitor: LogIn) -> None:
    """If a score dropped by more than the model allows, the lineage shows which one and by how much."""
    model = trained(2, score_metric="loss", lower_is_better=True, max_score_drop=0.1)
    for aggregate, score in zip(model.aggregates.order_by("number"), (0.25, 0.5), strict=True):
        aggregate.validation_score = score
        aggregate.save()
    second, first = control_room(model)["lineage"]
    assert first["held_back"] == ""
    assert second["held_back"].endswith("worse by 0.25, and max_score_drop is 0.1")
    assert "(held back)" in visitor("operator", "view").get(page(model)).text


def test_amounts_have_units() -> None:
    """Each amount is given in the largest unit of which there is at least one."""
    assert [amount(each, BYTES) for each in (0, 612, 57_720, 999_960, 3.2e9, 5e12)] == [
        "0 bytes",
        "612 bytes",
        "57.7 kB",
        "1000 kB",
        "3.2 GB",
        "5000 GB",
    ]
    assert [amount(each, TIMES) for each in (None, 0.0437, 0.9996, 75, 5400)] == [
        "",
        "43.7 ms",
        "1000 ms",
        "1.25 minutes",
        "1.5 hours",
    ]


@pytest.mark.usefixtures("database", "cloud")
def test_a_model_without_rounds_has_an_empty_page() -> None:
    """Before the first round there is nothing to draw, and no error."""
    room = control_room(make_model(1))
    assert (room["plots"], room["lineage"], room["running"]) == ([], [], None)


def test_plots_have_descriptions_and_load_nothing(visitor: LogIn) -> None:
    """Each plot is whole SVG with a text alternative; the page loads from its own site only."""
    model = trained()
    answer = visitor("root", superuser=True).get(page(model))
    plots = re.findall(r"<svg viewBox.*?</svg>", answer.text, re.S)
    assert len(plots) == 4
    for plot in plots:
        root = ElementTree.fromstring(plot)
        assert root.get("role") == "img"
        assert len(root.get("aria-label", "")) > 20
    loaded = re.findall(r'(?:src|href|action)="([^"]*)"', answer.text)
    assert not [url for url in loaded if "//" in url]
    assert "The rule weighted_mean does not measure the norms" in answer.text
    assert "<script>alert(1)</script>" not in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text


def test_the_stylesheet_is_served(visitor: LogIn) -> None:
    """The page's stylesheet is served, and has a dark scheme."""
    answer = visitor("root", superuser=True).get("/static/models_app/control-room.css")
    assert answer.ok
    assert "prefers-color-scheme: dark" in answer.text


def test_a_model_with_many_clients_can_be_saved(visitor: LogIn) -> None:
    """The form has no list of clients: a model with 1,500 is saved, and keeps them."""
    model, someone = make_model(0), visitor("operator", "view", "change")
    clients = Client.objects.bulk_create([Client() for _ in range(1500)])
    model.clients.add(*clients)
    form = someone.get(page(model)).text
    assert len(form) < 100_000
    fields = {"name": "renamed", "aggregator": "weighted_mean", "server_optimizer": "none"}
    assert someone.post(page(model), **fields, target_round_seconds="30").ok
    model.refresh_from_db()
    assert (model.name, model.clients.count()) == ("renamed", 1500)
    listing = f"/models_app/federatedmodel_clients/?federatedmodel__id__exact={model.pk}"
    assert f"{len(clients)} memberships" in someone.get(listing).text
    assert someone.get("/models_app/federatedmodel_clients/add/").ok


def test_members_are_added_and_removed(visitor: LogIn) -> None:
    """Users who may change models add a client by its name, and remove it."""
    model, someone = make_model(1), visitor("operator", "view", "change")
    ward = Client.objects.create(name=f"ward {model.pk}")
    found = someone.get(
        "/autocomplete/?app_label=models_app&model_name=federatedmodel_clients"
        f"&field_name=client&term=ward+{model.pk}"
    ).json()
    assert [each["text"] for each in found["results"]] == [ward.name]
    added = "/models_app/federatedmodel_clients/add/"
    someone.post(added, federatedmodel=str(model.pk), client=str(ward.pk))
    membership = FederatedModel.clients.through.objects.get(client=ward)
    someone.post(f"/models_app/federatedmodel_clients/{membership.pk}/delete/", post="yes")
    assert not model.clients.filter(pk=ward.pk).exists()


def test_a_new_model_begins_like_one_of_the_command(visitor: LogIn) -> None:
    """The form for a new model has the defaults of `create_model`."""
    form = visitor("root", superuser=True).get("/models_app/federatedmodel/add/").text
    parser = load_command_class("connectors", "create_model").create_parser("manage.py", "x")
    defaults = vars(parser.parse_args(["new"]))
    for field in ("rule", "requirement", "update_kind"):
        assert f'<option value="{defaults[field]}" selected>' in form
    for field in ("furthest_base", "max_num_examples", "max_score_drop", "developer"):
        assert defaults[field] is None
    for name in ("furthest_base_agg", "max_num_examples", "max_score_drop", "score_metric"):
        assert re.search(rf'<input (?![^>]*value=)[^>]*name="{name}"', form)
    assert re.search(r'<input type="checkbox" name="lower_is_better"(?![^>]*checked)', form)


def test_users_who_may_change_models_pause_and_resume_them(visitor: LogIn) -> None:
    """The buttons run the commands, and the admin's history records who did it."""
    model, someone = trained(1), visitor("operator", "view", "change")
    said = messages(someone.post(act(model, "pause"), reason="-- review"))
    assert said == [f"Model {model.pk} is paused: -- review"]
    model.refresh_from_db()
    assert (model.allow_aggregation, model.pause_reason) == (False, "-- review")
    someone.post(act(model, "resume"))
    model.refresh_from_db()
    assert model.allow_aggregation
    assert "is paused: -- review" in someone.get(page(model).replace("change", "history")).text


def test_a_form_opened_before_a_pause_does_not_resume(visitor: LogIn) -> None:
    """Saved after the model was paused, it changes what the user changed, and nothing else."""
    model, someone = trained(1), visitor("operator", "view", "change")
    assert 'name="allow_aggregation"' not in someone.get(page(model)).text
    stopped = {"failed_rounds": 3, **pause_changes("3 rounds failed in a row", timezone.now())}
    FederatedModel.objects.filter(pk=model.pk).update(**stopped)
    someone.post(
        page(model),
        name="renamed",
        aggregator="weighted_mean",
        aggregator_args="{}",
        target_round_seconds="30",
        server_optimizer="none",
        update_kind="weights",
        allow_aggregation="on",
    )
    after = FederatedModel.objects.filter(pk=model.pk).values(*stopped, "name").get()
    assert after == {**stopped, "name": "renamed"}
    assert model.clients.count() == 2


def test_rounds_are_run_published_and_rolled_back(visitor: LogIn) -> None:
    """A round, a version and a rollback are made from the page; the last two ask for confirmation."""
    model, someone = trained(1), visitor("operator", "view", "change")
    for client in (1, 2):
        ready_update(model, client, filled(7.0))
    assert messages(someone.post(act(model, "run_round")))[0].startswith("Published, aggregate")
    first, second = model.aggregates.order_by("number")
    publish = {"aggregate": str(second.pk), "version": "1.0"}
    asked = someone.post(act(model, "publish"), **publish).text
    assert "Aggregate 2 becomes version 1.0" in asked
    assert not model.artifacts.filter(version="1.0").exists()
    someone.post(act(model, "publish"), **publish, confirmed="yes")
    assert model.artifacts.get(version="1.0").values.name == second.result.name
    asked = someone.post(act(model, "rollback"), aggregate=str(first.pk)).text
    assert "The weights of aggregate 1 become aggregate 3, the latest" in asked
    assert model.aggregates.count() == 2
    someone.post(act(model, "rollback"), aggregate=str(first.pk), confirmed="yes")
    assert model.aggregates.get(number=3).parent == second


def test_a_round_page_shows_the_tasks_of_several_functions(visitor: LogIn) -> None:
    """The tasks of a shared round are a table on its page; a round of one function has none."""
    shared, alone = trained().rounds.order_by("pk")
    group = {"first": 0, "last": 3, "tasks": 2, "bytes_read": 123456, "seconds": 1.5, "retries": 1}
    tasks = [{"kind": "measure (<b>)", **group}, {"kind": "combine", **group}]
    shared.workers = {"functions": 4, "tasks": tasks}
    shared.save()
    someone = visitor("operator", superuser=True)
    page_of_round = f"/models_app/aggregationround/{shared.pk}/change/"
    shown = someone.get(page_of_round).text
    assert "4 at a time" in shown
    assert "<td>measure (&lt;b&gt;)</td><td>segments 1 to 3</td><td>2</td>" in shown
    assert "<td>combine</td><td>parts 1 to 3</td><td>2</td><td>123456</td>" in shown
    other = someone.get(f"/models_app/aggregationround/{alone.pk}/change/").text
    assert "at a time" not in other
    assert "workers" not in other
    assert re.search(
        rf'href="[^"]*{page_of_round}">4 functions</a>',
        someone.get(page(alone.federated_model)).text,
    )


def test_a_round_that_waits_is_a_warning(visitor: LogIn) -> None:
    """If a requested round has to wait, a warning says why."""
    answer = visitor("operator", "view", "change").post(act(trained(1), "run_round"))
    assert re.search(r'<li class="warning">Waiting: no update is ready', answer.text)


def test_an_abandoned_round_is_an_error(visitor: LogIn) -> None:
    """A round that made no progress too often is reported as a failure."""
    model, now = trained(1), timezone.now()
    AggregationRound.objects.create(
        federated_model=model,
        number=2,
        attempts_without_progress=99,
        lease_expires_at=now,
        started_on=now,
    )
    answer = visitor("operator", "view", "change").post(act(model, "run_round"))
    assert re.search(r'<li class="error">The round failed: given up', answer.text)


def test_an_error_of_a_command_is_shown_on_the_page(visitor: LogIn) -> None:
    """A command's error becomes a message; another model's aggregate is refused."""
    model, other = trained(1), trained(1)
    someone = visitor("operator", "view", "change")
    latest, foreign = model.aggregates.get(), other.aggregates.get()
    for name, form, why in (
        ("rollback", {"aggregate": str(latest.pk)}, "is the latest already"),
        ("rollback", {"aggregate": str(foreign.pk)}, "Choose one of the model's aggregates"),
        ("publish", {"aggregate": "x", "version": "1"}, "Choose one of the model's aggregates"),
        ("publish", {"aggregate": str(latest.pk)}, "is not a version"),
    ):
        answer = someone.post(act(model, name), **form, confirmed="yes")
        assert why in messages(answer)[0]
    assert someone.post(act(model, "flush")).status_code == 404
    assert someone.get(act(model, "pause")).status_code == 405
    assert someone.post("/models_app/federatedmodel/999999/act/pause/").status_code == 404


def test_staff_who_may_only_view_cannot_act(visitor: LogIn) -> None:
    """With the permission to view alone, the page has no buttons, and actions are forbidden."""
    model, someone = trained(1), visitor("viewer", "view")
    answer = someone.get(page(model))
    assert "Lineage" in answer.text
    assert 'action="/models_app' not in answer.text
    assert someone.post(act(model, "pause"), reason="x").status_code == 403
    model.refresh_from_db()
    assert model.allow_aggregation


def test_developers_see_their_own_models(visitor: LogIn) -> None:
    """Staff without permissions see the models they develop, no others, and change none."""
    own, other, someone = trained(1), trained(1), visitor("developer")
    FederatedModel.objects.filter(pk=own.pk).update(developer=someone.user)  # type: ignore[attr-defined]
    assert "Lineage" in someone.get(page(own)).text
    assert "Lineage" not in someone.get(page(other)).text
    listing = someone.get("/models_app/federatedmodel/").text
    assert page(own) in listing
    assert page(other) not in listing
    assert someone.post(act(own, "pause"), reason="x").status_code == 403
    assert someone.post(act(other, "pause"), reason="x").status_code == 404


def test_anonymous_visitors_are_sent_to_the_login(
    site: tuple[str, str], admin_database: None
) -> None:
    """Without a login, nothing is shown and nothing is done."""
    model, stranger = trained(1), Visitor(site[0])
    assert "/login/" in stranger.get(page(model)).url
    assert stranger.post(act(model, "pause"), reason="x").status_code in (200, 403)
    model.refresh_from_db()
    assert model.allow_aggregation


def test_the_page_shows_which_tensors_a_policy_matches(visitor: LogIn) -> None:
    """On request the page lists the names by policy; if the weights cannot be read, it says why."""
    model = trained(tensor_policies=[["b", "keep"]])
    admin = visitor("root", superuser=True)
    text = admin.get(page(model)).text
    assert "?tensors=1" in text
    text = re.sub(r"\s+", " ", admin.get(page(model) + "?tensors=1").text)
    assert '<td>keep</td><td>1</td><td class="reason">b</td>' in text
    assert '<td>optimize</td><td>1</td><td class="reason">w</td>' in text
    model.aggregates.update(result="aggregates/gone.safetensors")
    assert "aggregates/gone.safetensors" in admin.get(page(model) + "?tensors=1").text
