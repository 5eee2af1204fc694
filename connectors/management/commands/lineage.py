"""``manage.py lineage MODEL``: the line of aggregates, with the versions made of them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from connectors.management.reports import (
    ReportCommand,
    add_model_argument,
    counted,
    found,
    plain_message,
    shown,
)
from models_app.models import FederatedModel, ModelAggregate


class Command(ReportCommand):
    """Shows a model's lineage as a tree."""

    help = "Show a model's line of aggregates and versions. Example: manage.py lineage 3"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)

    def handle(self, *args: Any, model: int, as_json: bool, **options: Any) -> None:
        with plain_message():
            federated_model = found(FederatedModel, model)
            versions: dict[str, list[str]] = defaultdict(list)
            for key, version in federated_model.artifacts.values_list("values", "version"):
                versions[key].append(version)
            aggregates = federated_model.aggregates.select_related("round", "parent").order_by(
                "number"
            )
            rows = [_row(each, versions) for each in aggregates]
        if as_json:
            self.report(rows, as_json=True)
            return
        self.stdout.write(f"{shown(federated_model.name)} (model {model})")
        for row in rows:
            branch = "└─" if row is rows[-1] else "├─"
            self.stdout.write(f"{branch} {_line(row)}")
        if not rows:
            self.stdout.write("└─ no aggregate yet")


def _row(aggregate: ModelAggregate, versions: Mapping[str, list[str]]) -> dict[str, Any]:
    made_by = getattr(aggregate, "round", None)
    return {
        "number": aggregate.number,
        "aggregate": aggregate.pk,
        "parent": aggregate.parent_id,
        "score": aggregate.validation_score,
        "held_back": aggregate.dropped(),
        "updates": made_by.updates_used if made_by else None,
        "rolled_back_to": made_by.config_snapshot.get("rolled_back_to") if made_by else None,
        "versions": versions.get(str(aggregate.result.name), []),
        "created": aggregate.created_on,
    }


def _line(row: dict[str, Any]) -> str:
    said = [f"{row['number']}: aggregate {row['aggregate']}, {shown(row['created'])}"]
    if row["rolled_back_to"]:
        said.append(f"the bytes of aggregate {row['rolled_back_to']} again")
    elif row["updates"] is not None:
        said.append(counted(row["updates"], "update"))
    if row["score"] is not None:
        said.append(f"score {shown(row['score'])}")
    if row["held_back"]:
        said.append("held back: worse than max_score_drop allows")
    said += [f"version {shown(version)}" for version in row["versions"]]
    return ", ".join(said)
