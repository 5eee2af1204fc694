"""How plots and tables name what they show: as text, or as links where there are pages to link to."""

from __future__ import annotations

from collections.abc import Callable

from django.utils.safestring import SafeString

#: Returns the name of a record, from the name of its table, its id and the text.
Name = Callable[[str, object, str], "str | SafeString"]


def as_text(kind: str, pk: object, text: str) -> str:
    """Return the text."""
    return text
