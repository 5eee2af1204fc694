"""``python -m benchmarks.secure``: the aggregator's work on masked updates, beside that of a mean.

It writes `secure.md`.
"""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregation.engine import Combination, Resources, combine
from aggregation.engine.output import FileSink
from aggregation.formats import encoder_for, open_weights
from aggregation.layout import Tensor, TensorLayout
from aggregation.masks.file import write_masked
from aggregation.masks.masking import Mask
from aggregation.masks.messages import Header
from aggregation.masks.settings import masked_layout
from aggregation.masks.unmasking import unmasked_mean
from aggregation.masks.weights import MaskedWeights, open_masked
from aggregation.policies import OPTIMIZE_ALL
from aggregation.round.masked_sum import MaskedSum
from aggregation.rules import create_rule
from aggregation.sources import Buffer, ByteSource, FileSource
from aggregation.weights import Weights
from benchmarks.fanout.throttle import RateLimit
from benchmarks.report import Bar, table
from mask_keeper.sums import part_elements_of, sum_of_masks

RESULTS = Path(__file__).with_suffix(".md")

#: The aggregator's time, of that of a mean.
FACTOR = 2.0

#: The rate at which the cost estimate and the distribution of rounds assume that a function reads.
FUNCTION_RATE = 70_000_000

SCALE = 1 << 16


class LimitedSource:
    """A file that is read like an object of S3 by a function: at a limited rate, by many threads."""

    local = False

    def __init__(self, source: ByteSource, limit: RateLimit) -> None:
        self._source = source
        self._limit = limit
        self.size = source.size

    def read_into(self, offset: int, buffer: Buffer) -> None:
        self._limit.take(len(buffer))
        self._source.read_into(offset, buffer)


def main() -> int:
    """Measure, and return 0 if the targets were met."""
    parser = ArgumentParser(prog="python -m benchmarks.secure", description=__doc__)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=40, help="of an update as float32")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="benchmarks-secure-") as name:
        bench = Bench(Path(name), options.updates, options.megabytes * 250_000)
        seconds = {
            "cached files": bench.measure(options.repeat, lambda source: source),
            "70 MB/s": bench.measure(1, limited),
        }
        keeper = bench.keeper_seconds()
    text, met = report(options.updates, options.megabytes, options.repeat, seconds, keeper)
    RESULTS.write_text(text)
    print(text)
    return 0 if met else 1


def limited(source: ByteSource) -> ByteSource:
    """Return the source as one function reads it from S3."""
    return LimitedSource(source, _LIMIT)


_LIMIT = RateLimit(FUNCTION_RATE)


class Bench:
    """The same differences as plain and as masked updates, in files."""

    def __init__(self, folder: Path, updates: int, size: int) -> None:
        self._folder = folder
        self.layout = TensorLayout((Tensor("w", np.dtype("<f4"), (size,)),))
        self.masked = masked_layout(self.layout, OPTIMIZE_ALL)
        rng = np.random.default_rng(1)
        self.seeds: list[bytes] = []
        self._write("parent", rng.normal(size=size).astype(np.float32))
        difference = rng.normal(0, 0.01, size).astype(np.float32)
        quantised = np.rint(difference * SCALE).astype(np.int32).view(np.uint32)
        self._write("plain", difference)
        for number in range(updates):
            os.link(folder / "plain", folder / f"plain-{number}")
            with (folder / f"masked-{number}").open("wb") as file:
                pieces = (np.array(part) for part in np.array_split(quantised, 50))
                write_masked(file, self.masked, pieces, HEADER, KEY)
        self._updates = updates
        self.seeds = [os.urandom(32) for _ in range(updates)]

    def _write(self, name: str, values: np.ndarray) -> None:
        encoder = encoder_for("safetensors", self.layout)
        with (self._folder / name).open("wb") as file:
            file.write(encoder.header())
            file.write(values.data)

    def measure(
        self, repeat: int, read: Callable[[ByteSource], ByteSource]
    ) -> dict[str, list[float]]:
        """Return the seconds of means and of rounds of masked updates, in turns."""
        found: dict[str, list[float]] = {"mean": [], "masked": []}
        resources = Resources(readers=16 if read is limited else 2)
        for _ in range(repeat):
            for kind, run in (("mean", self._mean), ("masked", self._masked)):
                started = time.perf_counter()
                run(read, resources)
                found[kind].append(time.perf_counter() - started)
        return found

    def _open(self, name: str, read: Callable[[ByteSource], ByteSource]) -> Weights:
        source = read(FileSource(self._folder / name))
        return open_weights(source, "safetensors", spool=None)

    def _mean(self, read: Callable[[ByteSource], ByteSource], resources: Resources) -> None:
        work = Combination(
            rule=create_rule("weighted_mean"),
            updates=[self._open(f"plain-{n}", read) for n in range(self._updates)],
            num_examples=[1.0] * self._updates,
            parent=self._open("parent", read),
            differences=True,
            policies=OPTIMIZE_ALL,
        )
        combine(work, FileSink(self._folder / "result"), resources=resources)

    def _masked(self, read: Callable[[ByteSource], ByteSource], resources: Resources) -> None:
        """Add masked updates, and unmask the sum; the keeper's sum is as large, and any bytes will do."""
        opened: list[MaskedWeights] = [
            open_masked(read(FileSource(self._folder / f"masked-{n}")), self.masked)
            for n in range(self._updates)
        ]
        work = Combination(
            rule=MaskedSum(),
            updates=opened,
            num_examples=[1.0] * len(opened),
            policies=OPTIMIZE_ALL,
        )
        total = self._folder / "sum"
        combine(work, FileSink(total), format="memory", resources=resources)
        sums = read(FileSource(total))
        divisor = float(SCALE * self._updates)
        work = Combination(
            rule=create_rule("unweighted_mean"),
            updates=[unmasked_mean(self.layout, self.masked, sums, sums, divisor)],
            num_examples=[1.0],
            parent=self._open("parent", read),
            differences=True,
            policies=OPTIMIZE_ALL,
        )
        combine(work, FileSink(self._folder / "result"), resources=resources)

    def keeper_seconds(self) -> float:
        """Return how long the mask keeper adds up the masks."""
        masks, size = [Mask(seed) for seed in self.seeds], self.masked.size
        part = part_elements_of(size)
        started = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for start in range(0, size, part):
                sum_of_masks(masks, start, min(part, size - start), pool)
        return time.perf_counter() - started


KEY = Ed25519PrivateKey.generate()

HEADER = Header(
    model=1,
    base=0,
    expires=2_000_000_000,
    client="11111111-1111-4111-8111-000000000001",
    keeper="09" + "00" * 31,
    scale=SCALE,
    limit=1 << 20,
    weight=1,
    max_weight=1,
    elements=0,
    layout="",
    tensors="",
    commitment="",
)


def report(
    updates: int,
    megabytes: int,
    repeat: int,
    seconds: dict[str, dict[str, list[float]]],
    keeper: float,
) -> tuple[str, bool]:
    """Return the page, and whether the target was met."""
    medians = {
        place: {kind: median(found) for kind, found in of_place.items()}
        for place, of_place in seconds.items()
    }
    bars = [
        Bar(
            f"the aggregator's time, of that of a mean: {place}",
            found["masked"] / found["mean"],
            FACTOR,
            at_least=False,
        )
        for place, found in medians.items()
    ]
    rows: Sequence[tuple[str, ...]] = [
        (place, *(f"{found[kind]:.2f}" for kind in ("mean", "masked")))
        for place, found in medians.items()
    ]
    text = "\n".join(
        [
            "# Secure aggregation\n",
            f"By `make bench-secure`, load {os.getloadavg()[2]:.1f} over the last minutes: {updates} "
            f"updates of {megabytes} MB, differences from a parent. A mean of plain updates, and the sum "
            "of masked ones with its unmasking; every block of a masked update is verified by SHA-256. "
            f"Updates are read from files in memory (medians of {repeat}, in turns) and at 70 MB/s, the "
            "rate at which one function is assumed to read from S3.\n",
            table(("", "figure", "target", ""), [bar.row() for bar in bars]),
            table(("reading", "mean, s", "masked, s"), rows),
            "From files in memory, most of the difference is SHA-256: a processor hashes 1.6 GB/s, "
            "and a mean reads several. At the rate at which S3 is read, a processor waits for most of "
            "the time.\n",
            f"The mask keeper adds up the masks in {keeper:.2f} s: "
            f"{updates * megabytes / 1000 / keeper:.1f} GB/s of keystream.",
        ]
    )
    return text + "\n", all(bar.met for bar in bars)


if __name__ == "__main__":
    sys.exit(main())
