"""The page `results.md`: the figures next to their targets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measurements import (
    MILLION,
    NUMPY_MEAN,
    NUMPY_MEDIAN,
    PEER_MEANS,
    PEER_ORDERS,
    READ,
    RULES,
    Job,
    Measurements,
    Size,
    aggregation,
)

RATES = (Size(10, 25 * MILLION), Size(50, 10 * MILLION), Size(200, MILLION))
MANY_CLIENTS = tuple(Size(n, 10 * MILLION) for n in (10, 50, 200))
LARGE_MODELS = tuple(Size(10, p * MILLION) for p in (1, 10, 100))
S3_SIZE = Size(20, 5 * MILLION)
S3_READERS = (1, 16)
TEN_GIGABYTES = Size(3, 2500 * MILLION)
MEMORY_BAR_MB = 160


@dataclass(frozen=True)
class Bar:
    """A figure and its target."""

    what: str
    figure: float
    bar: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Return whether the figure meets the target."""
        return self.figure >= self.bar if self.at_least else self.figure <= self.bar

    def row(self) -> tuple[str, str, str, str]:
        """Return the row of the table."""
        side = "at least" if self.at_least else "at most"
        verdict = "met" if self.met else "**missed**"
        return self.what, f"{self.figure:.2f}", f"{side} {self.bar:g}", verdict


def report(measurements: Measurements) -> tuple[str, bool]:
    """Return the page, and whether every target was met."""
    bars: list[Bar] = []
    sections = [
        _rates(measurements, bars),
        _orders(measurements, bars),
        _small_tensors(measurements, bars),
        _memory(measurements, bars),
        _s3(measurements),
    ]
    title = "# Measured\n\n" + _preface(measurements)
    summary = "## Targets\n" + table(("", "figure", "target", ""), [bar.row() for bar in bars])
    return "\n".join([title, summary, *sections]), all(bar.met for bar in bars)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _preface(measurements: Measurements) -> str:
    machine = measurements.machine
    command = "make bench-peers" if measurements.with_peers else "make bench"
    busy = os.getloadavg()[1]
    return (
        f"Written by `{command}` on {machine['cores']} cores ({machine['processor']}) with numpy "
        f"{machine['numpy']} and a load of {busy:.1f} over the last minutes. A time is the best of a few "
        "runs, each in a process of its own and alternating with the other tasks, without start-up and "
        "imports. The files are in the page cache, and the models are float32.\n"
    )


def _rates(measurements: Measurements, bars: list[Bar]) -> str:
    columns = [_rates_of(measurements, size) for size in RATES]
    _, mid, _ = columns
    read, mean = mid["reading alone"], mid["weighted_mean"]
    bars.append(Bar("weighted_mean at 50 x 10M: share of the pure read rate", read / mean, 0.35))
    if measurements.with_peers:
        nvflare, flower = mid["NVFlare, in time"], mid["Flower"]
        bars.append(Bar("weighted_mean at 50 x 10M: times as fast as NVFlare", nvflare / mean, 2))
        bars.append(Bar("weighted_mean at 50 x 10M: times as fast as Flower", flower / mean, 6))
    allowed = 2.5 * mean + mid["inner products alone"]
    share = mid["multi_krum"] / allowed
    what = "multi_krum at 50 x 10M: share of 2.5 weighted_means and the inner products"
    bars.append(Bar(what, share, 1, at_least=False))
    head = ("", *(f"{size}: MB/s" for size in RATES), *(f"{size}: share" for size in RATES))
    rows = [
        (
            label,
            *(f"{_megabytes(s) / c[label]:.0f}" for s, c in zip(RATES, columns, strict=True)),
            *(f"{c['reading alone'] / c[label]:.2f}" for c in columns),
        )
        for label in mid
    ]
    return (
        "## Bytes of updates consumed per second\n"
        "In megabytes, and as a share of the rate at which the same files can be read once. Rules that "
        "measure distances read the updates once more before they combine those that they selected.\n\n"
        + table(head, rows)
    )


def _rates_of(measurements: Measurements, size: Size) -> dict[str, float]:
    jobs = READ | RULES | {"inner products alone": Job("products")} | NUMPY_MEAN
    if measurements.with_peers:
        jobs |= PEER_MEANS
    return measurements.times(size, jobs)


def _megabytes(size: Size) -> float:
    return size.updates * size.parameters * 4 / 1e6


def _orders(measurements: Measurements, bars: list[Bar]) -> str:
    size = Size(50, MILLION)
    ours = {
        "coordinate_median": RULES["coordinate_median"],
        "trimmed_mean": RULES["trimmed_mean"],
        "bulyan": aggregation("bulyan", f=5),
    }
    jobs = ours | NUMPY_MEDIAN | (PEER_ORDERS if measurements.with_peers else {})
    times = measurements.times(size, jobs)
    whole, median, trimmed = (
        times[label] for label in ("np.median(np.stack)", "coordinate_median", "trimmed_mean")
    )
    bars += [
        Bar("coordinate_median at 50 x 1M: times as fast as np.median", whole / median, 6),
        Bar("trimmed_mean at 50 x 1M: times as fast as np.median", whole / trimmed, 6),
        Bar("bulyan at 50 x 1M: coordinate_medians", times["bulyan"] / median, 5, at_least=False),
    ]
    if measurements.with_peers:
        theirs = times["Flower, median"] / median, times["Flower, trimmed mean"] / trimmed
        bars.append(Bar("coordinate_median at 50 x 1M: times as fast as Flower's", theirs[0], 6))
        bars.append(Bar("trimmed_mean at 50 x 1M: times as fast as Flower's", theirs[1], 6))
    rows = [(label, f"{s * 1000:.0f}", f"{whole / s:.1f}") for label, s in times.items()]
    return f"## Order statistics at {size}\n" + table(("", "ms", "times np.median"), rows)


def _small_tensors(measurements: Measurements, bars: list[Bar]) -> str:
    seconds = {}
    for tensors in (1, 267):
        size = Size(200, 100_000, tensors)
        job = {"weighted_mean": RULES["weighted_mean"]}
        seconds[tensors] = measurements.times(size, job)["weighted_mean"]
    ratio = seconds[267] / seconds[1]
    what = "267 tensors x 200 updates of 100k parameters: times one flat tensor"
    bars.append(Bar(what, ratio, 3, at_least=False))
    rows = [(str(tensors), f"{s * 1000:.0f}") for tensors, s in seconds.items()]
    return "## Many small tensors: 200 updates of 100k parameters\n" + table(
        ("tensors", "ms"), rows
    )


def _memory(measurements: Measurements, bars: list[Bar]) -> str:
    sizes = dict.fromkeys((*MANY_CLIENTS, *LARGE_MODELS, TEN_GIGABYTES))
    outcomes = {size: measurements.memory(size) for size in sizes}
    peaks: Mapping[Size, float] = {s: o.peak_bytes / 1e6 for s, o in outcomes.items()}
    what = "peak memory above the interpreter with imports, budget 64 MB: MB at any size"
    bars.append(Bar(what, max(peaks.values()), MEMORY_BAR_MB, at_least=False))
    few, _, many = MANY_CLIENTS
    what = "peak memory of 200 updates of 10M: times that of 10"
    bars.append(Bar(what, peaks[many] / peaks[few], 1.1, at_least=False))
    rows = [
        (str(size), f"{_megabytes(size):.0f}", f"{peaks[size]:.0f}", f"{o.seconds:.1f}")
        for size, o in outcomes.items()
    ]
    heaviest = [
        (rule, f"{measurements.memory(MANY_CLIENTS[1], rule).peak_bytes / 1e6:.0f}")
        for rule in ("multi_krum", "coordinate_median", "bulyan")
    ]
    peers = [
        (label, f"{measurements.peer_memory(MANY_CLIENTS[1], job) / 1e6:.0f}")
        for label, job in PEER_MEANS.items()
        if measurements.with_peers
    ]
    return (
        "## Peak memory\n"
        "Of a process with a budget of 64 MB, as the kernel reports it to the parent, above a process that "
        "only imports. weighted_mean of sparse files, with the result written to disk:\n\n"
        + table(("", "MB of updates", "peak MB", "s"), rows)
        + f"\nOther rules at {MANY_CLIENTS[1]} (peers: imports included):\n\n"
        + table(("", "peak MB"), [*heaviest, *peers])
    )


def _s3(measurements: Measurements) -> str:
    rows = []
    for delay in (0.0, 0.03):
        outcomes = measurements.over_s3(S3_SIZE, S3_READERS, delay)
        one, many = (outcomes[readers] for readers in S3_READERS)
        times = f"{one.seconds:.1f}", f"{many.seconds:.1f}", f"{one.seconds / many.seconds:.1f}"
        rows.append((f"{delay * 1000:.0f}", str(many.answer["requests"]), *times))
    one_reader, many_readers = (f"{readers} at a time: s" for readers in S3_READERS)
    return (
        "## Over S3\n"
        f"weighted_mean of {S3_SIZE} from a server on this machine, one chunk per request. The requests "
        "are sent one after another, or many ahead of the arithmetic, without and with the delay of a "
        "network.\n\n"
        + table(("ms a request", "requests", one_reader, many_readers, "times as fast"), rows)
    )
