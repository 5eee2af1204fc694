"""Compute the costs of the stack without uploads from the parameters of `template.yaml`."""

from __future__ import annotations

from dataclasses import dataclass

from costs.prices import Prices

HOURS_A_MONTH = 730
SECONDS_A_MONTH = HOURS_A_MONTH * 3600

#: Alarms of the template, and those on the state machine of rounds that several functions share.
ALARMS = 8
EXECUTION_ALARMS = 3

#: The database closes a session that is idle for the timeout of the function and this long.
IDLE_SESSION_SLACK_SECONDS = 60

#: About the time that a paused Aurora takes to resume, according to its documentation.
RESUME_SECONDS = 15

#: Capacity units of an active Aurora with little load.
AWAKE_ACU = 0.5

#: Minimum capacity units for which RDS Proxy is billed.
PROXY_ACU = 8

#: Lambda polls an empty queue with five long polls of twenty seconds at a time.
POLLS_A_SECOND = 5 / 20

#: MB of memory for which Lambda gives a function one processor.
MB_A_PROCESSOR = 1769

#: Size of the tables and of what Aurora stores with them.
DATABASE_GB = 1.0

#: Disk of the server that is compared.
SERVER_DISK_GB = 20

#: Dollars by line of a bill.
Costs = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The parameters of the template on which costs depend, with the defaults of the template.

    Parameters
    ----------
    sweep_hours : float
        Time between two sweeps.
    aurora : bool
        Whether the stack creates its database.
    """

    architecture: str = "arm64"
    memory_mb: int = 1769
    worker_memory_mb: int = 512
    timeout_seconds: int = 300
    snap_start: bool = True
    tracing: bool = False
    event_bus: bool = False
    max_functions: int = 1
    client_status: bool = True
    privacy: bool = False
    read_threads: int = 16
    sweep_hours: float = 6.0
    update_retention_days: int = 90
    endpoint_zones: int = 1
    aurora: bool = True
    database_min_capacity: float = 0.0
    database_pause_seconds: int = 300
    database_proxy: bool = False

    @property
    def gb(self) -> float:
        """Memory of the function as Lambda bills it."""
        return self.memory_mb / 1024

    @property
    def worker_gb(self) -> float:
        """Memory of a worker as Lambda bills it."""
        return self.worker_memory_mb / 1024

    @property
    def endpoints(self) -> int:
        """Number of interface endpoints, counted once per zone."""
        return self.endpoint_zones * (1 + self.event_bus + self.tracing + self.shares_rounds)

    @property
    def shares_rounds(self) -> bool:
        """Whether several functions may share a round."""
        return self.max_functions > 1

    @property
    def alarms(self) -> int:
        """Number of alarms."""
        return ALARMS + self.shares_rounds * EXECUTION_ALARMS

    @property
    def sweeps_a_month(self) -> float:
        return HOURS_A_MONTH / self.sweep_hours

    @property
    def active_hours_after_call(self) -> float:
        """Hours for which a paused database stays active for a call, in addition to the call itself."""
        session = self.timeout_seconds + IDLE_SESSION_SLACK_SECONDS
        return (RESUME_SECONDS + session + self.database_pause_seconds) / 3600

    @property
    def can_pause(self) -> bool:
        """Whether the stack creates a database that pauses when it has no connections."""
        return self.aurora and not self.database_min_capacity

    def sweep_acu_hours(self, hours_awake: float = 0.0) -> float:
        """Return the ACU-hours per month for which only sweeps keep the database active.

        Parameters
        ----------
        hours_awake : float
            Hours per month for which rounds keep it active; a sweep in this time costs no more.
        """
        for_sweeps = min(self.sweeps_a_month * self.active_hours_after_call, HOURS_A_MONTH)
        asleep = 1 - hours_awake / HOURS_A_MONTH
        return self.can_pause * AWAKE_ACU * for_sweeps * asleep

    def standing(self, prices: Prices) -> Costs:
        """Return the costs of a month that do not depend on uploads."""
        snapshot = self.gb * SECONDS_A_MONTH * prices.snapshot_gb_second
        capacity = self.database_min_capacity * HOURS_A_MONTH * prices.acu_hour
        database = DATABASE_GB * prices.database_gb_month + prices.secret_month
        proxy = PROXY_ACU * HOURS_A_MONTH * prices.proxy_acu_hour
        sweeps = self.sweeps_a_month * (prices.schedule_call + prices.lambda_request)
        return {
            "interface endpoints": self.endpoints * HOURS_A_MONTH * prices.endpoint_hour,
            "snapshot of the live version": self.snap_start * snapshot,
            "Aurora, never paused": self.aurora * capacity,
            "Aurora, storage (1 GB) and the master user's secret": self.aurora * database,
            "RDS Proxy": self.aurora * self.database_proxy * proxy,
            "key of private models": self.privacy * prices.key_month,
            "alarms": self.alarms * prices.alarm_month,
            "Lambda's polling of the queue": polls_a_month() * prices.sqs_request,
            "sweeps": sweeps,
        }

    def idle(self, prices: Prices) -> Costs:
        """Return the costs of a month without uploads."""
        woken = self.sweep_acu_hours() * prices.acu_hour
        return {"Aurora, resumed by sweeps": woken, **self.standing(prices)}


def polls_a_month() -> float:
    """Return the number of requests with which Lambda polls an empty queue."""
    return SECONDS_A_MONTH * POLLS_A_SECOND


def server(prices: Prices) -> float:
    """Return the monthly cost of a small server that always runs, with PostgreSQL on it."""
    return HOURS_A_MONTH * prices.server_hour + SERVER_DISK_GB * prices.disk_gb_month
