"""The engine over S3, with a delay for each request like that of a network."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter, sleep
from typing import Any

import boto3
from botocore.config import Config

from aggregation.engine import Combination, Resources, combine
from aggregation.formats import Spool, open_weights
from aggregation.layout import TensorLayout
from aggregation.opening import Opener, open_consistent
from aggregation.rules import create_rule
from aggregation.weights import Weights
from benchmarks.children import answer_to
from benchmarks.s3 import ACCESS_KEY, BUCKET, SECRET_KEY
from connectors.storage.s3 import S3Objects


class DelayedRequests:
    """Delays and counts the requests of an S3 client.

    Parameters
    ----------
    seconds : float
        How long each request is delayed before it is sent.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.count = 0

    def before_send(self, **_: Any) -> None:
        """Wait: botocore's event handler."""
        self.count += 1
        sleep(self._seconds)


def aggregate(
    endpoint: str, keys: Sequence[str], readers: int, delay: float, memory_mb: int = 64
) -> dict[str, Any]:
    """Write the weighted mean of objects to S3.

    Parameters
    ----------
    endpoint, keys
        The address of the server, and the keys of the updates.
    readers : int
        The number of concurrent requests.
    delay : float
        How long each request is delayed, in seconds.
    """
    requests = DelayedRequests(delay)
    objects = S3Objects(_client(endpoint, readers, requests), BUCKET)
    start = perf_counter()
    with Spool() as spool:
        openers = {number: _opener(objects, key) for number, key in enumerate(keys)}
        consistent, _ = open_consistent(openers, None, readers, spool)
        updates = list(consistent.values())
        work = Combination(
            rule=create_rule("weighted_mean"),
            updates=updates,
            num_examples=[1.0] * len(updates),
        )
        resources = Resources(memory_bytes=memory_mb << 20, readers=readers)
        sink = objects.sink("result.safetensors", None)
        combine(work, sink, format="safetensors", resources=resources)
    return {"seconds": perf_counter() - start, "requests": requests.count}


def _client(endpoint: str, readers: int, requests: DelayedRequests) -> Any:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(max_pool_connections=readers + 2),
    )
    client.meta.events.register("before-send.s3", requests.before_send)
    return client


def _opener(objects: S3Objects, key: str) -> Opener:
    def open_object(expected_layout: TensorLayout | None, spool: Spool | None) -> Weights:
        found = objects.stat(key)
        source = objects.source(key, size=found.size, etag=found.etag)
        return open_weights(source, "safetensors", expected_layout=expected_layout, spool=spool)

    return open_object


if __name__ == "__main__":
    answer_to({"aggregate": aggregate})
