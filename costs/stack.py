"""What the stack of `template.yaml` costs while nobody uploads, by the template's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from costs.prices import Prices

HOURS_A_MONTH = 730
SECONDS_A_MONTH = HOURS_A_MONTH * 3600

#: What the template makes, whatever its parameters are.
ALARMS = 8

#: An invocation's database session is ended when it has been idle for this long after the timeout.
IDLE_SESSION_SLACK_SECONDS = 60

#: About what Aurora takes to come back, according to its documentation.
RESUME_SECONDS = 15

#: Capacity units of an Aurora that is awake and has little to do.
AWAKE_ACU = 0.5

#: For which RDS Proxy is billed at least.
PROXY_ACU = 8

#: Lambda asks a quiet queue by five long polls at a time, of twenty seconds each.
POLLS_A_SECOND = 5 / 20

#: Of the tables and what Aurora keeps beside them.
DATABASE_GB = 1.0

#: Disk of the server that is compared with.
SERVER_DISK_GB = 20

#: Costs in dollars, by what is paid for.
Costs = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The parameters of the template on which costs depend; the defaults are the template's.

    Parameters
    ----------
    sweep_hours : float
        Between two sweeps.
    aurora : bool
        Whether the stack has a database of its own.
    """

    architecture: str = "arm64"
    memory_mb: int = 1769
    timeout_seconds: int = 300
    snap_start: bool = True
    tracing: bool = False
    event_bus: bool = False
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
        """The function's memory, as Lambda bills it."""
        return self.memory_mb / 1024

    @property
    def endpoints(self) -> int:
        """Interface endpoints, each counted once a zone."""
        return self.endpoint_zones * (1 + self.event_bus + self.tracing)

    @property
    def sweeps_a_month(self) -> float:
        return HOURS_A_MONTH / self.sweep_hours

    @property
    def linger_hours(self) -> float:
        """How long a paused database is awake for a caller, beside the time that the call takes."""
        session = self.timeout_seconds + IDLE_SESSION_SLACK_SECONDS
        return (RESUME_SECONDS + session + self.database_pause_seconds) / 3600

    @property
    def pauses(self) -> bool:
        """Whether there is a database of the stack's own that pauses when nobody is connected."""
        return self.aurora and not self.database_min_capacity

    def sweep_acu_hours(self, hours_awake: float = 0.0) -> float:
        """Capacity-unit-hours a month in which the database is awake for sweeps alone.

        Parameters
        ----------
        hours_awake : float
            A month, for rounds: a sweep that finds the database awake need not wake it.
        """
        for_sweeps = min(self.sweeps_a_month * self.linger_hours, HOURS_A_MONTH)
        asleep = 1 - hours_awake / HOURS_A_MONTH
        return self.pauses * AWAKE_ACU * for_sweeps * asleep

    def standing(self, prices: Prices) -> Costs:
        """A month of what is there whether or not anybody uploads."""
        snapshot = self.gb * SECONDS_A_MONTH * prices.snapshot_gb_second
        capacity = self.database_min_capacity * HOURS_A_MONTH * prices.acu_hour
        database = DATABASE_GB * prices.database_gb_month + prices.secret_month
        proxy = PROXY_ACU * HOURS_A_MONTH * prices.proxy_acu_hour
        sweeps = self.sweeps_a_month * (prices.schedule_call + prices.lambda_request)
        return {
            "interface endpoints": self.endpoints * HOURS_A_MONTH * prices.endpoint_hour,
            "snapshot of the live version": self.snap_start * snapshot,
            "Aurora, never paused": self.aurora * capacity,
            "Aurora, storage (1 GB), the master's secret": self.aurora * database,
            "RDS Proxy": self.aurora * self.database_proxy * proxy,
            "alarms": ALARMS * prices.alarm_month,
            "Lambda's polling of the queue": polls_a_month() * prices.sqs_request,
            "sweeps": sweeps,
        }

    def idle(self, prices: Prices) -> Costs:
        """A month in which nobody uploads."""
        woken = self.sweep_acu_hours() * prices.acu_hour
        return {"Aurora, woken by sweeps": woken, **self.standing(prices)}


def polls_a_month() -> float:
    """Requests with which Lambda looks into a quiet queue."""
    return SECONDS_A_MONTH * POLLS_A_SECOND


def server(prices: Prices) -> float:
    """A month of a small server that is always on, with PostgreSQL on it."""
    return HOURS_A_MONTH * prices.server_hour + SERVER_DISK_GB * prices.disk_gb_month
