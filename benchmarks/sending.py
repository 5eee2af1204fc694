"""``python -m benchmarks.sending``: rounds of compressed updates over a slow S3, and what they learn.

It writes `sending.md`.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from aggregation import aggregate
from aggregation.formats import COMPRESSIONS, Spool, open_weights
from aggregation.sources import BytesSource
from aggregation.weights import read_tensors
from benchmarks.children import answer_to, run
from benchmarks.environments import python_with
from benchmarks.fanout.throttle import throttled
from benchmarks.measurements import MILLION, TASKS
from benchmarks.report import Bar, table
from benchmarks.s3 import BUCKET, server
from federated_client.compression import compressed_file
from federated_client.weights import encode
from local.dataset import deal_digits
from local.network import accuracy, initial_model, train

RESULTS = Path(__file__).with_suffix(".md")
ROUND = "benchmarks.s3_task"
PARENT = "parent.safetensors"

BYTES, SECONDS, POINTS = 0.27, 0.35, 0.5

#: The federations on digits.
CLIENTS, ROUNDS, EPOCHS = 10, 20, 5

Answer = dict[str, Any]


def main() -> int:
    """Measure, and return 0 if the targets were met."""
    parser = ArgumentParser(prog="python -m benchmarks.sending", description=__doc__)
    parser.add_argument("--updates", type=int, default=20, help="in each round")
    parser.add_argument("--megabytes", type=int, default=40, help="of an uncompressed update")
    parser.add_argument("--rate", type=float, default=40, help="MB/s")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of each kind")
    parser.add_argument("--seeds", type=int, default=10, help="federations on digits")
    options = parser.parse_args()
    rounds = measure(options.updates, options.megabytes, options.rate, options.repeat)
    learned = [digits(seed) for seed in range(options.seeds)]
    text, met = report(vars(options), rounds, learned)
    RESULTS.write_text(text)
    print(text)
    return 0 if met else 1


def measure(updates: int, megabytes: int, rate: float, repeat: int) -> dict[str, list[Answer]]:
    """Run rounds of plain and of compressed updates in turns, each in a process of its own."""
    with TemporaryDirectory(prefix="benchmarks-sending-") as name:
        folder = Path(name)
        (folder / BUCKET).mkdir()
        keys = _make(folder / BUCKET, updates, megabytes * MILLION // 4)
        found: dict[str, list[Answer]] = {kind: [] for kind in keys}
        with _slow_s3(folder, rate) as endpoint:
            for _ in range(repeat):
                for kind, of_kind in keys.items():
                    print(f"a round of {kind} updates", file=sys.stderr, flush=True)
                    arguments: dict[str, Any] = {"keys": of_kind, "parent": PARENT, "readers": 16}
                    answer = run(ROUND, "aggregate", endpoint=endpoint, **arguments).answer
                    found[kind].append(answer)
    return found


def _make(bucket: Path, updates: int, size: int) -> dict[str, list[str]]:
    """Write the parent and one update of each kind, linked under the names of all; return the names."""
    first = bucket / "difference.safetensors"
    parent = str(bucket / PARENT)
    run(TASKS, "make", paths=[str(first)], parent=parent, size=size, tensors=None)
    paths = {"float32": first} | {kind: bucket / f"{kind}.safetensors" for kind in COMPRESSIONS}
    keys: dict[str, list[str]] = {}
    for kind, path in paths.items():
        if path != first:
            options = {"compression": kind, "source": str(first), "target": str(path)}
            run("benchmarks.sending", "compress", **options)
        keys[kind] = [f"{kind}-{number}.safetensors" for number in range(updates)]
        for key in keys[kind]:
            os.link(path, bucket / key)
    return keys


def compress(compression: str, source: str, target: str) -> Answer:
    """Compress the differences in a file, as the client does."""
    with open(source, "rb") as file:
        body, _ = compressed_file(compression, file, source, None, {})
        with body:
            body.seek(0)
            Path(target).write_bytes(body.read())
    return {}


@contextmanager
def _slow_s3(folder: Path, rate: float) -> Iterator[str]:
    with server(python_with("s3"), folder) as endpoint:
        port = urlsplit(endpoint).port
        assert port is not None
        with throttled(port, 1, rate * MILLION) as ports:
            yield f"http://127.0.0.1:{ports[0]}"


def digits(seed: int) -> dict[str, float]:
    """Return the accuracy of federations that differ in the compression alone, by its name."""
    return {compression: _learn(seed, compression) for compression in ("", *COMPRESSIONS)}


def _learn(seed: int, compression: str) -> float:
    rng = np.random.default_rng(seed)
    data = deal_digits(CLIENTS, rng)
    model = initial_model(64, 10, rng)
    residuals: list[dict[str, Any]] = [{} for _ in range(CLIENTS)]
    streams = [np.random.default_rng([seed, number]) for number in range(CLIENTS)]
    for _ in range(ROUNDS):
        updates = []
        for number, (examples, stream) in enumerate(zip(data.training, streams, strict=True)):
            features, labels = examples.features, examples.labels
            trained = train(model, features, labels, epochs=EPOCHS, rng=stream)
            update: Mapping[str, Any] = {name: trained[name] - model[name] for name in model}
            if compression:
                update, residuals[number] = _sent(compression, update, residuals[number])
            updates.append(update)
        counts = [len(examples) for examples in data.training]
        model = aggregate("weighted_mean", updates, counts, model, differences=True)
    return accuracy(model, data.test.features, data.test.labels)


def _sent(
    compression: str, update: Mapping[str, Any], residual: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an update as the aggregator reads it, and the client's new residual."""
    name = "update.safetensors"
    file, residual = compressed_file(compression, encode(update), name, None, residual)
    with file, Spool() as spool:
        file.seek(0)
        source = BytesSource(file.read())
        weights = open_weights(source, "safetensors", spool=spool, compressed=True)
        return read_tensors(weights), residual


def report(
    options: Mapping[str, Any],
    rounds: Mapping[str, Sequence[Answer]],
    learned: Sequence[Mapping[str, float]],
) -> tuple[str, bool]:
    """Return the page, and whether the targets were met."""
    seconds = {kind: median(each["seconds"] for each in found) for kind, found in rounds.items()}
    of_updates = {kind: found[0]["update_bytes"] for kind, found in rounds.items()}
    accuracies = {kind: 100 * mean(each[kind] for each in learned) for kind in learned[0]}
    bars = [
        Bar(
            "bytes of the updates that are read, of those of float32",
            of_updates["int8"] / of_updates["float32"],
            BYTES,
            at_least=False,
        ),
        Bar(
            "time of the round, of that of float32",
            seconds["int8"] / seconds["float32"],
            SECONDS,
            at_least=False,
        ),
        Bar(
            "points of accuracy lost on digits",
            accuracies[""] - accuracies["int8"],
            POINTS,
            at_least=False,
        ),
    ]
    text = "\n".join(
        [
            "# Compressed updates\n",
            f"By `make bench-sending`, load {os.getloadavg()[2]:.1f} over the last minutes: weighted_mean "
            f"of {options['updates']} updates of {options['megabytes']} MB as float32, differences, in the "
            "267 tensors of a scaled ResNet-50, read from a server of S3 on this machine through a proxy "
            f"that transfers {options['rate']:g} MB/s. The parent, which is read, and the result, which is "
            f"written, are not compressed. Medians of {options['repeat']} rounds, in turns.\n",
            table(("", "figure", "target", ""), [bar.row() for bar in bars]),
            table(
                ("updates", "s", "MB read of updates", "requests", "processor, s"),
                [
                    (
                        kind,
                        f"{seconds[kind]:.1f}",
                        f"{of_updates[kind] / MILLION:.0f}",
                        str(found[0]["requests"]),
                        f"{median(each['processor_seconds'] for each in found):.1f}",
                    )
                    for kind, found in rounds.items()
                ],
            ),
            f"Digits: {len(learned)} federations of {CLIENTS} clients with Dirichlet(0.5) labels, {ROUNDS} "
            f"rounds of {EPOCHS} epochs. Mean accuracy on the test examples: {accuracies['']:.2f} % "
            f"uncompressed, {accuracies['int8']:.2f} % with int8 and {accuracies['topk']:.2f} % with topk, "
            "both with error feedback.",
        ]
    )
    return text + "\n", all(bar.met for bar in bars)


if __name__ == "__main__":
    if sys.argv[1:] == ["compress"]:
        answer_to({"compress": compress})
    else:
        sys.exit(main())
