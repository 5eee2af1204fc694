"""The costs of a round and of a month."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

from costs.duration import INTAKE_SECONDS, Duration, duration
from costs.prices import Prices
from costs.rounds import (
    Work,
    client_writes,
    intake_requests,
    memory_budget,
    pointer_requests,
    status_requests,
)
from costs.shared import SharedRound, share
from costs.stack import AWAKE_ACU, HOURS_A_MONTH, Costs, Stack

GIB = 1 << 30

#: S3's cheap operations; the other operations of a round cost as much as a PUT.
READS = ("GetObject", "HeadObject")

#: Invocations of the aggregating function by the state machine: it publishes. If the rule measures, it
#: selects as well.
MAIN_TASKS = 1

#: Requests to SQS per message: it is sent, received and deleted.
REQUESTS_A_MESSAGE = 3

#: Assumed bytes of log lines, with Lambda's own, of an upload and of a round.
LOG_BYTES_OF_AN_UPLOAD = 2_500
LOG_BYTES_OF_A_ROUND = 5_000

#: Metrics that a round writes: RoundsPublished, UpdatesUsed, BytesRead.
METRICS = 3

#: Days for which the bucket keeps deleted or replaced objects: the lifecycle rules of the template.
KEPT_AFTER_DELETION_DAYS = 30

DAYS_A_MONTH = HOURS_A_MONTH / 24

#: Lines of a month for objects that are kept.
UPDATES_KEPT = "S3, updates kept"
AGGREGATES_KEPT = "S3, aggregates of one month kept"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the costs of a round.

    Parameters
    ----------
    what : str
    amount : float
        Amount per round, in ``unit``.
    dollars : float
        Dollars per round.
    """

    what: str
    amount: float
    unit: str
    dollars: float


@dataclass(frozen=True, kw_only=True)
class Federation:
    """A federation whose costs are estimated.

    Parameters
    ----------
    clients : int
        Member clients, each of which fetches each aggregate.
    rounds_a_day : float
    mb_a_second : float
        MB per second that one function reads.
    upload_hours : float
        Time over which the uploads of one round arrive.
    engine_share : float
        What of a function's memory the engine may use.
    target_seconds : float
        Of the model: how long a round should take if several functions may share it.
    """

    work: Work
    stack: Stack
    prices: Prices
    clients: int
    rounds_a_day: float
    mb_a_second: float
    engine_share: float
    upload_hours: float = 0.0
    target_seconds: float = 30.0

    @cached_property
    def shared(self) -> SharedRound | None:
        """How several functions share a round; None if one function does it."""
        budget = memory_budget(self.stack.worker_memory_mb, self.engine_share)
        work = replace(self.work, memory_bytes=budget)
        return share(work, self.stack, self.mb_a_second, self.target_seconds)

    @cached_property
    def duration(self) -> Duration:
        """The duration of a round, and the billed duration of the aggregating function."""
        if self.shared:
            return Duration(
                seconds=self.shared.seconds,
                invocations=1,
                billed_seconds=self.shared.main_seconds,
            )
        return duration(self.work, self.stack, self.mb_a_second)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds from the claim to the published aggregate."""
        return self.shared.seconds if self.shared else self.duration.billed_seconds

    @property
    def round_requests(self) -> Counter[str]:
        """The requests to S3 of the round itself by operation."""
        return (
            self.shared.requests if self.shared else self.work.requests(self.duration.invocations)
        )

    @property
    def rounds_a_month(self) -> float:
        return self.rounds_a_day * DAYS_A_MONTH

    @cached_property
    def requests(self) -> Counter[str]:
        """The functions' requests to S3 per round: intake, the round, `latest.json` and the status."""
        updates = self.work.updates
        status = status_requests(updates) if self.stack.client_status else Counter[str]()
        return intake_requests(updates) + self.round_requests + pointer_requests() + status

    @property
    def round_gb_seconds(self) -> float:
        return self.duration.billed_seconds * self.stack.gb

    @cached_property
    def lines(self) -> list[Line]:
        """The costs of a round."""
        return [
            *self._function(),
            *self.sharing,
            *self._storage_requests(),
            *self._messages(),
            *self._database(),
            *self._logs(),
        ]

    def _function(self) -> list[Line]:
        updates, prices = self.work.updates, self.prices
        gb_second = prices.gb_second(self.stack.architecture)
        invocations = updates + self.duration.invocations - 1
        intake = updates * INTAKE_SECONDS * self.stack.gb
        lines = [
            line("Lambda, the round", self.round_gb_seconds, "GB-seconds", gb_second),
            line("Lambda, uploads registered", intake, "GB-seconds", gb_second),
            line("Lambda, invocations", invocations, "requests", prices.lambda_request),
        ]
        if self.stack.snap_start:
            restored = prices.snapshot_restored_gb
            lines.append(line("Lambda, snapshot restored once", self.stack.gb, "GB", restored))
        return lines

    @property
    def sharing(self) -> list[Line]:
        """The costs of the workers and of the state machine, if several functions share a round."""
        shared, prices = self.shared, self.prices
        if shared is None:
            return []
        gb_second = prices.gb_second(self.stack.architecture)
        worker_gb_seconds = shared.worker_seconds * self.stack.worker_gb
        started = shared.tasks + MAIN_TASKS + bool(shared.distribution.measuring)
        express = shared.express_gb_seconds
        return [
            line("Lambda, the workers", worker_gb_seconds, "GB-seconds", gb_second),
            line("Lambda, tasks", started, "requests", prices.lambda_request),
            line("Step Functions", shared.transitions, "transitions", prices.state_transition),
            line("Step Functions, tasks", shared.tasks, "requests", prices.express_request),
            line("Step Functions, time", express, "GB-seconds", prices.express_gb_second),
        ]

    def _storage_requests(self) -> list[Line]:
        prices = self.prices
        reads = sum(self.requests[name] for name in READS)
        writes = self.requests.total() - reads
        uploads = self.work.updates * client_writes(self.work.layout.nbytes)
        return [
            line("S3, the function reads", reads, "requests", prices.s3_read),
            line("S3, the function writes", writes, "requests", prices.s3_write),
            line("S3, clients upload", uploads, "requests", prices.s3_write),
            line("S3, clients fetch the aggregate", 2 * self.clients, "requests", prices.s3_read),
        ]

    def _messages(self) -> list[Line]:
        messages = self.work.updates + self.duration.invocations - 1
        requests = REQUESTS_A_MESSAGE * messages
        return [line("SQS", requests, "requests", self.prices.sqs_request)]

    def _database(self) -> list[Line]:
        if not self.stack.can_pause:
            return []
        acu_hours = AWAKE_ACU * self.active_hours_per_round
        return [line("Aurora, active for the round", acu_hours, "ACU-hours", self.prices.acu_hour)]

    def _logs(self) -> list[Line]:
        tasks = self.shared.tasks if self.shared else 0
        logged = LOG_BYTES_OF_A_ROUND * (self.duration.invocations + tasks)
        logged += LOG_BYTES_OF_AN_UPLOAD * self.work.updates
        return [line("CloudWatch, logs", logged / GIB, "GB", self.prices.log_gb)]

    @property
    def round_dollars(self) -> float:
        """Dollars for the round itself: the functions, their requests to S3, the state machine."""
        return sum(self.round_costs.values())

    @property
    def round_costs(self) -> Costs:
        """What the dollars of the round itself consist of."""
        requests, prices = self.round_requests, self.prices
        reads = sum(requests[name] for name in READS)
        return {
            **{each.what: each.dollars for each in (self.lines[0], *self.sharing)},
            "S3, reads": reads * prices.s3_read,
            "S3, writes": (requests.total() - reads) * prices.s3_write,
        }

    @property
    def active_hours_per_round(self) -> float:
        """Hours for which a round keeps a database active that can pause.

        Each upload resumes the database or keeps it active, and a round may find it active.
        """
        linger = self.stack.active_hours_after_call
        waiting = min(self.upload_hours, (self.work.updates - 1) * linger)
        awake = waiting + self.elapsed_seconds / 3600 + linger
        return min(awake, 24 / self.rounds_a_day)

    @cached_property
    def month(self) -> Costs:
        """The costs of a month, once the number of updates in the bucket no longer grows."""
        rounds = self.rounds_a_month
        woken = self.stack.sweep_acu_hours(rounds * self.active_hours_per_round)
        metrics = METRICS * self.prices.metric_month * min(self.rounds_a_day / 24, 1)
        return {
            **{each.what: each.dollars * rounds for each in self.lines},
            "CloudWatch, metrics": metrics,
            "Aurora, resumed by sweeps": woken * self.prices.acu_hour,
            **self.stack.standing(self.prices),
            UPDATES_KEPT: self.updates_kept_gb * self.prices.s3_gb_month,
            AGGREGATES_KEPT: self.aggregates_gb * self.prices.s3_gb_month,
        }

    @property
    def updates_kept_gb(self) -> float:
        """GB of updates in the bucket: until they expire, and then as deleted objects."""
        days = self.stack.update_retention_days + KEPT_AFTER_DELETION_DAYS
        return days * self.rounds_a_day * self.work.updates * self.work.layout.nbytes / GIB

    @property
    def aggregates_gb(self) -> float:
        """GB of new aggregates per month, with their optimizers' states; they are never deleted."""
        nbytes = self.work.layout.nbytes + self.work.state_nbytes
        return self.rounds_a_month * nbytes / GIB

    @property
    def fetched_gb(self) -> float:
        """GB of aggregates that the clients fetch in a month."""
        return self.clients * self.rounds_a_month * self.work.layout.nbytes / GIB


def line(what: str, amount: float, unit: str, price: float) -> Line:
    """Return a line of the costs of a round with this price per unit."""
    return Line(what=what, amount=amount, unit=unit, dollars=amount * price)
