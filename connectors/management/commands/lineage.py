"""``manage.py lineage MODEL``: the line of aggregates, with the versions made of them."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from aggregation.privacy.settings import NEIGHBOURS
from connectors.management.arguments import add_limit_argument, add_model_argument
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.management.tables import cell, plural, to_json
from connectors.usecases.administration.listings import list_lineage


class Command(ReportCommand):
    """Shows a model's lineage as a tree."""

    help = (
        "Show a model's aggregates and versions, the latest last. Example: manage.py lineage digits"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        add_limit_argument(parser, 50)

    def run(self, *args: Any, model: str, limit: int, as_json: bool, **options: Any) -> None:
        federated_model = find_model(model)
        rows = list_lineage(federated_model, limit)
        more = len(rows) > limit
        rows = rows[:limit][::-1]
        if as_json:
            self.stdout.write(to_json(rows))
        else:
            self.stdout.write(f"{cell(federated_model.name)} (model {federated_model.pk})")
            for row in rows:
                branch = "└─" if row is rows[-1] else "├─"
                self.stdout.write(f"{branch} {_line(row)}")
            if not rows:
                self.stdout.write("└─ no aggregate yet")
        if more:
            self.stderr.write(f"the last {limit} are shown; --limit {2 * limit} shows more")


def _line(row: dict[str, Any]) -> str:
    parts = [f"{row['number']}: aggregate {row['aggregate']}, {cell(row['created'])}"]
    if row["rolled_back_to"]:
        parts.append(f"rolled back to aggregate {row['rolled_back_to']}")
    elif row["updates"] is not None:
        parts.append(plural(row["updates"], "update"))
    if row["score"] is not None:
        parts.append(f"score {cell(row['score'])}")
    if row["epsilon"] is not None:
        parts.append(f"epsilon {row['epsilon']:.4f} {NEIGHBOURS}")
    if row["held_back"]:
        parts.append("held back: worse than max_score_drop allows")
    parts += [f"version {cell(version)}" for version in row["versions"]]
    return ", ".join(parts)
