"""The mask keeper in the embedded cloud: its table, its secret, its queue, and its function."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from local.cloud import Cloud
from local.event_pump import EventPump
from local.lambda_runtime import LambdaRuntime
from mask_keeper.handler import key_of
from mask_keeper.table import KeeperTable

#: The fewest updates of a sum.
MIN_COHORT = 2


@dataclass(frozen=True, kw_only=True)
class RunningKeeper:
    """A mask keeper that runs.

    Parameters
    ----------
    public_key : str
    queue_url : str
    table : KeeperTable
    """

    public_key: str
    queue_url: str
    table: KeeperTable

    def register(self, client: UUID, public_key: str) -> None:
        """Register a client's public key, as the keeper's operator does."""
        self.table.register(str(client), bytes.fromhex(public_key))


@contextmanager
def running_mask_keeper(
    cloud: Cloud, environment: Mapping[str, str], *, log: Path
) -> Iterator[RunningKeeper]:
    """Run the mask keeper's function in the Lambda runtime, invoked by its queue."""
    name = f"mask-keeper-{secrets.token_hex(4)}"
    secret = secrets.token_hex(32)
    dynamodb, sqs = cloud.client("dynamodb"), cloud.client("sqs")
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    created = cloud.client("secretsmanager").create_secret(Name=name, SecretString=secret)
    queue_url = sqs.create_queue(QueueName=f"{name}-requests")["QueueUrl"]
    variables = {
        **environment,
        "TABLE": name,
        "KEY_SECRET": created["ARN"],
        "REPLY_QUEUE_URL": cloud.queue_url,
        "QUEUE_URL": queue_url,
        "MIN_COHORT": str(MIN_COHORT),
    }
    with ExitStack() as stack:
        handler = "mask_keeper.handler.handler"
        runtime = stack.enter_context(
            LambdaRuntime(handler, environment=variables, log=log, timeout_seconds=900)
        )
        runtime.invoke({"Records": []})  # A function that does not start fails here.
        stack.enter_context(EventPump(queue_url, runtime.invoke, sqs=sqs, batch_size=1))
        yield RunningKeeper(
            public_key=key_of(secret).public_key().public_bytes_raw().hex(),
            queue_url=queue_url,
            table=KeeperTable(dynamodb, name),
        )
