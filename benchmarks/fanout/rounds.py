"""Rounds over several functions: the real handlers in the Lambda runtime, under the real state machine.

The process has the environment of a command: a database, and the bucket of an S3 server.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import django

django.setup()

from django.core.files.storage import default_storage  # noqa: E402
from django.core.management import call_command  # noqa: E402

from benchmarks.children import answer_to  # noqa: E402
from benchmarks.fanout import throttle  # noqa: E402
from local.cloud import REGION  # noqa: E402
from local.lambda_runtime import LambdaRuntime  # noqa: E402
from local.moto_server import moto_server  # noqa: E402
from local.step_functions import FunctionPool, state_machine  # noqa: E402
from models_app.models import AggregationRound, Client, FederatedModel, ModelUpdate  # noqa: E402

#: As configured on AWS.
TIMEOUT_SECONDS, MEMORY_MB = 900, 512

#: Workers need no database, and could not reach this one.
NO_DATABASE = "postgres://nobody@127.0.0.1:1/none"


class Functions:
    """The functions, and when each of their invocations began and ended."""

    def __init__(self, main: LambdaRuntime, workers: Sequence[LambdaRuntime]) -> None:
        self._main = main
        self._workers = FunctionPool(workers)
        self._lock = threading.Lock()
        self.spans: list[tuple[str, float, float]] = []

    def invoke(self, name: str, event: Any) -> Any:
        """Invoke the function of a name, and note the time."""
        start = time.monotonic()
        try:
            if name == "worker":
                return self._workers.invoke(name, event)
            return self._main.invoke(event)
        finally:
            with self._lock:
                self.spans.append((event.get("task", "request"), start, time.monotonic()))


@contextmanager
def functions(ports: Sequence[int], folder: Path, rate: float) -> Iterator[Functions]:
    """Run a main function and workers, each of which reaches S3 through a port of its own."""
    running: list[Functions] = []
    with ExitStack() as stack:
        moto = stack.enter_context(moto_server())
        arn = stack.enter_context(
            state_machine(moto, lambda *call: running[0].invoke(*call), REGION)
        )
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": moto,
            "FUNCTION_BYTES_PER_SECOND": str(int(rate)),
            "STATE_MACHINE_ARN": arn,
        }

        def start(handler: str, port: int, **variables: str) -> LambdaRuntime:
            variables["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{port}"
            runtime = LambdaRuntime(
                f"lambda_handler.{handler}",
                environment=environment | variables,
                log=folder / "functions.log",
                timeout_seconds=TIMEOUT_SECONDS,
                memory_mb=MEMORY_MB,
            )
            return stack.enter_context(runtime)

        workers = [start("work", port, DATABASE_URL=NO_DATABASE) for port in ports[1:]]
        running.append(Functions(start("handler", ports[0]), workers))
        yield running[0]


def measure(
    bucket: str,
    files: Mapping[str, str],
    updates: int,
    counts: Sequence[int],
    repeat: int,
    s3_port: int,
    rate: float,
) -> dict[str, Any]:
    """Measure rounds, in turns, with different numbers of functions.

    Parameters
    ----------
    bucket : str
        The folder of the bucket.
    files : mapping
        An update for the first round, which is not measured, and one for the others. Each update of a
        round is a link to it.
    updates : int
        In each round.
    counts : sequence of int
        Numbers of functions.
    repeat : int
    s3_port : int
    rate : float
        Bytes per second of each function.

    Returns
    -------
    dict
        ``rounds``: the functions, the seconds in all, and those before, in and after the tasks that read.
    """
    call_command("migrate", verbosity=0)
    root = Path(bucket)
    measured = []
    with (
        throttle.throttled(s3_port, max(counts) + 1, rate) as ports,
        functions(ports, root.parent, rate) as running,
    ):
        run_round(running, root, Path(files["first"]), max(counts), updates)
        for _ in range(repeat):
            for count in counts:
                update = Path(files["measured"])
                measured.append(run_round(running, root, update, count, updates))
                print(measured[-1], file=sys.stderr, flush=True)
    return {"rounds": measured}


def run_round(
    running: Functions, bucket: Path, update: Path, count: int, updates: int
) -> dict[str, float]:
    """Run a round of a new model, and delete its objects."""
    model = _model(bucket, update, count, updates)
    running.spans.clear()
    start = time.monotonic()
    running.invoke("main", {"detail-type": "Scheduled Event", "detail": {"model_id": model.pk}})
    while not (ended := model.rounds.exclude(state=AggregationRound.State.RUNNING).first()):
        time.sleep(0.05)
    seconds = time.monotonic() - start
    if ended.updates_used != updates:
        raise RuntimeError(f"the round ended otherwise than expected: {ended.error}")
    _await_last_task(running, count)
    for folder in ("updates", "aggregates", "plans"):
        shutil.rmtree(bucket / folder, ignore_errors=True)
    reading = [(a, b) for task, a, b in running.spans if task == "combine"]
    if not reading:
        return {"functions": count, "seconds": seconds, "before": 0, "reading": seconds, "after": 0}
    first, last = min(a for a, _ in reading), max(b for _, b in reading)
    return {
        "functions": count,
        "seconds": seconds,
        "before": first - start,
        "reading": last - first,
        "after": start + seconds - last,
    }


def _await_last_task(running: Functions, count: int) -> None:
    """Wait for what follows the publication in the last task."""
    while count > 1 and "publish" not in {task for task, *_ in running.spans}:
        time.sleep(0.05)


def _model(bucket: Path, update: Path, count: int, updates: int) -> FederatedModel:
    """Create a model with ready updates, which a number of functions are to share."""
    model = FederatedModel.objects.create(
        name=f"for {count} functions", max_functions=count, target_round_seconds=1
    )
    storage: Any = default_storage
    client, name = storage.connection.meta.client, storage.bucket_name
    for number in range(1, updates + 1):
        member, _ = Client.objects.get_or_create(
            uuid=uuid.UUID(int=number), defaults={"name": f"client {number}"}
        )
        model.clients.add(member)
        key = f"updates/{model.pk}/{member.pk}/update.safetensors"
        (bucket / key).parent.mkdir(parents=True)
        (bucket / key).hardlink_to(update)
        head = client.head_object(Bucket=name, Key=key)
        ModelUpdate.objects.create(
            federated_model=model,
            client=member,
            data=key,
            num_examples=number,
            size=head["ContentLength"],
            etag=head["ETag"].strip('"'),
        )
    return model


if __name__ == "__main__":
    answer_to({"measure": measure})
