"""The pages that run actions: the user chooses, sees what will happen, and confirms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.management import CommandError
from django.db.models import Model
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path

from models_app.admin.access import may_change_models
from models_app.admin.actions import Action, Field, Form, Outcome, run
from models_app.admin.base import PagedAdmin
from models_app.admin.links import link, url_of
from models_app.models import FederatedModel

#: Aggregates that may be chosen: the latest. Those before them have their own pages, with the same buttons.
MAX_CHOICES = 100


class ActingAdmin(PagedAdmin):
    """Runs actions on its rows for users who may change federated models.

    A page shows what will happen when it is opened; only a submitted form makes it happen.
    """

    actions_by_name: Mapping[str, Action] = {}

    def get_urls(self) -> list[Any]:
        act = path(
            "<str:pk>/act/<str:name>/",
            self.admin_site.admin_view(self.act),
            name=f"models_app_{self.opts.model_name}_act",
        )
        return [act, *super().get_urls()]

    def act(self, request: HttpRequest, pk: str, name: str) -> HttpResponse:
        """Ask for a confirmation, or run the action that a user confirmed."""
        try:
            row = get_object_or_404(self.get_queryset(request), pk=self.opts.pk.to_python(pk))
        except ValueError as error:
            raise Http404 from error
        if not may_change_models(request):
            raise PermissionDenied
        action = self.actions_by_name.get(name)
        if action is None:
            raise Http404(f"there is no action {name!r}")
        if request.method == "POST":
            return self._run(request, row, name, action)
        if request.method != "GET" or not action.title:
            return HttpResponseNotAllowed(["POST"])
        return self._ask(request, row, action)

    def _run(self, request: HttpRequest, row: Any, name: str, action: Action) -> HttpResponse:
        form: Form = request.POST.dict()
        outcome = run(name, action, row, form)
        if action.shows_output and not outcome.is_error:
            self.log_change(request, row, action.label)
            return self._show(request, row, action, outcome)
        if not outcome.is_error:
            self.log_change(request, row, outcome.text)
        self.message_user(request, sentence(outcome.text), outcome.level)
        return HttpResponseRedirect(url_of(row))

    def _ask(self, request: HttpRequest, row: Any, action: Action) -> HttpResponse:
        form: Form = request.GET.dict()
        context: dict[str, Any] = {"hidden": {}, "consequences": []}
        has_chosen = all(form.get(each.name) for each in action.choices)
        if has_chosen:
            try:
                context["consequences"] = action.consequences(row, form)
                context["hidden"] = {each.name: form[each.name] for each in action.choices}
            except CommandError as error:
                has_chosen = False
                context["problem"] = sentence(str(error))
        fields = action.details if has_chosen else action.choices
        context |= {
            "action": action,
            "has_chosen": has_chosen,
            "fields": [
                (each, _choices(row, each), form.get(each.name, each.default)) for each in fields
            ],
        }
        return self._render(request, row, action, "models_app/confirm.html", context)

    def _show(
        self, request: HttpRequest, row: Any, action: Action, outcome: Outcome
    ) -> HttpResponse:
        """Show what a command printed as JSON, which no message and no history keeps."""
        context = {"action": action, "rows": json.loads(outcome.text)}
        return self._render(request, row, action, "models_app/secrets.html", context)

    def _render(
        self, request: HttpRequest, row: Model, action: Action, template: str, context: Any
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        context |= {
            **self.admin_site.each_context(request),
            "title": action.title.format(row),
            "opts": self.opts,
            "original": row,
            "back": url_of(row),
            "parents": [link(row)],
        }
        return TemplateResponse(request, template, context)


def sentence(text: str) -> str:
    """Return a command's answer as a sentence of a page."""
    return text[:1].upper() + text[1:]


def _choices(row: Any, field: Field) -> list[tuple[str, str]]:
    """Return the aggregates of a model, if a field asks for one."""
    if field.name != "aggregate" or not isinstance(row, FederatedModel):
        return []
    latest = row.aggregates.order_by("-number")
    rows = latest.values_list("pk", "number", "validation_score")[:MAX_CHOICES]
    return [
        (str(pk), f"{number}" + ("" if score is None else f" (score {score:.4g})"))
        for pk, number, score in rows
    ]
