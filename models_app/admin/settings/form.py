"""The form of a federated model's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.forms import ChoiceField, ModelForm

from aggregation.optimizers import known_optimizers
from aggregation.requirements import known_requirements
from aggregation.rules import known_rules
from aggregation.staleness import known_discounts
from models_app.admin.settings.fields import (
    ArgumentsField,
    PoliciesField,
    ScheduleField,
    StepsField,
)
from models_app.models import FederatedModel

#: Fields by which something is chosen that takes arguments, and what there is to choose.
CHOSEN: dict[str, Callable[[], Mapping[str, type[Any]]]] = {
    "aggregator": known_rules,
    "server_optimizer": known_optimizers,
    "requirement": known_requirements,
    "staleness": known_discounts,
}


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

    class Meta:
        model = FederatedModel
        exclude = ("clients",)  # There may be many thousands: see MembershipAdmin.

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name, known in CHOSEN.items():
            if name in self.fields:
                chosen = self._chosen(name)
                kind = known().get(chosen)
                label = f"Arguments of {chosen}" if kind else f"Arguments of {name}"
                self.fields[f"{name}_args"] = ArgumentsField(chosen, kind, label=label)

    def _chosen(self, name: str) -> str:
        """Return what is chosen in a field: in what was sent, or else in what is stored."""
        if self.is_bound:
            return str(self.data.get(self.add_prefix(name), ""))
        return str(self.get_initial_for_field(self.fields[name], name) or "")
