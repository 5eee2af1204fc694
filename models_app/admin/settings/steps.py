"""The steps before the rule, in the order in which they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.forms import Select

from aggregation.description import Argument, arguments_of
from aggregation.errors import RuleError
from aggregation.pre_aggregation import create_pre_aggregation, known_pre_aggregations
from models_app.admin.settings.arguments import argument_input, summary
from models_app.admin.settings.fields import SettingField
from models_app.admin.settings.widgets import Input, Row, RowsWidget

#: The choice of a step's place in the order that leaves the step out.
UNUSED = "not used"


class StepsWidget(RowsWidget):
    """A row for each step that exists: its place in the order, and its arguments."""

    note = "Steps run before the rule, in the order that is chosen here."

    def rows(self, value: Mapping[str, Any]) -> Sequence[Row]:
        known = known_pre_aggregations()
        places = [("", UNUSED), *((str(n), str(n)) for n in range(1, len(known) + 1))]
        return [
            Row(
                heading=name,
                help=summary(kind),
                inputs=[
                    Input(
                        name=f"{name}-place",
                        label="place",
                        widget=Select(choices=places),
                        value=value.get(f"{name}-place", ""),
                    ),
                    *(argument_input(each, value, f"{name}-") for each in arguments_of(kind)),
                ],
            )
            for name, kind in known.items()
        ]


class StepsField(SettingField):
    """The steps before the rule, such as ``["arc(f=2)", "nnm(f=2)"]``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(StepsWidget(), **options)

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, Mapping):  # What was sent, and is not valid.
            return value
        texts: dict[str, Any] = {}
        for place, step in enumerate(_steps(value), 1):
            texts[f"{step.name}-place"] = str(place)
            for each in arguments_of(type(step)):
                texts[f"{step.name}-{each.name}"] = getattr(step, each.name)
        return texts

    def normalized(self, value: Any) -> Any:
        return [str(step) for step in _steps(value)]

    def clean(self, value: Any) -> list[str]:
        sent = dict(value or {})
        chosen: list[tuple[int, str]] = []
        problems = []
        for name, kind in known_pre_aggregations().items():
            if not (place := sent.get(f"{name}-place", "")):
                continue
            try:
                given = _given(arguments_of(kind), sent, f"{name}-")
                text = f"{name}({', '.join(f'{k}={v}' for k, v in given.items())})"
                step = create_pre_aggregation(text)
                chosen.append((int(place), str(step)))
            except (RuleError, ValueError) as error:
                problems.append(f"{name}: {error}".replace(f"{name}: {name}: ", f"{name}: "))
        if len({place for place, _ in chosen}) < len(chosen):
            problems.append("Two steps have the same place: give each step a place of its own.")
        if problems:
            raise ValidationError(problems)
        return [text for _, text in sorted(chosen)]


def _given(arguments: Sequence[Argument], sent: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """Return the arguments that were typed."""
    typed = [(each, sent.get(prefix + each.name, "")) for each in arguments]
    return {each.name: each.parse(text) for each, text in typed if text}


def _steps(value: Any) -> list[Any]:
    return [create_pre_aggregation(text) for text in value or ()]
