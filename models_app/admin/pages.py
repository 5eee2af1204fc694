"""Pages of single records: facts and tables instead of a form that nobody may submit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString

from models_app.admin.base import PagedAdmin
from models_app.admin.links import name_of

#: A cell: plain text, which is escaped, or HTML.
Cell = str | int | SafeString


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a page.

    Parameters
    ----------
    heading : str
    heads : sequence of str
    rows : sequence of sequences of cells
    empty : str
        Shown instead of a table without rows.
    more : SafeString
        Below the table, such as a link to all rows.
    """

    heading: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    empty: str = "None."
    more: SafeString | str = ""

    @property
    def labelled_rows(self) -> list[list[tuple[str, Cell]]]:
        """The rows, each cell with its head: on a phone, it stands beside the cell."""
        return [list(zip(self.heads, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Button:
    """A button of a page: it leads to a page that asks for confirmation, or acts immediately."""

    text: str
    url: str
    is_immediate: bool = False


@dataclass(frozen=True, kw_only=True)
class RecordPage:
    """What a record's page shows, in its order.

    Parameters
    ----------
    parents : sequence of SafeString
        Links to what the record belongs to.
    badge : SafeString
    problem : str
        Why something failed or was rejected, in full.
    facts : sequence of pairs
        Labels and values.
    tables : sequence of Table
    buttons : sequence of Button
    title : str
        If it is not the record's name.
    """

    parents: Sequence[SafeString]
    facts: Sequence[tuple[str, Cell]]
    badge: SafeString | str = ""
    problem: str = ""
    tables: Sequence[Table] = ()
    buttons: Sequence[Button] = ()
    title: str = ""


class PageAdmin(PagedAdmin):
    """Shows a record on a page of its own design."""

    def record_page(self, request: HttpRequest, obj: Any) -> RecordPage:
        """Return what the page of a record shows."""
        raise NotImplementedError

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if request.method == "POST":
            raise PermissionDenied
        obj: Model | None = self.get_object(request, object_id)
        if obj is None:
            missing: HttpResponse = self._get_obj_does_not_exist_redirect(
                request, self.opts, object_id
            )
            return missing
        if not self.has_view_permission(request, obj):
            raise PermissionDenied
        page = self.record_page(request, obj)
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": page.title or name_of(obj),
            "opts": self.opts,
            "original": obj,
            "page": page,
            "parents": page.parents,
            **(extra_context or {}),
        }
        return TemplateResponse(request, "models_app/record.html", context)
