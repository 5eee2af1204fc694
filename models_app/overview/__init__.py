"""What the console and `manage.py models` show: cards of models, the overview of one, its clients.

Each function takes a constant number of statements and reads a bounded number of rows, however many
clients, updates and rounds there are. Nothing here draws anything.
"""

from models_app.overview.alerts import Alert, AlertKind
from models_app.overview.cards import ModelCard, ScorePoint, State, model_card, model_cards
from models_app.overview.clients import ClientPage, ClientRow, client_page
from models_app.overview.marks import Mark, MarkKind
from models_app.overview.model import (
    Curve,
    CurvePoint,
    Durations,
    ModelOverview,
    Reason,
    Tile,
    model_overview,
)
from models_app.overview.rounds import RoundSummary

__all__ = [
    "Alert",
    "AlertKind",
    "ClientPage",
    "ClientRow",
    "Curve",
    "CurvePoint",
    "Durations",
    "Mark",
    "MarkKind",
    "ModelCard",
    "ModelOverview",
    "Reason",
    "RoundSummary",
    "ScorePoint",
    "State",
    "Tile",
    "client_page",
    "model_card",
    "model_cards",
    "model_overview",
]
