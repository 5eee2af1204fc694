"""The federation of the tests of secure aggregation, as a fixture."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from local.cloud import Cloud
    from mask_keeper.table import KeeperTable
    from tests.secure.world import SecureFederation


@pytest.fixture
def keeper(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[KeeperTable, str, str]]:
    """A mask keeper: its table, the URL of its queue and its public key."""
    import boto3

    from mask_keeper.handler import key_of
    from mask_keeper.table import KeeperTable
    from tests.mask_keeper.conftest import create_table
    from tests.secure.world import SECRET, forget_clients

    name = f"mask-keeper-{uuid.uuid4().hex[:12]}"
    dynamodb, sqs = boto3.client("dynamodb"), boto3.client("sqs")
    secrets = boto3.client("secretsmanager")
    create_table(dynamodb, name)
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    secret = secrets.create_secret(Name=name, SecretString=SECRET)["ARN"]
    monkeypatch.setenv("FEDERATED_CLIENT_HOME", str(tmp_path / "profiles"))
    for variable, value in {
        "TABLE": name,
        "KEY_SECRET": secret,
        "REPLY_QUEUE_URL": cloud.queue_url,
        "MIN_COHORT": "2",
    }.items():
        monkeypatch.setenv(variable, value)
    forget_clients()
    public_key = key_of(SECRET).public_key().public_bytes_raw().hex()
    yield KeeperTable(dynamodb, name), queue, public_key
    forget_clients()
    dynamodb.delete_table(TableName=name)
    sqs.delete_queue(QueueUrl=queue)
    secrets.delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)


@pytest.fixture
def federation(
    database: str, cloud: Cloud, keeper: tuple[KeeperTable, str, str]
) -> SecureFederation:
    """A model of five clients, whose rounds start when three updates are ready."""
    from connectors import application
    from connectors.publication.pointer import write_pointer
    from tests import factories
    from tests.secure.world import INITIAL, SecureFederation, secure_settings

    table, queue, public_key = keeper
    model = factories.make_model(
        5,
        initial=INITIAL,
        update_kind="differences",
        aggregator="unweighted_mean",
        requirement="require_x_updates",
        requirement_args=[3],
        secure_aggregation=secure_settings(public_key, queue=queue),
    )
    write_pointer(application.objects(), model.pk)
    return SecureFederation(cloud, model, table, queue)
