"""The form of a federated model's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.forms import ChoiceField, ModelForm

from aggregation.masks.settings import SecureAggregation
from aggregation.optimizers import known_optimizers
from aggregation.privacy.settings import DifferentialPrivacy
from aggregation.requirements import known_requirements
from aggregation.rules import known_rules
from aggregation.staleness import known_discounts
from models_app.admin.settings.arguments import ArgumentsField, OptionalField
from models_app.admin.settings.fields import SchemaField
from models_app.admin.settings.steps import StepsField
from models_app.admin.settings.tensors import PoliciesField, ScheduleField
from models_app.models import FederatedModel

#: Fields by which something is chosen that takes arguments, and what there is to choose.
CHOSEN: dict[str, Callable[[], Mapping[str, type[Any]]]] = {
    "aggregator": known_rules,
    "server_optimizer": known_optimizers,
    "requirement": known_requirements,
    "staleness": known_discounts,
}

#: Settings that a model may have, their dataclasses, and the value without them.
OPTIONAL: dict[str, tuple[type[Any], Any]] = {
    "secure_aggregation": (SecureAggregation, {}),
    "differential_privacy": (DifferentialPrivacy, None),
}

#: The fields under their headings; others follow under a heading of their own.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Model": ("name", "developer", "current_artifact", "update_kind"),
    "Aggregation": (
        *("aggregator", "aggregator_args", "pre_aggregation"),
        *("server_optimizer", "server_optimizer_args"),
    ),
    "When a round starts": ("requirement", "requirement_args"),
    "Which updates count, and for how much": (
        *("max_num_examples", "furthest_base_agg", "staleness", "staleness_args"),
    ),
    "Tensors": ("tensor_policies", "freeze"),
    "Privacy": ("secure_aggregation", "differential_privacy"),
    "Scores": ("score_metric", "lower_is_better", "max_score_drop", "client_agg_results_schema"),
    "Several functions": ("target_round_seconds", "max_functions"),
    "Other settings": (),
    "State": ("allow_aggregation", "pause_reason", "failed_rounds", "created", "modified"),
}

LABELS = {
    "aggregator": "Rule",
    "pre_aggregation": "Steps before the rule",
    "update_kind": "What clients send",
    "max_num_examples": "Largest number of examples",
    "furthest_base_agg": "Latest aggregates allowed as base",
    "staleness": "Discount of late updates",
    "tensor_policies": "Policies of tensors",
    "freeze": "Frozen tensors",
    "score_metric": "Score",
    "max_score_drop": "Largest drop of the score",
    "client_agg_results_schema": "Schema of scores",
    "update_schema": "Schema of updates",
    "target_round_seconds": "Target duration of a round",
    "max_functions": "Largest number of functions",
}


def sections(names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the fields of the form under their headings, for `ModelAdmin.fieldsets`."""
    listed = {name for section in SECTIONS.values() for name in section}
    others = [name for name in names if name not in listed]
    shown = {
        heading: [each for each in fields if each in names] for heading, fields in SECTIONS.items()
    }
    shown["Other settings"] = others
    return [(heading, {"fields": fields}) for heading, fields in shown.items() if fields]


class FederatedModelForm(ModelForm):  # type: ignore[type-arg]
    """Offers the rules, optimizers, steps and requirements that exist, each with its arguments.

    The arguments are those of what is stored, or was sent. If something else is chosen that takes
    arguments, the form is not saved but shown again with them. It needs no script.
    """

    aggregator = ChoiceField(choices=[(name, name) for name in known_rules()])
    aggregator_args = ArgumentsField()
    pre_aggregation = StepsField()
    server_optimizer = ChoiceField(choices=[(name, name) for name in known_optimizers()])
    server_optimizer_args = ArgumentsField()
    requirement = ChoiceField(
        choices=[("", "any update"), *((name, name) for name in known_requirements())],
        required=False,
    )
    requirement_args = ArgumentsField()
    staleness = ChoiceField(
        choices=[("", "no discount"), *((name, name) for name in known_discounts())],
        required=False,
    )
    staleness_args = ArgumentsField()
    tensor_policies = PoliciesField()
    freeze = ScheduleField()
    client_agg_results_schema = SchemaField(
        help_text="A JSON schema that the scores of clients must match."
    )
    update_schema = SchemaField(
        help_text="A JSON schema for workflows that ask for it; rounds do not use it."
    )

    class Meta:
        model = FederatedModel
        labels = LABELS  # Read-only fields have theirs from here.
        exclude = ("clients",)  # There may be many thousands: see MembershipAdmin.

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.instance.initial_weights_follow = False
        for name, (kind, unset) in OPTIONAL.items():
            if name in self.fields:
                self.fields[name] = OptionalField(name, kind, unset)
        for name, label in LABELS.items():
            if name in self.fields:
                self.fields[name].label = label
        for name, known in CHOSEN.items():
            if name in self.fields:
                chosen = self._chosen(name)
                chosen_kind = known().get(chosen)
                label = f"Arguments of {chosen}" if chosen_kind else "Arguments"
                self.fields[f"{name}_args"] = ArgumentsField(chosen, chosen_kind, label=label)

    def _chosen(self, name: str) -> str:
        """Return what is chosen in a field: in what was sent, otherwise in what is stored."""
        if self.is_bound:
            return str(self.data.get(self.add_prefix(name), ""))
        return str(self.get_initial_for_field(self.fields[name], name) or "")
