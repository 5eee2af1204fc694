"""Widgets of several inputs, each with its label. They need no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.forms import Widget


@dataclass(frozen=True, kw_only=True)
class Input:
    """An input of a widget.

    Parameters
    ----------
    name : str
        Within the widget.
    label : str
    widget : Widget
    help : str
    value : object
    """

    name: str
    label: str
    widget: Widget
    help: str = ""
    value: Any = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Inputs that belong together.

    Parameters
    ----------
    inputs : sequence of Input
    heading, help : str
        Above the inputs; may be empty.
    """

    inputs: Sequence[Input]
    heading: str = ""
    help: str = ""


class RowsWidget(Widget):
    """A widget of rows of inputs.

    A subclass defines the rows. The value is a mapping with the texts of the inputs by
    their names.
    """

    template_name = "models_app/widgets/rows.html"
    use_fieldset = True

    #: Texts that are shown if there is no row, and below the rows.
    empty, note = "", ""

    def rows(self, value: Mapping[str, Any]) -> Sequence[Row]:
        """Return the rows for a value."""
        raise NotImplementedError

    def names(self, data: Mapping[str, Any], name: str) -> Sequence[str]:
        """Return the names of the inputs that a form may have sent."""
        return [each.name for row in self.rows({}) for each in row.inputs]

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> dict[str, str]:
        sent = {each: data.get(f"{name}-{each}") for each in self.names(data, name)}
        return {each: str(text).strip() for each, text in sent.items() if text is not None}

    def value_omitted_from_data(self, data: Any, files: Any, name: str) -> bool:
        return not self.value_from_datadict(data, files, name)

    def id_for_label(self, id_: str | None) -> str:
        return ""

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        context: dict[str, Any] = super().get_context(name, value, attrs)
        prefix = context["widget"]["attrs"].get("id") or f"id_{name}"
        described = context["widget"]["attrs"].get("aria-describedby")
        rows = [
            {
                "heading": row.heading,
                "help": row.help,
                "inputs": [_drawn(each, name, prefix) for each in row.inputs],
            }
            for row in self.rows(value or {})
        ]
        context["widget"] |= {
            "rows": rows,
            "empty": self.empty,
            "note": self.note,
            "label": name.replace("_", " "),
            "described": described,
        }
        return context


def _drawn(each: Input, name: str, prefix: str) -> dict[str, Any]:
    """Return what the template needs of an input."""
    identity = f"{prefix}-{each.name}"
    attrs = {"id": identity}
    if each.help:
        attrs["aria-describedby"] = f"{identity}-help"
    return {
        "id": identity,
        "label": each.label,
        "help": each.help,
        "is_hidden": each.widget.is_hidden,
        "html": each.widget.render(f"{name}-{each.name}", each.value, attrs),
    }
