"""The engine over S3: a server on the loopback address, and each request held up as the network would."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

from benchmarks.children import answer_to

BUCKET = "updates"
ACCESS_KEY, SECRET_KEY = "benchmark", "benchmark-benchmark"


@contextmanager
def server(python: str, directory: Path) -> Iterator[str]:
    """An S3 server whose buckets are the folders of a directory; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secrets = {"NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY}
    place = ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(directory)]
    process = subprocess.Popen(
        [python, "-m", "nanio", "serve", *place, "--no-access-log", "--log-level", "error"],
        env=os.environ | secrets,
    )
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, seconds: float = 20) -> None:
    deadline = monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if monotonic() > deadline:
                raise
            sleep(0.05)


def aggregate(
    endpoint: str, keys: Sequence[str], readers: int, delay: float, memory_mb: int = 64
) -> dict[str, Any]:
    """The weighted mean of objects, written to S3 as an object.

    Parameters
    ----------
    endpoint, keys
        Where the updates are.
    readers : int
        Requests at the same time.
    delay : float
        Seconds each request is held up before it is sent.
    """
    import boto3
    from botocore.config import Config

    from aggregation.engine import Combination, Resources, combine
    from aggregation.formats import Spool, open_weights
    from aggregation.layout import TensorLayout
    from aggregation.opening import Opener, open_consistent
    from aggregation.rules import create_rule
    from aggregation.weights import Weights
    from connectors.storage.s3 import S3Objects

    requests = 0

    def before_send(**_: Any) -> None:
        nonlocal requests
        requests += 1
        sleep(delay)

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(max_pool_connections=readers + 2),
    )
    client.meta.events.register("before-send.s3", before_send)
    objects = S3Objects(client, BUCKET)
    start = perf_counter()
    with Spool() as spool:

        def opener(key: str) -> Opener:
            def opened(expected_layout: TensorLayout | None, spool: Spool | None) -> Weights:
                found = objects.stat(key)
                source = objects.source(key, size=found.size, etag=found.etag)
                return open_weights(
                    source, "safetensors", expected_layout=expected_layout, spool=spool
                )

            return opened

        alike, _ = open_consistent(dict(enumerate(map(opener, keys))), None, readers, spool)
        updates = list(alike.values())
        work = Combination(
            rule=create_rule("weighted_mean"),
            updates=updates,
            num_examples=[1.0] * len(updates),
        )
        resources = Resources(memory_bytes=memory_mb << 20, readers=readers)
        sink = objects.sink("result.safetensors", None)
        combine(work, sink, format="safetensors", resources=resources)
    return {"seconds": perf_counter() - start, "requests": requests}


if __name__ == "__main__":
    answer_to({"aggregate": aggregate})
