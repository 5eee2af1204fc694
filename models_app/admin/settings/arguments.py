"""The arguments of what is chosen in the settings: an input for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.forms import HiddenInput, TextInput
from django.utils.html import escape

from aggregation.description import Argument, arguments_of, describe
from aggregation.errors import RuleError
from models_app.admin.settings.fields import SettingField
from models_app.admin.settings.widgets import Input, Row, RowsWidget


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
        return [Row(inputs=[marker, *(argument_input(each, value) for each in self.arguments)])]


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
        about = escape(summary(kind)) if kind else ""
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


def argument_input(argument: Argument, value: Mapping[str, Any], prefix: str = "") -> Input:
    """Return the input of an argument, with its meaning, bounds and default."""
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


def summary(kind: type[Any]) -> str:
    """Return the first paragraph of a docstring as plain text."""
    return _plain(describe(kind).split("\n\n")[0])


def _plain(markdown: str) -> str:
    return " ".join(markdown.replace("`", "").split())
