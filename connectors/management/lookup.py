"""Rows by what is typed on a command line: models and clients by name or id, others by id."""

from __future__ import annotations

import uuid
from typing import TypeVar

from django.core.management.base import CommandError
from django.db import models

from models_app.models import AggregationRound, Client, FederatedModel, ModelAggregate

M = TypeVar("M", bound=models.Model)

#: The largest id that a database can have.
MAX_ID = 2**63 - 1


def find_model(name_or_id: str | int) -> FederatedModel:
    """Return the federated model with this id, or else with this name.

    Raises
    ------
    CommandError
        If there is none, or if several models have the name.
    """
    text = str(name_or_id)
    if text.isdecimal() and int(text) <= MAX_ID:
        model = FederatedModel.objects.filter(pk=int(text)).first()
        if model is not None:
            return model
    named = list(FederatedModel.objects.filter(name=text).order_by("pk")[:11])
    if len(named) > 1:
        ids = ", ".join(str(each.pk) for each in named[:10])
        raise CommandError(f"several models are named {text!r}: give one of the ids {ids}")
    if not named:
        raise CommandError(
            f"there is no federated model with the id or name {text!r}: "
            "manage.py models lists the models"
        )
    return named[0]


def find_client(name_or_id: str | uuid.UUID) -> Client:
    """Return the client with this id (a UUID) or name.

    Raises
    ------
    CommandError
        If there is none.
    """
    client = client_or_none(str(name_or_id))
    if client is None:
        raise CommandError(
            f"there is no client with the id or name {str(name_or_id)!r}: "
            "manage.py clients lists the clients"
        )
    return client


def client_or_none(name_or_id: str) -> Client | None:
    """Return the client with this id (a UUID) or name, or None."""
    if not name_or_id:
        return None
    client_id = parse_uuid(name_or_id)
    clients = Client.objects.all()
    return (clients.filter(pk=client_id) if client_id else clients.filter(name=name_or_id)).first()


def parse_uuid(text: str) -> uuid.UUID | None:
    """Return the UUID that a text is, or None."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def find_aggregate(pk: int, *related: str) -> ModelAggregate:
    """Return an aggregate by its id, with related rows; a `CommandError` if there is none."""
    return _find(ModelAggregate, pk, "aggregate", "manage.py lineage MODEL", related)


def find_round(pk: int) -> AggregationRound:
    """Return a round by its id; a `CommandError` if there is none."""
    return _find(AggregationRound, pk, "round", "manage.py rounds MODEL", ())


def _find(kind: type[M], pk: int, noun: str, listing: str, related: tuple[str, ...]) -> M:
    rows = kind._default_manager.filter(pk=pk) if pk <= MAX_ID else kind._default_manager.none()
    row = (rows.select_related(*related) if related else rows).first()
    if row is None:
        raise CommandError(f"there is no {noun} with id {pk}: {listing} lists the ids")
    return row
