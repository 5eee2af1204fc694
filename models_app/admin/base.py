"""Base classes of the pages, whose cost does not grow with the number of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.functional import cached_property
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from unfold.admin import ModelAdmin

from models_app.admin.access import is_staff, sees_all_models, visible_models
from models_app.admin.links import link
from models_app.admin.tabs import model_head
from models_app.overview.clients import ROWS, clients_matching

#: The last page that can be opened. The database reads all rows before those that it shows.
MAX_PAGES = 400

#: The first clients that match a search, whose records are found.
MAX_FOUND_CLIENTS = 300


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Offers the first `MAX_PAGES` pages; older rows are found with a filter or a search.

    Only the rows of these pages are counted, and one more: to count a million rows takes longer than to
    show a page of them.
    """

    @property
    def most(self) -> int:
        """The rows of all pages that can be opened."""
        return MAX_PAGES * self.per_page

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[: self.most + 1].count())

    @property
    def num_pages(self) -> int:
        return min(super().num_pages, MAX_PAGES)


class PagedAdmin(ModelAdmin):  # type: ignore[misc]
    """Lists by pages of 25 rows, in a constant number of statements.

    A list that is filtered by one federated model is a tab of that model's page.
    """

    list_per_page = ROWS
    list_max_show_all = ROWS
    show_full_result_count = False
    paginator: type[Paginator[Any]] = BoundedPaginator
    #: The name of the tab, and the path to the federated model; empty for lists that are no tab.
    tab, model_path = "", ""

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"title": capfirst(str(self.opts.verbose_name_plural)), **(extra_context or {})}
        chosen = request.GET.get(f"{self.model_path}__id__exact", "") if self.tab else ""
        if chosen.isdecimal():
            model = visible_models(request).filter(pk=int(chosen)).first()
            context |= model_head(request, model, self.tab) if model else {}
            context["own_filter"] = f"{self.model_path}__id__exact={chosen}"
        answer: HttpResponse = super().changelist_view(request, context)
        return answer


class VisibleModelFilter(admin.RelatedFieldListFilter):
    """Offers the federated models that the user sees."""

    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> list[Any]:
        return list(visible_models(request).order_by("name", "pk").values_list("pk", "name"))

    def has_output(self) -> bool:
        return bool(self.used_parameters) or super().has_output()


#: The filter by the federated model.
MODEL_FILTER = ("federated_model", VisibleModelFilter)


class RecordAdmin(PagedAdmin):
    """Shows records of the protocol read-only: with another status, an update could count twice.

    Users see the records of the models that they see.
    """

    model_path = "federated_model"
    #: The path to the client whose name a search finds; empty if the records have none.
    client_path = ""

    @admin.display(description="federated model")
    def model_link(self, obj: Any) -> SafeString:
        """Return a link to the federated model."""
        return link(obj.federated_model)

    def get_list_display(self, request: HttpRequest) -> list[str]:
        """Return the columns; a list of one federated model does not repeat its name."""
        columns = list(super().get_list_display(request))
        if self.tab and f"{self.model_path}__id__exact" not in request.GET:
            columns.insert(1, "model_link")
        return columns

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        """Return the filters; a list of one federated model does not offer others."""
        filters = list(super().get_list_filter(request))
        if self.tab and f"{self.model_path}__id__exact" in request.GET:
            filters = [each for each in filters if each != MODEL_FILTER]
        return filters

    def get_list_select_related(self, request: HttpRequest) -> list[str]:
        return [
            *super().get_list_select_related(request),
            *(["federated_model"] if self.tab else []),
        ]

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_staff(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_staff(request)

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        if sees_all_models(request) or super().has_view_permission(request):
            return rows
        return rows.filter(**{f"{self.model_path}__developer": request.user.pk})

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find records by their client, or by their number."""
        term = search_term.strip()
        if not term or not self.client_path:
            found: tuple[QuerySet[Any], bool] = super().get_search_results(
                request, queryset, search_term
            )
            return found
        # With a list instead of a subquery, the database knows how many clients there are, and does not
        # sort all their records.
        found_clients = clients_matching(term).order_by("name", "pk").values_list("pk", flat=True)
        matches = Q(**{f"{self.client_path}__in": list(found_clients[:MAX_FOUND_CLIENTS])})
        if term.isdecimal():
            matches |= Q(pk=int(term))
        return queryset.filter(matches), False


class ProtectedAdmin(PagedAdmin):
    """Deletes rows only while nothing refers to them, and checks that without loading other rows."""

    #: Names of the relations that protect a row.
    protected_by: tuple[str, ...] = ()

    def is_protected(self, obj: Model) -> bool:
        """Return whether something refers to a row."""
        return any(getattr(obj, name).exists() for name in self.protected_by)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed = super().has_delete_permission(request, obj)
        return bool(allowed and (obj is None or not self.is_protected(obj)))

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
