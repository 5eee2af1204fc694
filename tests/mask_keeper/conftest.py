"""A mask keeper with a table and a bucket of its own, in moto."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from aggregation.masks.masking import Mask, commitment_of, derive
from aggregation.masks.messages import Message, new_message
from aggregation.masks.requests import MaskAnswer, MaskKeys, MaskRequest, request_key
from mask_keeper.checks import Terms
from mask_keeper.keeper import MaskKeeper
from mask_keeper.table import KeeperTable
from tests.aggregation.masks.samples import HEADER, KEEPER, client_of

#: Elements of the masks.
ELEMENTS = 1000

#: Before the samples expire.
NOW = HEADER.expires - 3600.0


def signing_key_of(number: int) -> Ed25519PrivateKey:
    """Return the signing key of a client."""
    return Ed25519PrivateKey.from_private_bytes(derive(b"client", str(number)))


def seed_of(number: int) -> bytes:
    """Return the seed of a client's update."""
    return derive(b"seed", str(number))


def message_of(
    number: int, *, signed_by: int | None = None, seed: int | None = None, **fields: Any
) -> Message:
    """Return the message of a client's update."""
    secret = seed_of(number if seed is None else seed)
    header = replace(
        HEADER,
        **{
            "client": client_of(number),
            "elements": ELEMENTS,
            "commitment": commitment_of(secret),
            **fields,
        },
    )
    return new_message(header, secret, signing_key_of(number if signed_by is None else signed_by))


def sum_of(*numbers: int, elements: int = ELEMENTS) -> NDArray[np.uint32]:
    """Return the sum of the masks of clients' updates."""
    total = np.zeros(elements, np.uint32)
    for number in numbers:
        Mask(seed_of(number)).add_to(total, 0)
    return total


@dataclass
class Bench:
    """A mask keeper, and what the aggregator does with it."""

    s3: Any
    dynamodb: Any
    bucket: str
    table: KeeperTable
    out_of_time: list[bool] = field(default_factory=list)

    def ask(
        self,
        *updates: Message,
        round: int = 1,
        model: int = 3,
        min_cohort: int = 3,
        now: float = NOW,
    ) -> MaskAnswer:
        """Store a request, let the keeper answer it, and return the answer that is stored."""
        key = self.request(*updates, round=round, model=model)
        self.answer(key, min_cohort=min_cohort, now=now)
        return MaskAnswer.decode(self.read(MaskKeys.of(key).answer))

    def request(self, *updates: Message, round: int = 1, model: int = 3) -> str:
        """Store a request, and return its key."""
        request = MaskRequest(model=model, round=round, updates=updates)
        key = request_key(request, request.encode())
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=request.encode())
        return key

    def answer(self, key: str, min_cohort: int = 3, now: float = NOW) -> MaskAnswer:
        """Let the keeper answer a stored request."""
        stops = iter([*self.out_of_time])
        self.out_of_time.clear()
        keeper = MaskKeeper(self.table, self.s3, self.bucket, lambda: next(stops, False))
        return keeper.answer(key, Terms(key=KEEPER, min_cohort=min_cohort, now=now))[1]

    def read(self, key: str) -> bytes:
        """Return an object."""
        found: bytes = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return found

    def sum(self, *updates: Message, round: int = 1, model: int = 3) -> NDArray[np.uint32]:
        """Return the stored sum of a request."""
        request = MaskRequest(model=model, round=round, updates=updates)
        keys = MaskKeys.of(request_key(request, request.encode()))
        return np.frombuffer(self.read(keys.sum), "<u4")

    def has_sum(self) -> bool:
        """Return whether anything was revealed."""
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix="masks/").get("Contents", ())
        return any(each["Key"].endswith("sum.u32") for each in found)


def create_table(dynamodb: Any, name: str) -> None:
    """Create a table as the template does."""
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )


@pytest.fixture
def bench(cloud: Any) -> Iterator[Bench]:
    """A mask keeper at which the clients 0 to 9 are registered."""
    import boto3

    dynamodb, name = boto3.client("dynamodb"), f"keeper-{uuid.uuid4().hex}"
    create_table(dynamodb, name)
    table = KeeperTable(dynamodb, name)
    for number in range(10):
        table.register(client_of(number), signing_key_of(number).public_key().public_bytes_raw())
    yield Bench(boto3.client("s3"), dynamodb, cloud.bucket, table)
    dynamodb.delete_table(TableName=name)
