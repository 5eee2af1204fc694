"""The code in docs/clients.md works as shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import federated_client
from connectors.publication.pointer import Latest
from local.cloud import Cloud
from models_app.models import ModelAggregate
from tests.client.conftest import checking_posts
from tests.client.delivery import deliver
from tests.factories import client_id, filled, make_model
from tests.test_lambda_handler import invoke, payload

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def example() -> str:
    """Return the lines in the docstring of the package."""
    return dedent("".join(re.findall(r"^ {4}.*\n", federated_client.__doc__ or "", re.MULTILINE)))


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("lines", [blocks("python")[0], example()], ids=["page", "package"])
def test_the_few_lines_send_an_update_and_a_score(
    lines: str, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first lines of the page, and those of the package, make a round as they are."""
    model = make_model(1, initial=filled(0.0), score_metric="accuracy")
    invoke(payload("schedule-sweep"))
    monkeypatch.setattr("time.sleep", lambda seconds: deliver(cloud))
    assert str(client_id(1)) in lines
    lines = lines.replace("model_id=3", f"model_id={model.pk}")
    scope: dict[str, Any] = {"train": lambda weights: {k: v + 1 for k, v in weights.items()}}
    exec(lines, scope)
    assert scope["me"].base.number == 1
    np.testing.assert_array_equal(scope["me"].fetch()["w"], filled(1.0)["w"])
    while deliver(cloud):
        pass
    aggregate = model.aggregates.get()
    assert aggregate.validation_score == 0.93
    assert model.model_updates.get().num_examples == 120


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_form_is_sent_without_the_client_package(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy on the page allows the form on the page, and the update counts what the form says."""
    model = make_model(1, initial=filled(0.0))
    assert model.current_artifact
    latest = ModelAggregate.objects.create(
        federated_model=model, number=1, result=model.current_artifact.values.name
    )
    monkeypatch.chdir(tmp_path)
    Path("mine.safetensors").write_bytes(safetensors.numpy.save(filled(1.0)))
    sign, send = (each for each in blocks("python") if "post[" in each or "post =" in each)
    sign = sign.replace("updates/3/<client>", f"updates/{model.pk}/{client_id(1)}")
    scope: dict[str, Any] = {"s3": cloud.client("s3")}
    exec(sign, scope)
    with checking_posts(cloud) as url:
        scope["post"]["url"] = url
        exec(send.replace('"17"', f'"{latest.pk}"'), scope)
    assert deliver(cloud)
    update = model.model_updates.get()
    assert (update.rejection_reason, update.num_examples) == ("", 120)
    assert update.base_aggregate == latest


def test_latest_json_is_documented_field_by_field() -> None:
    """The page shows every field the function writes, and no other."""
    (shown,) = blocks("json")
    assert json.loads(shown).keys() == Latest.__dataclass_fields__.keys()
