"""The addresses of all pages of the console, found in its URLs, so that a new page is measured too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.options import ModelAdmin
from django.urls import URLPattern, URLResolver
from django.utils.http import urlencode

from models_app.models import Client, FederatedModel

#: Addresses that show no rows: they end the session, redirect, answer scripts, or need parameters.
OTHERS = {
    *("login", "logout", "jsi18n", "view_on_site", "autocomplete"),
    *("password_change", "password_change_done", "app_list"),
}

#: What is searched for on every list that has a search: the name of a client, an id, and nothing.
SEARCHES = ("client 1", "77", "nothing of the kind")


def paths(model: FederatedModel) -> list[str]:
    """Return the pages: lists with filters, searches and last pages, forms, records and deletions."""
    found: list[str] = []
    for pattern, route in _patterns(admin.site.urls[0]):
        if pattern.name and pattern.name not in OTHERS:
            found += _addresses(pattern.name, route, model)
    lists = [path for admin_ in _admins() for path in _lists(admin_, model)]
    return list(dict.fromkeys([*found, *lists, _autocomplete()]))


def _patterns(urls: Iterable[Any], prefix: str = "/") -> Iterator[tuple[URLPattern, str]]:
    for each in urls:
        route = prefix + str(each.pattern).replace("^", "").replace("$", "").replace("\\Z", "")
        if isinstance(each, URLResolver):
            yield from _patterns(each.url_patterns, route)
        else:
            yield each, route


def _addresses(name: str, route: str, model: FederatedModel) -> Iterator[str]:
    """Yield the addresses of a pattern: one, or one for each action that asks for a confirmation."""
    row = _row(name, model)
    if "<" in route and row is None:
        return
    address = re.sub(r"<(?:\w+:)?(?:pk|object_id)>", str(row.pk) if row else "", route)
    if "<str:name>" not in address:
        if "<" not in address and "(" not in address:
            yield address
        return
    owner = next(each for each in _admins() if isinstance(row, each.model))
    for action, details in getattr(owner, "actions_by_name", {}).items():
        if details.title:
            yield address.replace("<str:name>", action)


def _row(name: str, model: FederatedModel) -> Any:
    """Return the row whose page a pattern is of: one with a long history."""
    found = re.fullmatch(r"([a-z]+(?:_app)?)_([a-z_]+)_\w+?", name)
    kind = apps.all_models[found[1]].get(found[2]) if found else None
    if kind is None:
        return None
    if kind is FederatedModel:
        return model
    if kind is Client:
        return model.clients.order_by("pk")[0]
    return kind._default_manager.order_by("-pk").first()


def _admins() -> list[ModelAdmin[Any]]:
    return list(admin.site._registry.values())


def _lists(owner: ModelAdmin[Any], model: FederatedModel) -> Iterator[str]:
    """Yield a list's last page, its searches, its filters and its orders."""
    path = f"/{owner.opts.app_label}/{owner.opts.model_name}/"
    queries: list[dict[str, Any]] = [{"p": "last"}, {"p": 2}]
    if owner.search_fields:
        queries += [{"q": text} for text in SEARCHES]
    fields = {each.name for each in owner.opts.get_fields()}
    of_model = next((n for n in ("federated_model", "federatedmodel") if n in fields), "")
    if of_model:
        queries.append({f"{of_model}__id__exact": model.pk})
        queries += [{**queries[-1], "q": text} for text in SEARCHES if owner.search_fields]
    for choice in ("status", "state"):
        if choice in fields:
            for value in range(5):
                queries.append({f"{choice}__exact": value})
                queries.append({f"{choice}__exact": value, f"{of_model}__id__exact": model.pk})
    queries += [{"o": f"-{at}"} for at in range(1, len(owner.list_display) + 1)]
    yield from (f"{path}?{urlencode(query)}" for query in queries)


def _autocomplete() -> str:
    query = {
        "app_label": "models_app",
        "model_name": "federatedmodel_clients",
        "field_name": "client",
        "term": "1",
    }
    return f"/autocomplete/?{urlencode(query)}"
