"""What an execution environment makes once and keeps for all its invocations: the doors, and the clients
of what the function calls. All of it is safe to lose."""

from __future__ import annotations

from functools import cache

from django.conf import settings

from connectors.intake.scores import ScoreIntake
from connectors.intake.updates import UpdateIntake
from connectors.publication.event_publisher import EventPublisher
from connectors.runtime.queue import RoundQueue
from connectors.workflow.aggregator import DEFAULT_SETTINGS, DjangoAggConnector


@cache
def update_intake() -> UpdateIntake:
    """Where uploads are registered; keeps the layouts it has seen."""
    return UpdateIntake(DjangoAggConnector(DEFAULT_SETTINGS).model_data.objects)


@cache
def score_intake() -> ScoreIntake:
    """Where scores are registered."""
    return ScoreIntake(DjangoAggConnector(DEFAULT_SETTINGS).model_data.objects)


@cache
def round_queue() -> RoundQueue | None:
    """The function's own queue, if it has one."""
    if not settings.QUEUE_URL:
        return None
    import boto3

    return RoundQueue(boto3.client("sqs"), settings.QUEUE_URL)


@cache
def event_publisher() -> EventPublisher | None:
    """Who tells what has happened to the event bus, if there is one."""
    if not settings.EVENT_BUS:
        return None
    import boto3
    from botocore.config import Config

    # Telling what has happened must not hold up a round.
    in_passing = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2})
    return EventPublisher(boto3.client("events", config=in_passing), settings.EVENT_BUS)
