"""``manage.py create_model NAME``: a federated model, its initial weights and its clients."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from django.core.management.base import CommandError

from aggregation.layout import TensorLayout
from aggregation.sources import ByteSource
from connectors.management.arguments import add_new_client_arguments
from connectors.management.files import FILE_OR_OBJECT, open_input, read_input
from connectors.management.model_options import (
    add_model_options,
    model_changes,
    validation_errors_by_option,
)
from connectors.management.reports import ReportCommand
from connectors.management.tables import plural, to_json
from connectors.usecases.administration.clients import client_rows
from connectors.usecases.administration.initial_weights import check_initial_weights
from connectors.usecases.administration.models import create_model, model_warnings
from connectors.usecases.administration.tensors import (
    check_policies,
    layout_of,
    tensor_rows,
    unmatched_globs,
)
from models_app.defaults import NEW_MODEL
from models_app.models import FederatedModel


def _new_model(name: str, options: Mapping[str, Any]) -> FederatedModel:
    """Return a model with the settings of a simulation, if one is given, and those of the options."""
    fields: dict[str, Any] = {"name": name, "update_kind": options["update_kind"], **NEW_MODEL}
    simulated = None
    if options["simulation"] is not None:
        fields |= _simulated_settings(options["simulation"])
        simulated = FederatedModel(**fields)
    return FederatedModel(**(fields | model_changes(options, simulated)))


def _simulated_settings(name: str) -> dict[str, Any]:
    """Return the fields of a new model that a document of the laboratory sets, with their values.

    Raises
    ------
    CommandError
        If it cannot be read, or is not such a document.
    """
    from aggregation.model_settings import ModelSettings  # Few commands use it.

    try:
        return ModelSettings.from_json(json.loads(read_input(name, "--from"))).to_json()
    except (ValueError, RecursionError) as error:
        raise CommandError(f"--from: {name} has no settings of a simulation: {error}") from error


class Command(ReportCommand):
    """Creates a federated model, all of it or nothing; or lists its tensors with --dry-run."""

    help = (
        "Create a federated model. Example: manage.py create_model digits --initial w.safetensors "
        "--rule trimmed_mean --rule-arg f=1 --requirement quorum --requirement-arg x=3 "
        "--requirement-arg after_minutes=30 --score-metric accuracy --max-score-drop 0.05 --clients 5"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("name", help="unique")
        parser.add_argument(
            "--initial", metavar="FILE", help=f"the initial weights: {FILE_OR_OBJECT}"
        )
        parser.add_argument(
            "--from",
            dest="simulation",
            metavar="FILE",
            help="settings that History.save_settings of the laboratory wrote; other options replace "
            f"them: {FILE_OR_OBJECT}",
        )
        add_new_client_arguments(parser)
        add_model_options(parser, changing=False)
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="create nothing: list the tensors of the initial weights with their policies",
        )
        parser.add_argument(
            "--update-kind",
            choices=FederatedModel.UpdateKind.values,
            default=FederatedModel.UpdateKind.WEIGHTS.value,
            help="what clients send (default: %(default)s)",
        )

    def run(self, *args: Any, name: str, as_json: bool, **options: Any) -> None:
        model = _new_model(name, options)
        with ExitStack() as stack:
            initial = None
            if options["initial"] is not None:
                source = stack.enter_context(open_input(options["initial"], "--initial"))
                initial = source, check_initial_weights(source, options["initial"])
            if options["dry_run"]:
                self._list_tensors(model, initial, as_json=as_json)
                return
            stack.enter_context(validation_errors_by_option())
            members = create_model(
                model,
                new_clients=options["clients"],
                clients=options["client"],
                initial=initial,
            )
        self.write_pointer(model.pk)
        if initial is not None:
            self._warn_of_globs(model, layout_of(*initial))
        for warning in model_warnings(model, len(members)):
            self.stderr.write(warning)
        rows = client_rows(members)
        if as_json:
            ids = [each["client"] for each in rows]
            self.stdout.write(to_json({"model": model.pk, "clients": ids}))
            return
        self.stdout.write(f"model {model.pk} is created, with {plural(len(members), 'client')}")
        for row in rows:
            self.stdout.write(f"  {row['client']}  {row['name']}".rstrip())

    def _list_tensors(
        self, model: FederatedModel, initial: tuple[ByteSource, str] | None, *, as_json: bool
    ) -> None:
        if initial is None:
            raise CommandError("--dry-run lists the tensors of the initial weights: give --initial")
        with validation_errors_by_option():
            model.full_clean()
        layout = layout_of(*initial)
        check_policies(model, layout, initial[1])
        self._warn_of_globs(model, layout)
        rows = tensor_rows(model, layout)
        self.print_rows(rows, as_json=as_json, empty="the initial weights have no tensors")

    def _warn_of_globs(self, model: FederatedModel, layout: TensorLayout) -> None:
        for glob in unmatched_globs(model, layout):
            self.stderr.write(f"{glob!r} matches no tensor")
