"""The site of the console."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.sites import UnfoldAdminSite

#: Models in the navigation; the home page has all of them.
MAX_LISTED = 12

#: Lists in the navigation: their headings, and the app, model and name of each.
LISTS = (
    (
        "All records",
        (
            ("models_app", "client", "Clients"),
            ("models_app", "modelupdate", "Updates"),
            ("models_app", "aggregationround", "Rounds"),
            ("models_app", "modelaggregate", "Aggregates"),
            ("models_app", "modelartifact", "Versions"),
            ("models_app", "clientaggregatescore", "Scores"),
        ),
    ),
    ("Administration", (("auth", "user", "Users"), ("auth", "group", "Groups"))),
)


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link of the navigation."""

    text: str
    url: str
    is_current: bool = False
    is_paused: bool = False


class ConsoleSite(UnfoldAdminSite):  # type: ignore[misc]
    """Django's admin site with the theme, the console's home page and navigation."""

    site_title = site_header = "Federated aggregator"
    index_title = "Federated models"
    enable_nav_sidebar = True

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        context: dict[str, Any] = super().each_context(request)
        if self.has_permission(request):
            context["navigation"] = self._navigation(request, context["available_apps"])
        return context

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        from models_app.admin.home import home_context

        request.current_app = self.name
        context = {
            **self.each_context(request),
            "title": self.index_title,
            **home_context(request),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "models_app/home.html", context)

    def _navigation(
        self, request: HttpRequest, apps: list[dict[str, Any]]
    ) -> list[tuple[str, list[Link]]]:
        urls = {
            (app["app_label"], each["object_name"].lower()): each["admin_url"]
            for app in apps
            for each in app["models"]
            if each["admin_url"]
        }
        groups = [("Federated models", self._models(request))]
        about_a_model = bool(_model_of(request))
        for heading, lists in LISTS:
            links = [
                Link(
                    text=text,
                    url=urls[app, model],
                    is_current=not about_a_model and request.path.startswith(urls[app, model]),
                )
                for app, model, text in lists
                if (app, model) in urls
            ]
            groups.extend([(heading, links)] if links else [])
        return groups

    def _models(self, request: HttpRequest) -> list[Link]:
        from models_app.admin.access import visible_models

        home = reverse("admin:index")
        links = [Link(text="All models", url=home, is_current=request.path == home)]
        rows = visible_models(request).order_by("name", "pk")
        for pk, name, is_active in rows.values_list("pk", "name", "allow_aggregation")[:MAX_LISTED]:
            url = reverse("admin:models_app_federatedmodel_overview", args=[pk])
            links.append(
                Link(
                    text=name,
                    url=url,
                    is_paused=not is_active,
                    is_current=_model_of(request) == str(pk),
                )
            )
        return links


def _model_of(request: HttpRequest) -> str:
    """Return the id of the federated model that a page is about; empty if it is about none."""
    match = request.resolver_match
    if match and match.url_name and match.url_name.startswith("models_app_federatedmodel_"):
        return str(match.kwargs.get("pk") or match.kwargs.get("object_id") or "")
    return request.GET.get("federated_model__id__exact", "") or request.GET.get(
        "federatedmodel__id__exact", ""
    )
