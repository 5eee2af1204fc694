"""The table of prices from which every statement about costs is computed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, kw_only=True)
class Prices:
    """On-demand prices of one Region in dollars, without free quantities."""

    region: str
    noted_on: date
    #: Lambda: a GB-second by architecture, and a request.
    arm64_gb_second: float
    x86_64_gb_second: float
    lambda_request: float
    #: SnapStart: a GB-second for which the snapshot of a version is kept, and a restored GB.
    snapshot_gb_second: float
    snapshot_restored_gb: float
    #: S3: a GB-month; a PUT, POST or LIST; a GET or HEAD.
    s3_gb_month: float
    s3_write: float
    s3_read: float
    sqs_request: float
    #: Step Functions: a transition of a Standard workflow; an Express workflow, and a GB-second of it.
    state_transition: float
    express_request: float
    express_gb_second: float
    #: Aurora PostgreSQL Serverless v2: a capacity unit (ACU) for an hour, and a GB-month.
    acu_hour: float
    database_gb_month: float
    proxy_acu_hour: float
    #: An interface endpoint for an hour in one zone.
    endpoint_hour: float
    secret_month: float
    #: KMS: a key. Its rotations add to it in the first two years; few requests are made.
    key_month: float
    #: CloudWatch: an alarm; a metric that is written in every hour; a GB of ingested logs; a dashboard
    #: after the third.
    alarm_month: float
    metric_month: float
    log_gb: float
    dashboard_month: float
    schedule_call: float
    internet_gb: float
    #: For comparison: an EC2 t4g.medium (2 vCPU, 4 GB), and a GB-month of its disk (gp3).
    server_hour: float
    disk_gb_month: float

    def gb_second(self, architecture: str) -> float:
        """Return the price of a GB-second of Lambda."""
        return self.arm64_gb_second if architecture == "arm64" else self.x86_64_gb_second


#: As AWS published them on that day. Prices change, and other Regions cost more.
US_EAST_1 = Prices(
    region="us-east-1",
    noted_on=date(2026, 11, 24),
    arm64_gb_second=0.0000133334,
    x86_64_gb_second=0.0000166667,
    lambda_request=0.20e-6,
    snapshot_gb_second=0.0000015046,
    snapshot_restored_gb=0.0001397998,
    s3_gb_month=0.023,
    s3_write=0.005e-3,
    s3_read=0.0004e-3,
    sqs_request=0.40e-6,
    state_transition=0.025e-3,
    express_request=1.00e-6,
    express_gb_second=0.00001667,
    acu_hour=0.12,
    database_gb_month=0.10,
    proxy_acu_hour=0.015,
    endpoint_hour=0.01,
    secret_month=0.40,
    key_month=1.00,
    alarm_month=0.10,
    metric_month=0.30,
    log_gb=0.50,
    dashboard_month=3.00,
    schedule_call=1.00e-6,
    internet_gb=0.09,
    server_hour=0.0336,
    disk_gb_month=0.08,
)

#: By Region.
PRICES = {prices.region: prices for prices in (US_EAST_1,)}
