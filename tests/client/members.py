"""Federated models and their clients, as the tests of the client package use them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.config import Config

from connectors import application
from connectors.publication.pointer import write_pointer
from connectors.usecases.administration.clients import invite
from federated_client import Bucket, Client, Posts
from models_app.models import FederatedModel
from tests.factories import client_id, filled, make_model
from tests.faults.proxy import Proxy
from tests.test_lambda_handler import invoke, payload

StorageOf = Callable[[FederatedModel, int], Bucket | Posts]
Deliver = Callable[[], int]
Issue = Callable[..., list[Any]]

#: The client does not depend on the aggregator's database: one of them is enough.
in_the_cloud = [
    pytest.mark.usefixtures("database", "cloud"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]


def federation(clients: int = 2, *, initial: Any = None, **fields: Any) -> FederatedModel:
    """Create a model with initial weights and ``latest.json``."""
    weights = filled(0.0) if initial is None else initial
    fields.setdefault("requirement", "all_clients")
    model = make_model(clients, initial=weights, **fields)
    invoke(payload("schedule-sweep"))
    return model


def member(storage: Any, model: FederatedModel, number: int = 1) -> Client:
    """Return a client of a model."""
    return Client(storage, model_id=model.pk, client_id=client_id(number))


def through(proxy: Proxy) -> Bucket:
    """Return the bucket behind a proxy, with a client of boto3 that does not retry."""
    config = Config(retries={"total_max_attempts": 1})
    return Bucket("federation", boto3.client("s3", endpoint_url=proxy.endpoint, config=config))


def constant(value: float, elements: int = 1000) -> dict[str, Any]:
    """Return weights of one tensor with one value everywhere."""
    return {"w": np.full(elements, value, np.float32)}


def invited(clients: int, elements: int = 1000, **fields: Any) -> tuple[FederatedModel, list[str]]:
    """Create a model, and tokens with which its clients enroll through the API."""
    model = make_model(0, initial=constant(0.0, elements), **fields)
    write_pointer(application.objects(), model.pk)
    return model, [each.token for each in invite(model, clients, timedelta(days=1))]
