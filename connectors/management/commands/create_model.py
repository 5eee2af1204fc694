"""``manage.py create_model NAME``: a federated model, its initial weights and its clients."""

from __future__ import annotations

import json
import uuid
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.files.base import File
from django.core.files.storage import default_storage
from django.core.management.base import CommandError
from django.db import transaction

from aggregation.errors import UpdateRejected
from aggregation.formats import format_of, peek_layout
from aggregation.sources import FileSource
from connectors import DjangoAggConnector
from connectors.aggregator import DEFAULT_SETTINGS
from connectors.latest import tell_latest
from connectors.management.membership import add_client_arguments, clients_asked_for
from connectors.management.reports import ReportCommand, told_plainly
from models_app.models import FederatedModel, ModelArtifact


class Command(ReportCommand):
    """Creates a federated model; all of it or nothing."""

    help = (
        "Create a federated model. Example: manage.py create_model digits --initial w.safetensors "
        "--rule trimmed_mean --rule-arg beta=0.2 --requirement quorum --requirement-arg x=3 "
        "--requirement-arg after_minutes=30 --clients 5"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("name")
        parser.add_argument("--initial", type=Path, metavar="FILE", help="the initial weights")
        parser.add_argument("--rule", default="weighted_mean", help="default: %(default)s")
        parser.add_argument("--requirement", default="all_clients", help="default: %(default)s")
        for option in ("--rule-arg", "--requirement-arg"):
            parser.add_argument(
                option,
                action="append",
                default=[],
                metavar="NAME=VALUE",
                help="an argument by name; may be given again",
            )
        add_client_arguments(parser)
        parser.add_argument(
            "--furthest-base",
            type=int,
            metavar="N",
            help="an update may be based on one of the N latest aggregates; without it, on any",
        )
        parser.add_argument(
            "--update-kind",
            choices=FederatedModel.UpdateKind.values,
            default=FederatedModel.UpdateKind.WEIGHTS.value,
            help="what clients send (default: %(default)s)",
        )
        parser.add_argument(
            "--max-num-examples", type=int, metavar="N", help="no update counts more than this"
        )

    def handle(self, *args: Any, name: str, as_json: bool, **options: Any) -> None:
        model = FederatedModel(
            name=name,
            aggregator=options["rule"],
            aggregator_args=_arguments(options["rule_arg"]),
            requirement=options["requirement"],
            requirement_args=_arguments(options["requirement_arg"]),
            furthest_base_agg=options["furthest_base"],
            update_kind=options["update_kind"],
            max_num_examples=options["max_num_examples"],
        )
        initial: Path | None = options["initial"]
        try:
            model.full_clean()
        except ValidationError as error:
            raise CommandError("; ".join(_told(error))) from error
        if model.update_kind == FederatedModel.UpdateKind.DIFFERENCES and initial is None:
            raise CommandError("differences are from something: give the model --initial weights")
        if initial is not None:
            _check_weights(initial)
        with told_plainly():
            with transaction.atomic():
                model.save()
                members = clients_asked_for(options["clients"], options["client"])
                model.clients.set(members)
                if initial is not None:
                    model.current_artifact = _stored(model, initial)
                    model.save()
            tell_latest(DjangoAggConnector(DEFAULT_SETTINGS).model_data.objects, model.pk)
        row = {"model": model.pk, "clients": [str(each.pk) for each in members]}
        if as_json:
            self.report_one(row, as_json=True)
            return
        self.stdout.write(f"model {model.pk} is created, with {len(members)} clients")
        for member in members:
            self.stdout.write(f"  {member.pk}")


def _arguments(given: list[str]) -> dict[str, Any]:
    """``["beta=0.1"]`` as ``{"beta": 0.1}``."""
    arguments: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise CommandError(f"an argument is given as NAME=VALUE; got {each!r}")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments


def _told(error: ValidationError) -> list[str]:
    return [f"{field}: {' '.join(why)}" for field, why in error.message_dict.items()]


def _check_weights(path: Path) -> None:
    try:
        peek_layout(FileSource(path), format_of(path.name))
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error
    except UpdateRejected as error:
        raise CommandError(f"{path} holds no weights that are known here: {error}") from error


def _stored(model: FederatedModel, path: Path) -> ModelArtifact:
    key = f"artifacts/{model.pk}/initial-{uuid.uuid4().hex}.{format_of(path.name)}"
    with path.open("rb") as file:
        stored = default_storage.save(key, File(file))
    return ModelArtifact.objects.create(federated_model=model, values=stored, version="initial")
