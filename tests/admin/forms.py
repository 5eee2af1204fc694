"""Read a form from a page, as a browser without scripts does."""

from __future__ import annotations

from html.parser import HTMLParser


class Form(HTMLParser):
    """The values of the inputs of a page, by their names, and the labels that they have."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.labelled: set[str] = set()
        self.ids: set[str] = set()
        self._text = self._select = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name, value = given.get("name") or "", given.get("value") or ""
        if tag == "label":
            self.labelled.add(given.get("for") or "")
        if tag in ("input", "select", "textarea") and given.get("type") != "hidden" and name:
            self.ids.add(given.get("id") or "")
        if tag == "input" and name and given.get("type") not in ("submit", "checkbox"):
            self.values[name] = value
        elif tag == "input" and name and "checked" in given:
            self.values[name] = "on"
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select and "selected" in given:
            self.values[self._select] = value
        elif tag == "textarea":
            self._text = name
            self.values[name] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self.values.setdefault(self._select, "")
            self._select = ""
        elif tag == "textarea":
            self._text = ""

    def handle_data(self, data: str) -> None:
        if self._text:
            self.values[self._text] += (
                data.removeprefix("\n") if not self.values[self._text] else data
            )
