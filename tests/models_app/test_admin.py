"""The admin, in a process in which it is enabled: every page of every model can be opened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: Creates a row of every model, and a superuser.
ROWS = """
import django
django.setup()
from django.apps import apps
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client as Browser
from django.urls import reverse
from django.utils import timezone
from models_app.models import *

call_command("migrate", verbosity=0)
now = timezone.now()
client = Client.objects.create()
model = FederatedModel.objects.create(name="model <b>", pause_reason="<script>")
model.clients.add(client)
artifact = ModelArtifact.objects.create(federated_model=model, values="a.npz", version="1")
aggregate = ModelAggregate.objects.create(federated_model=model, number=1, result="r.npz")
made_by = AggregationRound.objects.create(
    federated_model=model, number=1, aggregate=aggregate, state=1,
    lease_expires_at=now, started_on=now, error="<script>alert(1)</script>",
)
ModelUpdate.objects.create(
    client=client, federated_model=model, data="u.npz", round=made_by,
    rejection_reason="<script>alert(1)</script>", status=4,
)
ClientAggregateScore.objects.create(aggregate=aggregate, client=client, validation_results={})

browser = Browser(headers={"host": "localhost"})
browser.force_login(get_user_model().objects.create_superuser("root"))
RECORDS = (ModelUpdate, AggregationRound, ModelAggregate, ClientAggregateScore, ModelArtifact)
"""

#: Opens all pages of every model, and prints what failed.
BROWSE = """
shown = 0
for kind in apps.get_app_config("models_app").get_models():
    place = f"admin:{kind._meta.app_label}_{kind._meta.model_name}"
    row = kind.objects.get()
    for url in (
        reverse(f"{place}_changelist"),
        reverse(f"{place}_add"),
        reverse(f"{place}_change", args=[row.pk]),
        reverse(f"{place}_history", args=[row.pk]),
    ):
        answer = browser.get(url)
        wanted = 403 if kind in RECORDS[:-1] and url.endswith("/add/") else 200
        if answer.status_code != wanted:
            print(url, answer.status_code)
        if b"<script>alert" in answer.content:
            print(url, "shows what a client wrote unescaped")
        shown += 1
print("shown", shown)
"""


#: Submits the forms with which a record could be changed, and prints the answers.
FORGE = """
for kind in RECORDS:
    place = f"admin:models_app_{kind._meta.model_name}"
    row = kind.objects.get()
    before = kind.objects.values().get()
    form = {field: value for field, value in before.items() if value is not None}
    form |= {"status": 0, "result": "other.npz", "post": "yes"}
    answers = [
        browser.post(reverse(f"{place}_{page}", args=[row.pk]), form).status_code
        for page in ("change", "delete")
    ]
    chosen = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    browser.post(reverse(f"{place}_changelist"), chosen)
    print(kind.__name__, *answers, kind.objects.values().get() == before)
"""

#: Saves a model's form while the model is being paused: after the form has read it, before it writes.
RACE = """
from django.db.models.signals import pre_save
from models_app.models import pause_changes

def paused_meanwhile(**_):
    FederatedModel.objects.update(failed_rounds=3, pointer_digest="7", **pause_changes("3 failed", now))

pre_save.connect(paused_meanwhile, sender=FederatedModel)
form = {
    "name": "new", "aggregator": "weighted_mean", "aggregator_args": "{}",
    "target_round_seconds": "30", "server_optimizer": "none",
    "score_metric": "accuracy", "allow_aggregation": "on",
}
answer = browser.post(reverse("admin:models_app_federatedmodel_change", args=[model.pk]), form)
after = FederatedModel.objects.get()
print(answer.status_code, after.name, after.score_metric, after.clients.count())
print(after.allow_aggregation, after.pause_reason, after.failed_rounds, after.pointer_digest)
print(after.last_modified > model.last_modified)
"""


def printed(script: str, folder: Path) -> list[str]:
    """Return what a script prints that has the admin and its rows."""
    environment = {
        **os.environ,
        "ADMIN": "true",
        "SECRET_KEY": "abcde" * 10,
        "DATABASE_URL": f"sqlite:///{folder / 'admin.sqlite3'}",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ROWS + script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_every_page_can_be_opened(tmp_path: Path) -> None:
    """Lists, forms and histories of all models can be opened, with rows that contain HTML; there is no form
    for new updates, rounds, aggregates and scores."""
    assert printed(BROWSE, tmp_path) == ["shown 28"]


def test_records_cannot_be_changed(tmp_path: Path) -> None:
    """Not even a superuser changes or deletes an update, a round, an aggregate, a score or a version."""
    assert printed(FORGE, tmp_path) == [
        "ModelUpdate 403 403 True",
        "AggregationRound 403 403 True",
        "ModelAggregate 403 403 True",
        "ClientAggregateScore 403 403 True",
        "ModelArtifact 403 403 True",
    ]


def test_saving_a_model_writes_only_what_was_changed(tmp_path: Path) -> None:
    """A model that is paused while its form is saved stays paused, with its reason and its count."""
    assert printed(RACE, tmp_path) == ["302 new accuracy 1", "False 3 failed 3 7", "True"]
