"""Form fields for settings that are stored as JSON: arguments, steps, policies and schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.forms import Field, HiddenInput, JSONField, Select, Textarea, TextInput
from django.utils.html import escape

from aggregation.description import Argument, arguments_of, describe
from aggregation.errors import RuleError
from aggregation.policies import CHOICES, MAX_GLOB
from aggregation.pre_aggregation import create_pre_aggregation, known_pre_aggregations
from models_app.admin.settings.widgets import Input, Row, RowsWidget

#: Rows without a value, to add policies.
EMPTY_ROWS = 3

#: What a step's input offers: its place in the order.
UNUSED = "not used"


class SettingField(Field):
    """A field whose value is JSON, and whose widget has several inputs."""

    empty: Any = None

    def __init__(self, widget: RowsWidget, **options: Any) -> None:
        super().__init__(widget=widget, required=False, **options)

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Return whether the inputs differ from what is stored."""
        try:
            return bool((self.normalized(initial) or None) != (self.clean(data) or None))
        except ValidationError:
            return True

    def normalized(self, value: Any) -> Any:
        """Return a stored value as `to_python` would return it."""
        return value


class ArgumentsWidget(RowsWidget):
    """An input for each argument of what was chosen."""

    def __init__(self, name: str, arguments: Sequence[Argument]) -> None:
        super().__init__()
        self.chosen, self.arguments = name, arguments
        if not arguments:
            self.empty = "No arguments." if name else "Nothing is chosen."

    def rows(self, value: Mapping[str, Any]) -> Sequence[Row]:
        # The form sends the name of the choice that its inputs belong to: other choices have arguments of
        # the same names.
        marker = Input(name="of", label="", widget=HiddenInput(), value=self.chosen)
        return [Row(inputs=[marker, *(_argument_input(each, value) for each in self.arguments)])]


class ArgumentsField(SettingField):
    """The arguments of a rule, an optimizer, a requirement or a discount.

    Parameters
    ----------
    name : str
        Of what was chosen; empty for nothing.
    kind : type or None
        Its dataclass.
    """

    def __init__(self, name: str = "", kind: type[Any] | None = None, **options: Any) -> None:
        self.name, self.arguments = name, arguments_of(kind) if kind else []
        about = escape(_summary(kind)) if kind else ""
        super().__init__(ArgumentsWidget(name, self.arguments), help_text=about, **options)

    def prepare_value(self, value: Any) -> Any:
        return self.normalized(value)

    def normalized(self, value: Any) -> Any:
        """Return stored arguments by name, without those that are None."""
        if isinstance(value, list):
            value = dict(zip((each.name for each in self.arguments), value, strict=False))
        given = value if isinstance(value, Mapping) else {}
        return {name: each for name, each in given.items() if each is not None}

    def clean(self, value: Any) -> dict[str, Any]:
        sent = dict(value or {})
        if self.arguments and sent.pop("of", "") != self.name:
            raise ValidationError(
                f"These are the arguments of {self.name}: check them, and save again."
            )
        given: dict[str, Any] = {}
        problems = []
        for each in self.arguments:
            text = sent.get(each.name, "")
            try:
                if text:
                    given[each.name] = each.parse(text)
                elif each.is_required:
                    raise RuleError(f"{each.name} is required")
            except RuleError as error:
                problems.append(str(error))
        if problems:
            raise ValidationError(problems)
        return given


class OptionalField(ArgumentsField):
    """Settings that a model may have, of which all or none are given.

    Parameters
    ----------
    name : str
        Of the field.
    kind : type
        Its dataclass.
    unset : object
        The value without settings.
    """

    def __init__(self, name: str, kind: type[Any], unset: Any, **options: Any) -> None:
        super().__init__(name, kind, **options)
        self.widget.note = "Leave all inputs empty to switch it off."
        self._unset = unset

    def clean(self, value: Any) -> Any:
        sent = value or {}
        given = {name for name, text in sent.items() if text and name != "of"}
        return super().clean(value) if given else self._unset


class SchemaField(JSONField):
    """A JSON schema; an empty box for none."""

    def __init__(self, **options: Any) -> None:
        box = Textarea({"rows": 4, "placeholder": '{"type": "object"}'})
        super().__init__(widget=box, required=False, **options)

    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)


class StepsWidget(RowsWidget):
    """A row for each step that exists: its place in the order, and its arguments."""

    note = "Steps run before the rule, in the order that is chosen here."

    def rows(self, value: Mapping[str, Any]) -> Sequence[Row]:
        known = known_pre_aggregations()
        places = [("", UNUSED), *((str(n), str(n)) for n in range(1, len(known) + 1))]
        return [
            Row(
                heading=name,
                help=_summary(kind),
                inputs=[
                    Input(
                        name=f"{name}-place",
                        label="place",
                        widget=Select(choices=places),
                        value=value.get(f"{name}-place", ""),
                    ),
                    *(_argument_input(each, value, f"{name}-") for each in arguments_of(kind)),
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


def _argument_input(argument: Argument, value: Mapping[str, Any], prefix: str = "") -> Input:
    name = prefix + argument.name
    mode = "text" if argument.is_text else "numeric" if argument.is_whole else "decimal"
    attrs: dict[str, Any] = {"inputmode": mode}
    if argument.default is not None:
        attrs["placeholder"] = f"{argument.default}"
    noun = argument.noun.capitalize()
    bounds = f"{noun}, {argument.bounds}." if argument.bounds else f"{noun}."
    default = "" if argument.default in (None, "") else f"Empty: {argument.default}."
    required = "Required." if argument.is_required else default
    return Input(
        name=name,
        label=argument.name,
        widget=TextInput(attrs),
        help=" ".join(filter(None, (_plain(argument.meaning), bounds, required))),
        value=value.get(name, ""),
    )


def _summary(kind: type[Any]) -> str:
    """Return the first paragraph of a docstring as plain text."""
    return _plain(describe(kind).split("\n\n")[0])


def _plain(markdown: str) -> str:
    return " ".join(markdown.replace("`", "").split())


def _given(arguments: Sequence[Argument], sent: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """Return the arguments that were typed."""
    typed = [(each, sent.get(prefix + each.name, "")) for each in arguments]
    return {each.name: each.parse(text) for each, text in typed if text}


def _count(value: Mapping[str, Any]) -> int:
    return sum(key.endswith("-glob") for key in value)


def _steps(value: Any) -> list[Any]:
    return [create_pre_aggregation(text) for text in value or ()]
