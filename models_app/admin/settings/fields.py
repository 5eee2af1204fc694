"""Form fields for settings that are stored as JSON."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.forms import Field, JSONField, Textarea

from models_app.admin.settings.widgets import RowsWidget


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


class SchemaField(JSONField):
    """A JSON schema; an empty box for none."""

    def __init__(self, **options: Any) -> None:
        box = Textarea({"rows": 4, "placeholder": '{"type": "object"}'})
        super().__init__(widget=box, required=False, **options)

    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)
