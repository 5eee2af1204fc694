"""The home page: one card for each federated model."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from models_app.admin.access import visible_models
from models_app.admin.links import moment, number
from models_app.control_room.sparkline import sparkline
from models_app.models import AggregationRound
from models_app.overview import ModelCard, RoundSummary, State, model_cards
from models_app.overview.rounds import in_time

#: Cards of a page.
CARDS = 24

#: How a state looks: its word, and the class of the stylesheet.
STATES = {
    State.RUNNING: ("Round running", "busy"),
    State.PAUSED: ("Paused", "bad"),
    State.FAILING: ("Failing", "bad"),
    State.READY: ("Ready", "good"),
    State.WAITING: ("Waiting for updates", "plain"),
}


def home_context(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the home page."""
    search = request.GET.get("q", "").strip()
    models = visible_models(request).order_by("name", "pk")
    if search:
        models = models.filter(name__icontains=search)
    page = Paginator(models, CARDS).get_page(request.GET.get("page"))
    cards = model_cards(list(page.object_list))
    return {
        "cards": [_card(card) for card in cards],
        "page_obj": page,
        "search": search,
        "is_running": any(card.running for card in cards),
        "may_add": request.user.has_perm("models_app.add_federatedmodel"),
    }


def _card(card: ModelCard) -> dict[str, Any]:
    return {
        "card": card,
        "state": STATES[card.state],
        "url": reverse("admin:models_app_federatedmodel_overview", args=[card.pk]),
        "filled": min(card.ready, card.needed),
        "score": number(card.scores[-1].score if card.scores else None),
        "sparkline": sparkline(card),
        "last_round": _last_round(card.last_round) if card.last_round else "",
    }


def _last_round(last: RoundSummary) -> SafeString:
    """Return when a round ended, how long it took, and what became of its updates."""
    took = f", {in_time(last.seconds)}" if last.seconds is not None else ""
    outcome = f"{last.used} used, {last.rejected} rejected"
    if last.state != AggregationRound.State.PUBLISHED:
        outcome = f"no aggregate, {last.rejected} rejected"
    return format_html("{}{}: {}", moment(last.finished_on), took, outcome)
