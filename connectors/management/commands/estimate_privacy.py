"""``manage.py estimate_privacy``: what noise guarantees, and how much of it a guarantee needs."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from aggregation.privacy.settings import MAX_EPSILON, NEIGHBOURS, DifferentialPrivacy
from connectors.management.amounts import positive_number, whole_number
from connectors.management.reports import ReportCommand
from models_app.privacy import epsilon_of_rounds, least_noise


class Command(ReportCommand):
    """Computes the epsilon of rounds with some noise, or the noise for an epsilon."""

    help = (
        "Compute what the noise of a private model guarantees after some rounds, or how much noise a "
        "wanted epsilon needs; nothing is changed. "
        "Example: manage.py estimate_privacy --rounds 100 --cohort 200 --epsilon 8"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--rounds",
            type=whole_number(1, 10**6),
            required=True,
            metavar="N",
            help="rounds in all",
        )
        parser.add_argument(
            "--cohort",
            type=whole_number(1, 2**31),
            required=True,
            metavar="N",
            help="clients that are expected in a round",
        )
        parser.add_argument(
            "--delta",
            type=positive_number(0.1),
            metavar="X",
            help="default: one divided by ten times the cohort",
        )
        parser.add_argument(
            "--clip-norm",
            type=positive_number(1e12),
            default=1.0,
            metavar="X",
            help="norm to which differences are clipped (default: %(default)s)",
        )
        wanted = parser.add_mutually_exclusive_group(required=True)
        wanted.add_argument(
            "--noise-multiplier",
            type=positive_number(1000.0),
            metavar="X",
            help="gives the epsilon",
        )
        wanted.add_argument(
            "--epsilon",
            type=positive_number(MAX_EPSILON),
            metavar="X",
            help="gives the noise multiplier",
        )

    def run(self, *args: Any, rounds: int, cohort: int, as_json: bool, **options: Any) -> None:
        delta = options["delta"] or min(0.1, 0.1 / cohort)
        if options["epsilon"] is None:
            multiplier = options["noise_multiplier"]
        else:
            multiplier = least_noise(options["epsilon"], delta, rounds)
            if multiplier is None:
                raise CommandError(
                    f"no noise is enough for epsilon {options['epsilon']:g} in {rounds} rounds: lower the "
                    "rounds, or allow a larger epsilon"
                )
        settings = DifferentialPrivacy(
            clip_norm=options["clip_norm"],
            noise_multiplier=multiplier,
            cohort=cohort,
            delta=delta,
            max_epsilon=options["epsilon"] or MAX_EPSILON,
        )
        epsilon = epsilon_of_rounds(multiplier, delta, rounds)
        if epsilon is None:
            raise CommandError(
                f"{rounds} rounds with a noise multiplier of {multiplier:g} have an epsilon above "
                f"{MAX_EPSILON:g}, which protects nobody: raise the noise or lower the rounds"
            )
        deviation = multiplier * settings.clip_norm / cohort
        row = {
            "epsilon": epsilon,
            "delta": delta,
            "neighbours": NEIGHBOURS,
            "rounds": rounds,
            "noise_multiplier": multiplier,
            "clip_norm": settings.clip_norm,
            "cohort": cohort,
            "standard_deviation": deviation,
        }
        self.print_row(row, as_json=as_json)
