"""The pages of the console over HTTP: what they show, who may see them and who may act."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlencode
from xml.etree import ElementTree

from django.utils import timezone

from models_app.control_room import control_room
from models_app.defaults import NEW_MODEL
from models_app.models import AggregationRound, Client, FederatedModel, pause_changes
from tests.admin.conftest import Visitor, messages
from tests.admin.forms import Form
from tests.admin.models import trained
from tests.factories import filled, make_model, ready_update

LogIn = Callable[..., Visitor]


def overview(model: FederatedModel) -> str:
    return f"/models_app/federatedmodel/{model.pk}/"


def settings(model: FederatedModel) -> str:
    return f"/models_app/federatedmodel/{model.pk}/change/"


def lineage(model: FederatedModel) -> str:
    return f"/models_app/modelaggregate/?federated_model__id__exact={model.pk}"


def act(model: FederatedModel, name: str) -> str:
    return f"/models_app/federatedmodel/{model.pk}/act/{name}/"


def test_an_aggregate_that_is_held_back_says_why(visitor: LogIn) -> None:
    """If a score dropped by more than the model allows, the lineage shows which one and by how much."""
    model = trained(2, score_metric="loss", lower_is_better=True, max_score_drop=0.1)
    for aggregate, score in zip(model.aggregates.order_by("number"), (0.25, 0.5), strict=True):
        aggregate.validation_score = score
        aggregate.save()
    first, second = control_room(model).overview.curve.points
    assert first.held_back == ""
    assert second.held_back.endswith("worse by 0.25, and max_score_drop is 0.1")
    assert ">held back<" in visitor("operator", "view").get(lineage(model)).text


def test_plots_have_descriptions_and_load_nothing(visitor: LogIn) -> None:
    """Each plot is whole SVG with a text alternative; the page loads from its own site only."""
    model = trained()
    answer = visitor("root", superuser=True).get(overview(model))
    plots = re.findall(r"<svg class.*?</svg>", answer.text, re.S)
    assert len(plots) == 5  # The learning curve is drawn for phones and for wide screens.
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
    """The console's stylesheet is served, and has a dark scheme."""
    answer = visitor("root", superuser=True).get("/static/models_app/console.css")
    assert answer.ok
    assert ".dark {" in answer.text


def test_a_model_with_many_clients_can_be_saved(visitor: LogIn) -> None:
    """The form has no list of clients: a model with 1,500 is saved, and keeps them."""
    model, someone = make_model(0), visitor("operator", "view", "change")
    clients = Client.objects.bulk_create([Client() for _ in range(1500)])
    model.clients.add(*clients)
    form = someone.get(settings(model)).text
    assert len(form) < 100_000
    fields = {"name": "renamed", "aggregator": "weighted_mean", "server_optimizer": "none"}
    assert someone.post(settings(model), **fields, target_round_seconds="30").ok
    model.refresh_from_db()
    assert (model.name, model.clients.count()) == ("renamed", 1500)
    listing = f"/models_app/federatedmodel_clients/?federatedmodel__id__exact={model.pk}"
    assert f"{len(clients)} memberships" in someone.get(listing).text


def test_members_are_added_and_removed(visitor: LogIn) -> None:
    """Users who may change models add a client by its name, and remove it."""
    model, someone = make_model(1), visitor("operator", "view", "change")
    ward = Client.objects.create(name=f"ward {model.pk}")
    someone.post(act(model, "add_clients"), client=ward.name)
    membership = FederatedModel.clients.through.objects.get(client=ward)
    someone.post(f"/models_app/federatedmodel_clients/{membership.pk}/delete/", post="yes")
    assert not model.clients.filter(pk=ward.pk).exists()


def test_a_new_model_begins_like_one_of_the_command(visitor: LogIn) -> None:
    """The form for a new model has the defaults of `create_model`."""
    form = visitor("root", superuser=True).get("/models_app/federatedmodel/add/").text
    for value in (NEW_MODEL["aggregator"], NEW_MODEL["requirement"], "weights"):
        assert f'<option value="{value}" selected>' in form
    for name in ("furthest_base_agg", "max_num_examples", "max_score_drop", "score_metric"):
        assert re.search(rf'<input (?![^>]*value=)[^>]*name="{name}"', form)
    assert "lower_is_better" not in Form(form).values


def test_users_who_may_change_models_pause_and_resume_them(visitor: LogIn) -> None:
    """The buttons run the commands, and the console's history records who did it."""
    model, someone = trained(1), visitor("operator", "view", "change")
    said = messages(someone.post(act(model, "pause"), reason="-- review"))
    assert said == [f"Model {model.pk} is paused: -- review"]
    model.refresh_from_db()
    assert (model.allow_aggregation, model.pause_reason) == (False, "-- review")
    someone.post(act(model, "resume"))
    model.refresh_from_db()
    assert model.allow_aggregation
    assert "is paused: -- review" in someone.get(overview(model) + "history/").text


def test_a_form_opened_before_a_pause_does_not_resume(visitor: LogIn) -> None:
    """Saved after the model was paused, it changes what the user changed, and nothing else."""
    model, someone = trained(1), visitor("operator", "view", "change")
    assert 'name="allow_aggregation"' not in someone.get(settings(model)).text
    stopped = {"failed_rounds": 3, **pause_changes("3 rounds failed in a row", timezone.now())}
    FederatedModel.objects.filter(pk=model.pk).update(**stopped)
    someone.post(
        settings(model),
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
    asked = someone.get(f"{act(model, 'publish')}?{urlencode(publish)}").text
    assert "Aggregate 2 becomes version 1.0" in asked
    assert not model.artifacts.filter(version="1.0").exists()
    someone.post(act(model, "publish"), **publish)
    assert model.artifacts.get(version="1.0").values.name == second.result.name
    asked = someone.get(f"{act(model, 'rollback')}?aggregate={first.pk}").text
    assert "The weights of aggregate 1 become aggregate 3, the latest" in asked
    assert model.aggregates.count() == 2
    someone.post(act(model, "rollback"), aggregate=str(first.pk))
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
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in shown.split("<tr>")]
    assert ["measure (&lt;b&gt;)", "segments 1 to 3", "2", "123456", "1.5", "1"] in cells
    assert ["combine", "parts 1 to 3", "2", "123456", "1.5", "1"] in cells
    other = someone.get(f"/models_app/aggregationround/{alone.pk}/change/").text
    assert "at a time" not in other
    assert "workers" not in other
    listing = (
        f"/models_app/aggregationround/?federated_model__id__exact={shared.federated_model_id}"
    )
    assert page_of_round in someone.get(listing).text


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
        answer = someone.post(act(model, name), **form)
        assert why in messages(answer)[0]
    assert someone.post(act(model, "flush")).status_code == 404
    assert someone.get(act(model, "resume")).status_code == 405
    assert someone.post("/models_app/federatedmodel/999999/act/pause/").status_code == 404


def test_staff_who_may_only_view_cannot_act(visitor: LogIn) -> None:
    """With the permission to view alone, the page has no buttons, and actions are forbidden."""
    model, someone = trained(1), visitor("viewer", "view")
    answer = someone.get(overview(model))
    assert "Lineage" in answer.text
    assert 'action="/models_app' not in answer.text
    assert someone.get(act(model, "pause")).status_code == 403
    assert someone.post(act(model, "pause"), reason="x").status_code == 403
    model.refresh_from_db()
    assert model.allow_aggregation


def test_developers_see_their_own_models(visitor: LogIn) -> None:
    """Staff without permissions see the models they develop, no others, and change none."""
    own, other, someone = trained(1), trained(1), visitor("developer")
    FederatedModel.objects.filter(pk=own.pk).update(developer=someone.user)  # type: ignore[attr-defined]
    assert "Lineage" in someone.get(overview(own)).text
    assert "Lineage" not in someone.get(overview(other)).text
    listing = someone.get("/models_app/federatedmodel/").text
    assert overview(own) in listing
    assert overview(other) not in listing
    assert someone.post(act(own, "pause"), reason="x").status_code == 403
    assert someone.post(act(other, "pause"), reason="x").status_code == 404


def test_anonymous_visitors_are_sent_to_the_login(
    site: tuple[str, str], admin_database: None
) -> None:
    """Without a login, nothing is shown and nothing is done."""
    model, stranger = trained(1), Visitor(site[0])
    assert "/login/" in stranger.get(settings(model)).url
    assert stranger.post(act(model, "pause"), reason="x").status_code in (200, 403)
    model.refresh_from_db()
    assert model.allow_aggregation


def test_the_page_shows_which_tensors_a_policy_matches(visitor: LogIn) -> None:
    """On request the page lists the names by policy; if the weights cannot be read, it says why."""
    model = trained(tensor_policies=[["b", "keep"]])
    admin = visitor("root", superuser=True)
    text = admin.get(overview(model)).text
    assert "?tensors=1" in text
    text = admin.get(overview(model) + "?tensors=1").text
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in text.split("<tr>")]
    assert ["keep", "1", "b"] in cells
    assert ["optimize", "1", "w"] in cells
    model.aggregates.update(result="aggregates/gone.safetensors")
    assert "aggregates/gone.safetensors" in admin.get(overview(model) + "?tensors=1").text


def test_records_of_other_models_are_hidden(visitor: LogIn) -> None:
    """Developers see the updates, rounds, aggregates and clients of their own models only."""
    own, other, someone = trained(1), trained(1), visitor("developer")
    FederatedModel.objects.filter(pk=own.pk).update(developer=someone.user)  # type: ignore[attr-defined]
    for kind in ("modelupdate", "aggregationround", "modelaggregate"):
        listing = someone.get(f"/models_app/{kind}/").text
        assert own.name in listing
        assert other.name not in listing
    update = other.model_updates.first()
    assert update is not None
    refused = someone.get(f"/models_app/modelupdate/{update.pk}/change/")
    assert "doesn’t exist" in messages(refused)[0]
    stranger = Client.objects.create(name=f"stranger {other.pk}")
    other.clients.add(stranger)
    assert stranger.name not in someone.get("/models_app/client/").text
    assert stranger.name not in someone.get(f"/models_app/client/{stranger.pk}/change/").text


def test_invitations_are_shown_once(visitor: LogIn) -> None:
    """The tokens are on the page that answers, which no cache keeps, and in no message or history."""
    model, someone = make_model(1), visitor("operator", "view", "change")
    answer = someone.post(act(model, "invite"), count="2", expires="1d")
    tokens = re.findall(r'data-label="Token"><code>(.*?)</code>', answer.text)
    assert len(set(tokens)) == 2
    assert "no-store" in answer.headers["Cache-Control"]
    listed = someone.get(f"/models_app/federatedmodel/{model.pk}/clients/").text
    assert (listed.count("Invited</span>"), listed.count("Paused</span>")) == (2, 0)
    later = someone.get(overview(model)).text + someone.get(overview(model) + "history/").text
    assert "Create invitations" in later
    assert not [token for token in tokens if token in later]


def test_clients_are_paused_resumed_renamed_and_added(visitor: LogIn) -> None:
    """The buttons of a client run the commands; a pause says first what will happen."""
    model, someone = make_model(1), visitor("operator", "view", "change")
    name = f"ward {model.pk}"
    someone.post(act(model, "add_clients"), client=name)
    client = model.clients.get(name=name)
    page = f"/models_app/client/{client.pk}/"
    assert "are rejected until it is resumed" in someone.get(f"{page}act/pause_client/").text
    someone.post(f"{page}act/pause_client/")
    assert Client.objects.get(pk=client.pk).paused
    someone.post(f"{page}act/resume_client/")
    someone.post(f"{page}act/rename_client/", name=f"--json {name}")
    renamed = Client.objects.get(pk=client.pk)
    assert (renamed.paused, renamed.name) == (False, f"--json {name}")
    assert visitor("viewer", "view").post(f"{page}act/pause_client/").status_code == 403


def test_updates_are_found_by_the_name_of_their_client(visitor: LogIn) -> None:
    """A list finds updates by a part of the client's name, by its id, and by their own number."""
    model, someone = trained(1), visitor("operator", "view")
    ward = Client.objects.create(name=f"found {model.pk}")
    update = model.model_updates.create(client=ward, data=f"updates/{model.pk}/x")
    for search in (ward.name[:-1], str(ward.pk), str(ward.pk)[:8], str(update.pk)):
        listing = someone.get(f"/models_app/modelupdate/?{urlencode({'q': search})}").text
        assert f"/modelupdate/{update.pk}/change/" in listing
    assert "Nothing matches" in someone.get("/models_app/modelupdate/?q=nobody+has+this").text


def test_every_answer_forbids_other_sites_and_scripts_inside_pages(visitor: LogIn) -> None:
    """The policy allows the site's own files only, and no page needs more."""
    model, admin = trained(1), visitor("root", superuser=True)
    for path in ("/", overview(model), settings(model), "/auth/user/"):
        answer = admin.get(path)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son[a-z]+=\"|<style", answer.text)
