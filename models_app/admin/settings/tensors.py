"""The policies of tensors, and the schedule of those that are frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.forms import Select, Textarea, TextInput

from aggregation.policies import CHOICES, MAX_GLOB
from models_app.admin.settings.fields import SettingField
from models_app.admin.settings.widgets import Input, Row, RowsWidget

#: Rows without a value, to add policies.
EMPTY_ROWS = 3


class PoliciesWidget(RowsWidget):
    """A row for each policy, and some empty ones."""

    note = (
        "The first glob that matches a tensor's name counts. A row without a glob is removed; save to get "
        "further rows."
    )

    def rows(self, value: Mapping[str, Any]) -> Sequence[Row]:
        filled = [n for n in range(_count(value)) if value.get(f"{n}-glob")]
        return [self._row(n, value) for n in range(max(filled, default=-1) + 1 + EMPTY_ROWS)]

    def names(self, data: Mapping[str, Any], name: str) -> Sequence[str]:
        count = sum(key.startswith(f"{name}-") and key.endswith("-glob") for key in data)
        return [f"{n}-{part}" for n in range(count) for part in ("glob", "policy")]

    def _row(self, n: int, value: Mapping[str, Any]) -> Row:
        policies = Select(choices=[(policy.value, policy.value) for policy in CHOICES])
        glob = TextInput({"maxlength": MAX_GLOB, "placeholder": "head.*"})
        return Row(
            inputs=[
                Input(
                    name=f"{n}-glob",
                    label=f"Tensors {n + 1}",
                    widget=glob,
                    value=value.get(f"{n}-glob", ""),
                ),
                Input(
                    name=f"{n}-policy",
                    label=f"Policy {n + 1}",
                    widget=policies,
                    value=value.get(f"{n}-policy", ""),
                ),
            ]
        )


class PoliciesField(SettingField):
    """The policies of tensors: globs and what a round does with the tensors that they match."""

    def __init__(self, **options: Any) -> None:
        super().__init__(PoliciesWidget(), **options)

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return value
        texts: dict[str, str] = {}
        for n, (glob, policy) in enumerate(value or ()):
            texts |= {f"{n}-glob": glob, f"{n}-policy": policy}
        return texts

    def normalized(self, value: Any) -> Any:
        return [list(pair) for pair in value or ()]

    def clean(self, value: Any) -> list[list[str]]:
        sent = value or {}
        rows = [(sent.get(f"{n}-glob"), sent.get(f"{n}-policy")) for n in range(_count(sent))]
        return [[glob, policy or ""] for glob, policy in rows if glob]


class ScheduleWidget(RowsWidget):
    """The globs of the tensors that are frozen after odd and after even aggregates."""

    def rows(self, value: Mapping[str, Any]) -> Sequence[Row]:
        return [
            Row(
                inputs=[
                    Input(
                        name=numbers,
                        label=f"After an aggregate with an {numbers} number",
                        widget=Textarea({"rows": 2, "cols": 40}),
                        help="A glob on each line. The initial weights have number 0."
                        if numbers == "even"
                        else "A glob on each line.",
                        value=value.get(numbers, ""),
                    )
                    for numbers in ("odd", "even")
                ]
            )
        ]


class ScheduleField(SettingField):
    """The schedule of frozen tensors."""

    def __init__(self, **options: Any) -> None:
        super().__init__(ScheduleWidget(), **options)

    def prepare_value(self, value: Any) -> Any:
        given = value or {}
        return {
            numbers: globs if isinstance(globs, str) else "\n".join(globs)
            for numbers, globs in given.items()
        }

    def normalized(self, value: Any) -> Any:
        return {numbers: list(globs) for numbers, globs in (value or {}).items() if globs}

    def clean(self, value: Any) -> dict[str, list[str]]:
        globs = {numbers: text.split("\n") for numbers, text in (value or {}).items()}
        stripped = {n: [g.strip() for g in lines if g.strip()] for n, lines in globs.items()}
        return {numbers: lines for numbers, lines in stripped.items() if lines}


def _count(value: Mapping[str, Any]) -> int:
    return sum(key.endswith("-glob") for key in value)
