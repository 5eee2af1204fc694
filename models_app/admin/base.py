"""Base classes of the pages, whose cost does not grow with the number of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest

#: Rows of a page.
ROWS = 25

#: The last page that can be opened. The database reads all rows before those that it shows.
MAX_PAGES = 400


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Offers the first `MAX_PAGES` pages; older rows are found with a filter or a search."""

    @property
    def num_pages(self) -> int:
        return min(super().num_pages, MAX_PAGES)


class PagedAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Lists by pages of 25 rows, in a constant number of statements."""

    list_per_page = ROWS
    list_max_show_all = ROWS
    show_full_result_count = False
    paginator = BoundedPaginator


class RecordAdmin(PagedAdmin):
    """Shows records of the protocol read-only: with another status, an update could count twice."""

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False


class ProtectedAdmin(PagedAdmin):
    """Deletes rows only while nothing refers to them, and checks that without loading other rows."""

    #: Names of the relations that protect a row.
    protected_by: tuple[str, ...] = ()

    def is_protected(self, obj: Model) -> bool:
        """Return whether something refers to a row."""
        return any(getattr(obj, name).exists() for name in self.protected_by)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed = super().has_delete_permission(request, obj)
        return allowed and (obj is None or not self.is_protected(obj))

    def get_deleted_objects(
        self, objs: Iterable[Any], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """Return what a deletion would delete: the rows themselves, and those that are protected.

        Django's own implementation reads all rows that refer to them.
        """
        chosen = list(objs.select_related(None) if isinstance(objs, QuerySet) else objs)
        protected = [f"{each}: it has a history" for each in chosen if self.is_protected(each)]
        counts = {str(self.opts.verbose_name_plural): len(chosen)}
        missing = set() if super().has_delete_permission(request) else {str(self.opts.verbose_name)}
        return [str(each) for each in chosen], counts, missing, protected
