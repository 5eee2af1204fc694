"""The composition root: everything that the handler and the commands use is constructed here.

What is cached belongs to the execution environment and is safe to lose.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from django.conf import settings

from aggregation.engine import Resources
from connectors import limits
from connectors.errors import ServiceRefused
from connectors.intake.scores import ScoreIntake
from connectors.intake.updates import UpdateIntake
from connectors.publication.event_publisher import EventPublisher
from connectors.rounds.connector import DjangoRoundConnector
from connectors.rounds.ledger import RoundLedger
from connectors.rounds.private import PrivateRounds
from connectors.runtime.dispatcher import Dispatcher
from connectors.runtime.queue import MaskKeeperQueue, RoundQueue
from connectors.runtime.telemetry import Telemetry
from connectors.storage.port import Objects
from connectors.storage.weights import WeightStore, default_objects
from connectors.usecases.observer import Observer
from connectors.usecases.run_round import RoundRunner
from connectors.usecases.sweep import GarbageSchedule
from connectors.workflow.aggregator import DjangoAggConnector

if TYPE_CHECKING:
    from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from connectors.api.app import Services
    from connectors.runtime.state_machine import StateMachine
    from connectors.usecases.distributed_round import RoundDistributor, TaskRunner

#: Logs and counts for every invocation.
telemetry = Telemetry()

#: When this environment collects garbage.
garbage = GarbageSchedule()


# Storage and rounds


def objects() -> Objects:
    """Return the objects that Django's default storage keeps."""
    return default_objects()


def weights() -> WeightStore:
    """Return the weights in storage."""
    return WeightStore(objects())


def round_connector(
    lease: Callable[[], timedelta] | None = None, request_id: str = "", **options: Any
) -> DjangoRoundConnector:
    """Return the connector of the function's own rounds.

    Parameters
    ----------
    lease : callable, optional
        Returns how long a round that begins now belongs to this process; LEASE_SECONDS by default.
    request_id : str
        Kept with the rounds.
    options
        Of `DjangoRoundConnector`.
    """

    def default_lease() -> timedelta:
        return timedelta(seconds=settings.LEASE_SECONDS)

    private = private_rounds()
    ledger = RoundLedger(lease or default_lease, request_id, private.prepare)
    return DjangoRoundConnector(
        ledger, weights(), settings.SPOOL_BYTES, private, mask_keeper=mask_keeper, **options
    )


def private_rounds() -> PrivateRounds:
    """Return what draws and decrypts the seeds of private rounds."""
    return PrivateRounds(objects(), settings.PRIVACY_KEY)


def round_resources() -> Resources:
    """Return the memory and threads of a round: many threads wait for a bucket, few for a disk."""
    cores = os.cpu_count() or 1
    return Resources(
        memory_bytes=settings.MEMORY_BUDGET_MB << 20,
        readers=settings.READ_THREADS if settings.BUCKET else cores,
        workers=cores,
        disk_bytes=settings.SPOOL_BYTES,
    )


def workflow_connector() -> DjangoAggConnector:
    """Return a connector for one workflow that runs rounds step by step."""
    return DjangoAggConnector({"metadata_connector": {"type": "DjangoMetadataConnector"}})


def distributor(connector: DjangoRoundConnector) -> RoundDistributor | None:
    """Return what hands rounds over to several functions, if there is a state machine."""
    machine = state_machine()
    if machine is None:
        return None
    # Imported where several functions share a round, and nowhere else.
    from connectors.usecases.distributed_round import RoundDistributor

    return RoundDistributor(
        connector,
        round_resources(),
        machine,
        bytes_per_second=settings.FUNCTION_BYTES_PER_SECOND,
        max_functions=settings.MAX_FUNCTIONS,
    )


def round_runner(observer: Observer, **options: Any) -> RoundRunner:
    """Return what runs rounds in this process; the options are those of `RoundRunner`."""
    return RoundRunner(round_connector(), round_resources(), observer, **options)


# What an execution environment keeps


@cache
def update_intake() -> UpdateIntake:
    """Return the registration of updates; it keeps the layouts that it has read."""
    return UpdateIntake(objects())


@cache
def score_intake() -> ScoreIntake:
    """Return the registration of scores."""
    return ScoreIntake(objects())


@cache
def round_queue() -> RoundQueue | None:
    """Return the function's own queue, if it has one."""
    if not settings.QUEUE_URL:
        return None
    return RoundQueue(
        _aws_client(
            "sqs", limits.AWS_CONNECT_SECONDS, limits.SQS_READ_SECONDS, limits.AWS_ATTEMPTS
        ),
        settings.QUEUE_URL,
    )


@cache
def mask_keeper(queue_url: str) -> MaskKeeperQueue:
    """Return the queue of a mask keeper."""
    client = _aws_client(
        "sqs", limits.AWS_CONNECT_SECONDS, limits.SQS_READ_SECONDS, limits.AWS_ATTEMPTS
    )
    return MaskKeeperQueue(client, queue_url)


@cache
def state_machine() -> StateMachine | None:
    """Return the state machine of distributed rounds, if there is one."""
    if not settings.STATE_MACHINE_ARN:
        return None
    from connectors.runtime.state_machine import StateMachine

    client = _aws_client(
        "stepfunctions", limits.AWS_CONNECT_SECONDS, limits.SQS_READ_SECONDS, limits.AWS_ATTEMPTS
    )
    return StateMachine(client, settings.STATE_MACHINE_ARN)


@cache
def event_publisher() -> EventPublisher | None:
    """Return the publisher of events, if there is an event bus."""
    if not settings.EVENT_BUS:
        return None
    client = _aws_client(
        "events",
        limits.EVENTS_CONNECT_SECONDS,
        limits.EVENTS_READ_SECONDS,
        limits.EVENTS_ATTEMPTS,
    )
    return EventPublisher(client, settings.EVENT_BUS)


def _aws_client(service: str, connect_timeout: float, read_timeout: float, attempts: int) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"total_max_attempts": attempts},
    )
    client: Callable[..., Any] = boto3.client
    return client(service, config=config)


def prepare() -> None:
    """Construct what every environment needs; nothing is connected to yet."""
    _ = update_intake(), score_intake(), round_queue(), event_publisher()


@cache
def api() -> APIGatewayHttpResolver:
    """Return the routes of the API for clients."""
    from connectors.api.app import create_app

    return create_app(api_services)


@cache
def api_services() -> Services:
    """Return what the API uses.

    Raises
    ------
    ServiceRefused
        If there is no bucket: links for clients need one.
    """
    from connectors.api.app import Services
    from connectors.api.credentials import Authenticator
    from connectors.api.documents import Documents
    from connectors.api.uploads import Uploads
    from connectors.storage.multipart import ClientUploads
    from connectors.storage.presigning import Signer
    from connectors.storage.s3 import S3Objects

    stored = objects()
    if not isinstance(stored, S3Objects):
        raise ServiceRefused("the API needs a bucket: set BUCKET instead of STORAGE_ROOT")
    return Services(
        objects=stored,
        authenticator=Authenticator(stored),
        uploads=Uploads(ClientUploads(stored)),
        documents=Documents(stored, Signer()),
    )


# An invocation


class Deadline:
    """Computes when an invocation must stop from the remaining time in its context."""

    def __init__(self, context: LambdaContext) -> None:
        self._context = context
        share = self.seconds_left() * limits.STOP_BEFORE_END_SHARE
        self._margin = min(limits.STOP_BEFORE_END_SECONDS, share)

    def seconds_left(self) -> float:
        """Return how long the invocation may last."""
        return self._context.get_remaining_time_in_millis() / 1000

    def is_near(self) -> bool:
        """Return whether only the time to save the progress is left."""
        return self.seconds_left() <= self._margin

    def lease(self) -> timedelta:
        """Return how long a round that begins now belongs to the invocation."""
        return timedelta(seconds=self.seconds_left() + limits.LEASE_SLACK_SECONDS)


def dispatcher(context: LambdaContext) -> Dispatcher:
    """Return the dispatcher of one invocation, whose limits follow from the time that is left."""
    deadline = Deadline(context)
    connector = round_connector(deadline.lease, context.aws_request_id)
    distributed = distributor(connector)
    runner = RoundRunner(
        connector,
        round_resources(),
        telemetry,
        queue=round_queue(),
        out_of_time=deadline.is_near,
        **({"distribute": distributed.distribute} if distributed else {}),
    )
    return Dispatcher(
        updates=update_intake(),
        scores=score_intake(),
        runner=runner,
        tasks=lambda: task_runner(connector, deadline),
        queue=round_queue(),
        garbage=garbage,
        telemetry=telemetry,
    )


def worker(context: LambdaContext) -> TaskRunner:
    """Return what does the tasks of one invocation of the workers' function."""
    deadline = Deadline(context)
    return task_runner(round_connector(deadline.lease), deadline)


def task_runner(connector: DjangoRoundConnector, deadline: Deadline) -> TaskRunner:
    """Return what does the tasks of distributed rounds."""
    from connectors.usecases.distributed_round import TaskRunner

    return TaskRunner(connector, round_resources(), deadline.is_near)
