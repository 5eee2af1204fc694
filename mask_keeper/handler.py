"""The function: it answers the requests that its queue delivers, and wakes the aggregator.

The environment names the table (``TABLE``), the secret (``KEY_SECRET``), the aggregator's bucket
(``BUCKET``) and queue (``REPLY_QUEUE_URL``), the function's own queue (``QUEUE_URL``) and the fewest
updates of a sum (``MIN_COHORT``).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import boto3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from aggregation.errors import OutOfTime
from aggregation.masks.masking import derive
from aggregation.masks.requests import BadRequest
from mask_keeper.checks import Terms
from mask_keeper.keeper import MaskKeeper
from mask_keeper.table import KeeperTable

logger = logging.getLogger(__name__)
logging.getLogger("mask_keeper").setLevel(logging.INFO)

#: Time that is left when no further part of a sum is begun.
STOP_BEFORE_END_MS = 60_000


def handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """Answer a batch of messages such as ``{"request": "masks/3/<digest>/request.json"}``."""
    failed = []
    for record in event["Records"]:
        try:
            _process(record["body"], context)
        except BadRequest as error:  # It would be refused each time.
            logger.error("a message is ignored: %s", error)
        except Exception:
            logger.exception("a message will be delivered again")
            failed.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failed}


def _process(body: str, context: Any) -> None:
    key = _key_in(body)

    def out_of_time() -> bool:
        return bool(context.get_remaining_time_in_millis() < STOP_BEFORE_END_MS)

    keeper = MaskKeeper(table(), client("s3"), os.environ["BUCKET"], out_of_time)
    try:
        model, answer = keeper.answer(key, terms())
    except OutOfTime as error:
        logger.info("request %s is continued: %s", key, error)
        client("sqs").send_message(QueueUrl=os.environ["QUEUE_URL"], MessageBody=body)
        return
    logger.info("request %s is answered: %d elements", key, answer.elements)
    message = json.dumps({"model_id": model})
    client("sqs").send_message(QueueUrl=os.environ["REPLY_QUEUE_URL"], MessageBody=message)


def _key_in(body: str) -> str:
    try:
        key = json.loads(body)["request"]
    except (ValueError, TypeError, KeyError) as error:
        raise BadRequest(
            f"the message is not of the form {{'request': key}}: {body!r:.200}"
        ) from error
    return str(key)


def terms() -> Terms:
    """Return what this mask keeper requires."""
    return Terms(key=private_key(), min_cohort=int(os.environ["MIN_COHORT"]), now=time.time())


def table() -> KeeperTable:
    """Return the table."""
    return KeeperTable(client("dynamodb"), os.environ["TABLE"])


@cache
def client(service: str) -> Any:
    """Return a client of an AWS service."""
    create: Any = boto3.client
    return create(service)


@cache
def private_key() -> X25519PrivateKey:
    """Return the private key, which follows from the secret."""
    found = client("secretsmanager").get_secret_value(SecretId=os.environ["KEY_SECRET"])
    return key_of(found["SecretString"])


def key_of(secret: str) -> X25519PrivateKey:
    """Return the private key that follows from the text of a secret, of 64 random characters."""
    return X25519PrivateKey.from_private_bytes(derive(secret.encode(), "mask keeper"))
