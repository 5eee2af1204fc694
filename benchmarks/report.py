"""The page `results.md`: the figures next to their targets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.jobs import (
    DISTANCES,
    FLOWER,
    GRAM_FLOOR,
    LARGE_MODELS,
    MAIN,
    MANY_CLIENTS,
    MEAN_FLOOR,
    MEANS,
    MEASURING,
    MEDIAN_FLOOR,
    MIXED,
    NVFLARE,
    OPTIMIZED,
    ORDERS,
    PEER_MEANS,
    PEER_ORDERS,
    RATES,
    READ,
    RULES,
    S3_READERS,
    S3_SIZE,
    SMALL,
    TEN_GIGABYTES,
)
from benchmarks.measurements import Measurements, Size, Times


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


#: What the README says, row by row.
Highlights = dict[str, str]


@dataclass(frozen=True)
class Report:
    """What was measured.

    Parameters
    ----------
    page : str
        The text of `results.md`.
    highlights : str
        The table of the README.
    met : bool
        Whether every target was met.
    """

    page: str
    highlights: str
    met: bool


def report(measurements: Measurements) -> Report:
    """Measure everything."""
    bars: list[Bar] = []
    highlights: Highlights = {}
    sections = [
        _means(measurements, bars, highlights),
        _distances(measurements, bars, highlights),
        _orders(measurements, bars, highlights),
        _rates(measurements),
        _small_tensors(measurements, bars),
        _memory(measurements, bars, highlights),
        _s3(measurements, highlights),
    ]
    title = "# Measured\n\n" + _preface(measurements)
    summary = "## Targets\n" + table(("", "figure", "target", ""), [bar.row() for bar in bars])
    machine = measurements.machine
    first = f"measured on {machine['cores']} cores ({machine['processor']})", ""
    return Report(
        page="\n".join([title, summary, *sections]),
        highlights=table(first, highlights.items()),
        met=all(bar.met for bar in bars),
    )


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
        f"{machine['numpy']} and a load of {busy:.1f} over the last minutes. The models are float32, "
        "with the 267 floating-point tensors of ResNet-50, scaled to the number of parameters. The files "
        "are in the page cache. Each run is a process of its own, and the tasks of a table take turns. A "
        "time is the median of the runs, from opening the files to the result on disk (fsync), without "
        "start-up and imports, which the whole process includes. A ratio is the median of the ratios of "
        "the turns.\n"
    )


def _timed(times: Mapping[str, Times], base: str) -> str:
    """Return a table of times, in comparison with one of them."""
    head = ("", "s", "fastest to slowest", f"times {base}", "processor: s", "whole process: s")
    rows = [
        (
            label,
            f"{found.median:.2f}",
            found.spread,
            f"{found.relative_to(times[base]):.2f}",
            f"{found.processor:.2f}",
            f"{found.whole_process:.2f}",
        )
        for label, found in times.items()
    ]
    return table(head, rows)


def _means(measurements: Measurements, bars: list[Bar], highlights: Highlights) -> str:
    jobs = MEANS | (PEER_MEANS if measurements.with_peers else {})
    times = measurements.times(MAIN, jobs)
    mean = times["weighted_mean"]
    ratio = mean.relative_to(times[MEAN_FLOOR])
    bars.append(Bar(f"weighted_mean: times {MEAN_FLOOR}", ratio, 0.9, at_least=False))
    optimized = times[OPTIMIZED].relative_to(mean)
    bars.append(Bar(f"{OPTIMIZED}: times weighted_mean", optimized, 1.6, at_least=False))
    share = times[READ].relative_to(mean)
    said = [
        f"{share:.2f} of the rate at which one thread reads the same files",
        f"{ratio:.2f} times the time of a numpy loop in float64 with two threads",
    ]
    if measurements.with_peers:
        nvflare, flower = (times[peer].relative_to(mean) for peer in (NVFLARE, FLOWER))
        bars.append(Bar("weighted_mean: times as fast as NVFlare", nvflare, 2.5))
        bars.append(Bar("weighted_mean: times as fast as Flower", flower, 6))
        said.append(f"{nvflare:.1f} times as fast as NVFlare's in-time aggregator")
        said.append(f"{flower:.1f} times as fast as Flower's FedAvg")
    what = (
        "a weighted mean of 50 updates of 10 M float32 in the tensors of ResNet-50, result synced"
    )
    highlights[what] = "; ".join(said)
    return (
        f"## The weighted mean of {MAIN}\n"
        f"{MAIN.megabytes:.0f} MB of updates. Both peers sum in float32 and so round many elements "
        "differently from the exact mean. The engine takes updates in at "
        f"{share:.2f} of the rate at which one thread reads the same files.\n\n"
        + _timed(times, MEAN_FLOOR)
    )


def _distances(measurements: Measurements, bars: list[Bar], highlights: Highlights) -> str:
    times = measurements.times(MAIN, DISTANCES)
    ratio = times[MEASURING].relative_to(times[GRAM_FLOOR])
    bars.append(Bar(f"{MEASURING}: times {GRAM_FLOOR}", ratio, 2, at_least=False))
    highlights["the pass over them that Krum and similar rules measure distances with"] = (
        f"{ratio:.1f} times the time of the same products in float32, which lose these distances"
    )
    ratio = times[MIXED].relative_to(times["multi_krum"])
    bars.append(Bar(f"{MIXED}: times multi_krum", ratio, 1.3, at_least=False))
    return (
        f"## Rules that measure distances, {MAIN}\n"
        "The floor multiplies the updates themselves, and loses the distances of honest updates to "
        "cancellation. The engine multiplies differences from the parent in float64.\n\n"
        + _timed(times, GRAM_FLOOR)
    )


def _orders(measurements: Measurements, bars: list[Bar], highlights: Highlights) -> str:
    large = measurements.times(MAIN, ORDERS, 3)
    ratio = large["coordinate_median"].relative_to(large[MEDIAN_FLOOR])
    bars.append(Bar(f"coordinate_median: times {MEDIAN_FLOOR}", ratio, 1, at_least=False))
    highlights["their coordinate-wise median"] = (
        f"{ratio:.2f} times the time of sorting blocks of columns in numpy with two threads"
    )
    size = SMALL
    jobs = {label: RULES[label] for label in ("coordinate_median", "trimmed_mean")}
    peers = dict(list(PEER_ORDERS.items())[: 3 if measurements.with_peers else 1])
    small = measurements.times(size, jobs | peers, 3)
    for peer, found in small.items():
        if peer in PEER_ORDERS:
            rule = "trimmed_mean" if "Trimmed" in peer else "coordinate_median"
            what = f"{rule} at {size}: times as fast as {peer}"
            bars.append(Bar(what, found.relative_to(small[rule]), 6))
    return (
        f"## Rules that sort coordinates, {MAIN}\n"
        + _timed(large, MEDIAN_FLOOR)
        + f"\nBeside functions that hold all updates in memory, {size}:\n\n"
        + _timed(small, "coordinate_median")
    )


def _rates(measurements: Measurements) -> str:
    columns = [measurements.times(size, {READ: MEANS[READ]} | RULES, 3) for size in RATES]
    head = ("", *(f"{size}: MB/s" for size in RATES), *(f"{size}: share" for size in RATES))
    rows = [
        (
            label,
            *(f"{s.megabytes / c[label].median:.0f}" for s, c in zip(RATES, columns, strict=True)),
            *(f"{c[READ].relative_to(c[label]):.2f}" for c in columns),
        )
        for label in (READ, *RULES)
    ]
    return (
        "## Bytes of updates consumed per second\n"
        "In megabytes, and as a share of the rate at which one thread can read the same files. Rules "
        "that measure distances read the updates once more before they combine those that they "
        "selected.\n\n" + table(head, rows)
    )


def _small_tensors(measurements: Measurements, bars: list[Bar]) -> str:
    seconds = {}
    for tensors in (1, 267):
        size = Size(200, 100_000, tensors)
        job = {"weighted_mean": RULES["weighted_mean"]}
        seconds[tensors] = measurements.times(size, job)["weighted_mean"].median
    ratio = seconds[267] / seconds[1]
    what = "267 tensors x 200 updates of 100k parameters: times one flat tensor"
    bars.append(Bar(what, ratio, 3, at_least=False))
    rows = [(str(tensors), f"{s * 1000:.0f}") for tensors, s in seconds.items()]
    return "## Many small tensors: 200 updates of 100k parameters\n" + table(
        ("tensors", "ms"), rows
    )


def _memory(measurements: Measurements, bars: list[Bar], highlights: Highlights) -> str:
    sizes = dict.fromkeys((*MANY_CLIENTS, *LARGE_MODELS, TEN_GIGABYTES))
    mean = RULES["weighted_mean"]
    outcomes = {size: measurements.memory(size, mean) for size in sizes}
    peaks: Mapping[Size, float] = {s: o.peak_bytes / 1e6 for s, o in outcomes.items()}
    what = "peak memory above the interpreter with a budget of 64 MB, for models of up to 10 GB"
    highlights[what] = f"{max(peaks.values()):.0f} MB"
    what = "peak memory above the interpreter with imports, budget 64 MB: MB at any size"
    bars.append(Bar(what, max(peaks.values()), 160, at_least=False))
    few, _, many = MANY_CLIENTS
    what = "peak memory of 200 updates of 10M: times that of 10"
    bars.append(Bar(what, peaks[many] / peaks[few], 1.1, at_least=False))
    rows = [
        (str(size), f"{size.megabytes:.0f}", f"{peaks[size]:.0f}", f"{o.seconds:.1f}")
        for size, o in outcomes.items()
    ]
    heaviest = [
        (rule, f"{measurements.memory(MAIN, RULES[rule]).peak_bytes / 1e6:.0f}")
        for rule in ("multi_krum", "coordinate_median", "bulyan")
    ]
    peers = [
        (label, f"{measurements.peer_memory(MAIN, job).peak_bytes / 1e6:.0f}")
        for label, job in PEER_MEANS.items()
        if measurements.with_peers
    ]
    return (
        "## Peak memory\n"
        "Of a process with a budget of 64 MB, as the kernel reports it to the parent, above a process that "
        "only imports. weighted_mean of sparse files, with the result written to disk:\n\n"
        + table(("", "MB of updates", "peak MB", "s"), rows)
        + f"\nOther rules at {MAIN} (peers: imports included):\n\n"
        + table(("", "peak MB"), [*heaviest, *peers])
    )


def _s3(measurements: Measurements, highlights: Highlights) -> str:
    rows = []
    for delay in (0.0, 0.03):
        outcomes = measurements.over_s3(S3_SIZE, S3_READERS, delay)
        one, many = (outcomes[readers] for readers in S3_READERS)
        times = f"{one.seconds:.1f}", f"{many.seconds:.1f}", f"{one.seconds / many.seconds:.1f}"
        rows.append((f"{delay * 1000:.0f}", str(many.answer["requests"]), *times))
        highlights["reading ahead from S3, with 30 ms per request"] = (
            f"{one.seconds / many.seconds:.0f} times as fast as sequential requests"
        )
    one_reader, many_readers = (f"{readers} at a time: s" for readers in S3_READERS)
    return (
        "## Over S3\n"
        f"weighted_mean of {S3_SIZE} from a server on this machine, one chunk per request. The requests "
        "are sent one after another, or many ahead of the arithmetic, without and with the delay of a "
        "network. One run each.\n\n"
        + table(("ms a request", "requests", one_reader, many_readers, "times as fast"), rows)
    )
