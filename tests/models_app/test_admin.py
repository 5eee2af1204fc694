"""The admin, in a process that has it switched on: every page of every model can be opened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: Opens the list, the form for a new row and the form of a row of every model; prints what failed.
BROWSE = """
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
        wanted = 403 if url.endswith("/aggregationround/add/") else 200
        if answer.status_code != wanted:
            print(url, answer.status_code)
        if b"<script>alert" in answer.content:
            print(url, "shows what a client wrote unescaped")
        shown += 1
print("shown", shown)
"""


def test_every_page_can_be_opened(tmp_path: Path) -> None:
    """Lists, forms and histories of all seven models, with rows in them that are not kind to HTML; but
    for the form of a new round, since rounds are a record."""
    environment = {
        **os.environ,
        "ADMIN": "true",
        "SECRET_KEY": "x" * 50,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'admin.sqlite3'}",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BROWSE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["shown 28"]
