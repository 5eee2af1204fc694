"""The engine over S3, with a delay for each request like that of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, process_time, sleep
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
from connectors.storage.s3 import S3Objects, S3Source


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
    endpoint: str,
    keys: Sequence[str],
    readers: int,
    delay: float = 0,
    memory_mb: int = 64,
    rule: str = "weighted_mean",
    arguments: Mapping[str, Any] | None = None,
    parent: str | None = None,
) -> dict[str, Any]:
    """Write the combination of objects by a rule to S3.

    Parameters
    ----------
    endpoint, keys
        The address of the server, and the keys of the updates.
    readers : int
        The number of concurrent requests.
    delay : float
        How long each request is delayed, in seconds.
    parent : str, optional
        The key of the parent, from which the updates are differences.

    Returns
    -------
    dict
        The seconds, those of the processor, the bytes read, those of the updates, and the requests.
    """
    requests = DelayedRequests(delay)
    objects = S3Objects(_client(endpoint, readers, requests), BUCKET)
    start, processor_start = perf_counter(), process_time()
    with Spool() as spool:
        base = _opener(objects, parent)(None, spool) if parent else None
        openers = {number: _opener(objects, key) for number, key in enumerate(keys)}
        consistent, _ = open_consistent(openers, base.layout if base else None, readers, spool)
        updates = list(consistent.values())
        work = Combination(
            rule=create_rule(rule, arguments or {}),
            updates=updates,
            num_examples=[1.0] * len(updates),
            parent=base,
            differences=base is not None,
        )
        resources = Resources(memory_bytes=memory_mb << 20, readers=readers)
        sink = objects.sink("result.safetensors", None)
        combined = combine(work, sink, format="safetensors", resources=resources)
    return {
        "seconds": perf_counter() - start,
        "processor_seconds": process_time() - processor_start,
        "bytes": combined.bytes_read,
        "update_bytes": work.update_nbytes,
        "requests": requests.count,
    }


def receive(
    endpoint: str, keys: Sequence[str], readers: int, range_bytes: int = 6 << 20
) -> dict[str, Any]:
    """Read objects by ranges, as a round does, and discard them.

    Parameters
    ----------
    endpoint, keys, readers
        As for `aggregate`.
    range_bytes : int

    Returns
    -------
    dict
        The seconds, those of the processor, and the bytes read.
    """
    objects = S3Objects(_client(endpoint, readers, DelayedRequests(0)), BUCKET)
    found = [objects.stat(key) for key in keys]
    sources = [
        objects.source(key, size=each.size, etag=each.etag)
        for key, each in zip(keys, found, strict=True)
    ]
    ranges = [
        (source, start, min(start + range_bytes, source.size))
        for start in range(0, sources[0].size, range_bytes)
        for source in sources
    ]
    start, processor_start = perf_counter(), process_time()
    with ThreadPoolExecutor(readers) as pool:
        for _ in pool.map(_read_range, ranges):
            pass
    return {
        "seconds": perf_counter() - start,
        "processor_seconds": process_time() - processor_start,
        "bytes": sum(source.size for source in sources),
    }


def _read_range(given: tuple[S3Source, int, int]) -> None:
    source, start, stop = given
    source.read_into(start, memoryview(bytearray(stop - start)))


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
        return open_weights(
            source, "safetensors", expected_layout=expected_layout, spool=spool, compressed=True
        )

    return open_object


if __name__ == "__main__":
    answer_to({"aggregate": aggregate, "receive": receive})
