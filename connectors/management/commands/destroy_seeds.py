"""``manage.py destroy_seeds MODEL``: make the noise of a private model unrecoverable."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors import application
from connectors.management.arguments import add_model_argument
from connectors.management.lookup import find_model
from connectors.management.reports import ReportCommand
from connectors.management.tables import plural
from connectors.usecases.administration.seeds import destroy_seeds


class Command(ReportCommand):
    """Destroys the seeds of a private model's noise."""

    help = (
        "Destroy the seeds of a private model's noise, and the data key that encrypts them, which "
        "makes those in copies of the database useless. Afterwards nobody can remove the noise from the "
        "model's aggregates, and nobody can verify them. This cannot be undone. "
        "Example: manage.py destroy_seeds digits"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)

    def run(self, *args: Any, model: str, as_json: bool, **options: Any) -> None:
        found = find_model(model)
        destroyed = destroy_seeds(application.private_rounds().vault, found)
        rounds = f"the seeds of {plural(destroyed.seeds, 'round')} of model {found.pk}"
        self.print_result(
            {"model": found.pk, "data_key": destroyed.data_key, "seeds": destroyed.seeds},
            f"the data key is destroyed, with {rounds}"
            if destroyed.data_key
            else f"there was no data key: {rounds} are deleted",
            as_json=as_json,
        )
