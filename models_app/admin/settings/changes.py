"""What a change of the settings means, in sentences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from aggregation.optimizers import create_optimizer
from aggregation.pre_aggregation import build_rule
from models_app.models import FederatedModel
from models_app.overview.readiness import count_members
from models_app.requirements import requirement_in_words

#: Settings whose changes are shown, and their names there. The rule and its steps have their own sentence.
WORDS = {
    "server_optimizer": "server optimizer",
    "staleness": "discount of late updates",
    "tensor_policies": "policies of tensors",
    "freeze": "frozen tensors",
    "secure_aggregation": "secure aggregation",
    "differential_privacy": "differential privacy",
    "max_num_examples": "an update counts at most this many examples",
    "furthest_base_agg": "latest aggregates an update may be based on",
    "score_metric": "score",
    "lower_is_better": "the score is a loss",
    "max_score_drop": "largest drop of the score that is published",
    "target_round_seconds": "seconds that a round should take",
    "max_functions": "functions that may share a round",
}


def changes_in_words(
    before: Mapping[str, Any], model: FederatedModel, changed: Iterable[str]
) -> list[str]:
    """Return what will be different from the next round on, a sentence for each change.

    Parameters
    ----------
    before : mapping
        The settings as they were, by field.
    model : FederatedModel
        As it is saved.
    changed : iterable of str
        The names of the fields.
    """
    fields = {name.removesuffix("_args") for name in changed}
    sentences = []
    if fields & {"aggregator", "pre_aggregation"}:
        sentences.append(_rule(before, model))
        fields -= {"aggregator", "pre_aggregation"}
    if "requirement" in fields:
        members = count_members([model]).get(model.pk, 0)
        sentences.append(f"A round starts with {requirement_in_words(model, members)}.")
        fields.discard("requirement")
    for name in WORDS:
        if name in fields:
            sentences.append(f"{WORDS[name].capitalize()}: {_shown(before, model, name)}.")
    return sentences


def _rule(before: Mapping[str, Any], model: FederatedModel) -> str:
    now = _call(model.aggregator, model.aggregator_args, model.pre_aggregation)
    was = _call(before["aggregator"], before["aggregator_args"], before["pre_aggregation"])
    fewest = build_rule(model.aggregator, model.aggregator_args, model.pre_aggregation).min_updates
    needs = f"; it needs at least {fewest} updates" if fewest > 1 else ""
    return f"Updates are combined by {now} instead of {was}{needs}."


def _shown(before: Mapping[str, Any], model: FederatedModel, name: str) -> str:
    if f"{name}_args" in before:
        now = _call(getattr(model, name), getattr(model, f"{name}_args"))
        was = _call(before[name], before[f"{name}_args"])
        note = _optimizer_note(before, model) if name == "server_optimizer" else ""
        return f"{now} instead of {was}{note}"
    return f"{_value(getattr(model, name))} instead of {_value(before.get(name))}"


def _optimizer_note(before: Mapping[str, Any], model: FederatedModel) -> str:
    slots = create_optimizer(model.server_optimizer, model.server_optimizer_args).slots
    is_another = model.server_optimizer != before["server_optimizer"]
    return "; it starts with a new state" if is_another and slots else ""


def _call(name: str, arguments: Any, steps: Iterable[str] = ()) -> str:
    """Return a rule as it would be called, after its steps: ``nnm(f=2), krum(f=2)``."""
    if isinstance(arguments, list):
        given = ", ".join(map(str, arguments))
    else:
        given = ", ".join(f"{key}={value}" for key, value in (arguments or {}).items())
    call = f"{name or 'none'}({given})" if given else name or "none"
    return ", ".join([*steps, call])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in (None, "", [], {}):
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
