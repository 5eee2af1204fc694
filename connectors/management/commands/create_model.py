"""``manage.py create_model NAME``: a federated model, its initial weights and its clients."""

from __future__ import annotations

import json
import math
import uuid
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.db import transaction

from aggregation.requirements import Readiness, create_requirement, known_requirements
from aggregation.rules import create_rule, known_rules
from aggregation.sources import ByteSource, read
from connectors import DjangoAggConnector
from connectors.management.initial import initial_weights
from connectors.management.inputs import EITHER, source_of
from connectors.management.membership import add_client_arguments, clients_asked_for
from connectors.management.reports import ReportCommand, counted, plain_message
from connectors.storage.port import copy_to_sink
from connectors.workflow.aggregator import DEFAULT_SETTINGS
from models_app.models import FederatedModel, ModelArtifact
from models_app.schemas import compiled


class Command(ReportCommand):
    """Creates a federated model; all of it or nothing."""

    help = (
        "Create a federated model. Example: manage.py create_model digits --initial w.safetensors "
        "--rule trimmed_mean --rule-arg beta=0.2 --requirement quorum --requirement-arg x=3 "
        "--requirement-arg after_minutes=30 --score-metric accuracy --max-score-drop 0.05 --clients 5"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("name")
        parser.add_argument("--initial", metavar="FILE", help=f"the initial weights: {EITHER}")
        parser.add_argument(
            "--developer", metavar="USERNAME", help="who may see and act on the model in the admin"
        )
        add_client_arguments(parser)
        _add_round_arguments(parser)
        _add_score_arguments(parser)

    def handle(self, *args: Any, name: str, as_json: bool, **options: Any) -> None:
        with plain_message():
            given = options["initial"]
            initial = None if given is None else initial_weights(given)
            model = _checked(name, options)
            with transaction.atomic():
                model.save()
                members = clients_asked_for(options["clients"], options["client"])
                model.clients.set(members)
                if initial is not None:
                    model.current_artifact = _stored(model, *initial)
                    model.save()
        self.write_pointer(model.pk)
        lacking = _lacking(model, len(members))
        if lacking:
            self.stderr.write(lacking)
        row = {"model": model.pk, "clients": [str(each.pk) for each in members]}
        if as_json:
            self.report_one(row, as_json=True)
            return
        self.stdout.write(f"model {model.pk} is created, with {counted(len(members), 'client')}")
        for member in members:
            self.stdout.write(f"  {member.pk}")


def _add_round_arguments(parser: ArgumentParser) -> None:
    """What a round takes, and how it combines it."""
    for option, default, known in (
        ("--rule", "weighted_mean", sorted(known_rules())),
        ("--requirement", "all_clients", [*known_requirements(), "'' for any update"]),
    ):
        parser.add_argument(
            option,
            default=default,
            metavar="NAME",
            help=f"one of {', '.join(known)} (default: %(default)s)",
        )
    for option in ("--rule-arg", "--requirement-arg"):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="an argument by name; may be given again",
        )
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
    parser.add_argument(
        "--update-schema",
        metavar="FILE",
        help="a JSON schema that is kept for workflows that ask for it; no round looks at it",
    )


def _add_score_arguments(parser: ArgumentParser) -> None:
    """What clients report of an aggregate, and what follows from it."""
    parser.add_argument(
        "--score-metric",
        default="",
        metavar="NAME",
        help="the number, among those that clients report, which is an aggregate's score",
    )
    parser.add_argument("--lower-is-better", action="store_true", help="the score is a loss")
    parser.add_argument(
        "--max-score-drop",
        type=float,
        metavar="X",
        help="publish no aggregate as a version that scores worse than its parent by more than X",
    )
    parser.add_argument(
        "--score-schema", metavar="FILE", help=f"a JSON schema that scores are held to: {EITHER}"
    )


def _checked(name: str, options: Mapping[str, Any]) -> FederatedModel:
    """The model that is asked for, not saved yet.

    Raises
    ------
    CommandError
        If it cannot be: it names the option.
    """
    namesake = FederatedModel.objects.filter(name=name).first()
    if namesake:
        raise CommandError(f"model {namesake.pk} is named {name!r} already: choose another name")
    drop = options["max_score_drop"]
    if drop is not None and not 0 <= drop < math.inf:
        raise CommandError(f"--max-score-drop must be a number from 0; got {drop}")
    if not options["score_metric"] and (drop is not None or options["lower_is_better"]):
        raise CommandError("which number is the score? Name it with --score-metric")
    model = FederatedModel(
        name=name,
        developer=_user(options["developer"]),
        aggregator=options["rule"],
        aggregator_args=_arguments(options["rule_arg"]),
        requirement=options["requirement"],
        requirement_args=_arguments(options["requirement_arg"]),
        furthest_base_agg=options["furthest_base"],
        update_kind=options["update_kind"],
        max_num_examples=options["max_num_examples"],
        update_schema=_schema("--update-schema", options["update_schema"]),
        client_agg_results_schema=_schema("--score-schema", options["score_schema"]),
        score_metric=options["score_metric"],
        lower_is_better=options["lower_is_better"],
        max_score_drop=drop,
    )
    try:
        model.full_clean()
    except ValidationError as error:
        raise CommandError("; ".join(_told(error))) from error
    if model.update_kind == FederatedModel.UpdateKind.DIFFERENCES and options["initial"] is None:
        raise CommandError("differences are from something: give the model --initial weights")
    return model


def _user(username: str | None) -> Any:
    users = get_user_model()._default_manager
    if username is None:
        return None
    user = users.filter(username=username).first()
    if user is None:
        raise CommandError(
            f"there is no user {username!r}: manage.py createsuperuser makes one, and so does the admin"
        )
    return user


def _schema(option: str, given: str | None) -> Any:
    if given is None:
        return None
    with source_of(given, option) as source:
        text = read(source, 0, source.size)
    try:
        schema = json.loads(text)
        compiled(schema)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{option}: {given} holds no JSON schema: {error}") from error
    return schema


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
    """Each problem with the option that it is about."""
    return [
        f"{_OPTIONS.get(field, '--' + field.replace('_', '-'))}: {' '.join(why)}"
        for field, why in error.message_dict.items()
    ]


#: Options that are not named like their fields.
_OPTIONS = {
    "name": "name",
    "aggregator": "--rule",
    "furthest_base_agg": "--furthest-base",
    "client_agg_results_schema": "--score-schema",
}


def _lacking(model: FederatedModel, members: int) -> str:
    """Why the members there are can never make a round, in words; empty if they can. Who made none
    has yet to say who they are."""
    requirement = create_requirement(model.requirement, model.requirement_args)
    rule = create_rule(model.aggregator, model.aggregator_args)
    needed, by = max(
        (requirement.needed(Readiness(members=members, ready=members)), model.requirement),
        (rule.min_updates, rule.name),
    )
    if not members or needed <= members:
        return ""
    there = "1 client is" if members == 1 else f"{members} clients are"
    return (
        f"no round will start yet: {by} needs {counted(needed, 'update')}, {there} there; "
        f"manage.py add_clients {model.pk} adds more"
    )


def _stored(model: FederatedModel, source: ByteSource, format: str) -> ModelArtifact:
    objects = DjangoAggConnector(DEFAULT_SETTINGS).model_data.objects
    key = f"artifacts/{model.pk}/initial-{uuid.uuid4().hex}.{format}"
    stored = copy_to_sink(source, objects.sink(key, None))
    return ModelArtifact.objects.create(federated_model=model, values=stored, version="initial")
