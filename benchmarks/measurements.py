"""The measurements: write the files, run the tasks in turn, and keep the time of every run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from statistics import median
from typing import Any, NamedTuple

from benchmarks.children import Outcome, run
from benchmarks.s3 import BUCKET, server

TASKS = "benchmarks.tasks"
PEERS = "benchmarks.peers"
S3 = "benchmarks.s3_task"

MILLION = 1_000_000

#: Tasks that write no result.
READ_ONLY = {"read", "blocked_gram", "products", "numpy_median"}


class Size(NamedTuple):
    """A number of updates, and about how many float32 parameters they have.

    ``tensors`` is the number of their tensors; None stands for those of ResNet-50.
    """

    updates: int
    parameters: int
    tensors: int | None = None

    def __str__(self) -> str:
        if self.parameters < MILLION:
            return f"{self.updates} x {self.parameters // 1000}k"
        return f"{self.updates} x {self.parameters // MILLION}M"

    @property
    def megabytes(self) -> float:
        """The size of all updates together."""
        return self.updates * self.parameters * 4 / 1e6


@dataclass(frozen=True)
class Job:
    """A task with its arguments, except for the files, which depend on the size."""

    task: str
    module: str = TASKS
    request: Mapping[str, Any] = field(default_factory=dict)


def aggregation(rule: str, task: str = "aggregate", **arguments: Any) -> Job:
    """Return the job that runs the engine with a rule."""
    return Job(task, request={"rule": rule, "arguments": arguments})


def floor(task: str, **request: Any) -> Job:
    """Return the job that runs one of `benchmarks.floors`."""
    return Job(task, request=request)


@dataclass(frozen=True)
class Times:
    """The times of the runs of one job, in seconds.

    Parameters
    ----------
    seconds : tuple of float
        Without start-up and imports, in the order of the runs.
    processor_seconds : tuple of float
        Time that the processors worked; all threads together.
    process_seconds : tuple of float
        With start-up and imports.
    """

    seconds: tuple[float, ...]
    processor_seconds: tuple[float, ...]
    process_seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the runs."""
        return median(self.seconds)

    @property
    def spread(self) -> str:
        """The fastest and the slowest run."""
        return f"{min(self.seconds):.2f} to {max(self.seconds):.2f}"

    @property
    def processor(self) -> float:
        """The median of the processor time."""
        return median(self.processor_seconds)

    @property
    def whole_process(self) -> float:
        """The median of the runs, with start-up and imports."""
        return median(self.process_seconds)

    def relative_to(self, other: Times) -> float:
        """Return the median of the ratios to another job's time in the same turn."""
        return median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


class Measurements:
    """Writes the files and runs the tasks.

    Parameters
    ----------
    directory : Path
        Folder for the files.
    runs : int
        Number of runs of each task.
    peer_python : str, optional
        An interpreter with Flower and NVFlare.
    server_python : str
        An interpreter with the S3 server.
    progress : callable
        Called with a description of each step.
    """

    def __init__(
        self,
        directory: Path,
        runs: int,
        *,
        peer_python: str | None,
        server_python: str,
        progress: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self.runs = runs
        self._peer_python = peer_python
        self._server_python = server_python
        self._progress = progress
        self._out = directory / "result.safetensors"
        self._parent = directory / "parent.safetensors"
        self._made: tuple[Size, bool] | None = None

    @property
    def with_peers(self) -> bool:
        """Return whether the peers are measured as well."""
        return self._peer_python is not None

    def times(
        self, size: Size, jobs: Mapping[str, Job], runs: int | None = None
    ) -> dict[str, Times]:
        """Return the times of each job.

        The jobs run in turns, so that a slow minute of the machine affects all of them. The first
        turn reads the files into the page cache, and is not counted.
        """
        paths = self._files(size)
        outcomes: dict[str, list[Outcome]] = {label: [] for label in jobs}
        run(TASKS, "read", paths=paths)
        for turn in range(runs or self.runs):
            for label, job in jobs.items():
                self._progress(f"{size}, turn {turn + 1}: {label}")
                outcomes[label].append(self._run(job, paths))
        return {
            label: Times(
                tuple(outcome.seconds for outcome in found),
                tuple(float(outcome.answer["processor_seconds"]) for outcome in found),
                tuple(outcome.process_seconds for outcome in found),
            )
            for label, found in outcomes.items()
        }

    def memory(self, size: Size, job: Job) -> Outcome:
        """Run the engine on sparse files with a budget of 64 MB, and write the result to disk.

        Returns
        -------
        Outcome
            The time, and the peak memory above that of the interpreter with its imports.
        """
        outcome = self.peer_memory(size, job)
        above = outcome.peak_bytes - self._import_bytes
        return Outcome(outcome.answer, above, outcome.process_seconds)

    def peer_memory(self, size: Size, job: Job) -> Outcome:
        """Run a peer on sparse files; the peak memory includes its imports."""
        self._progress(f"{size}: memory of {job.request.get('rule', job.task)}")
        paths = self._files(size, sparse=True)
        return self._run(job, paths)

    def over_s3(self, size: Size, readers: Iterable[int], delay: float) -> dict[int, Outcome]:
        """Run the weighted mean of objects in S3 once for each number of readers."""
        bucket = self._directory / BUCKET
        bucket.mkdir(exist_ok=True)
        paths = [Path(path) for path in self._files(size)]
        for path in paths:
            (bucket / path.name).hardlink_to(path)
        found: dict[int, Outcome] = {}
        with server(self._server_python, self._directory) as endpoint:
            for count in readers:
                self._progress(f"{size}: S3, {count} readers, {delay * 1000:.0f} ms")
                request: dict[str, Any] = {
                    "endpoint": endpoint,
                    "keys": [path.name for path in paths],
                    "readers": count,
                    "delay": delay,
                }
                found[count] = run(S3, "aggregate", **request)
        rmtree(bucket)
        return found

    @cached_property
    def machine(self) -> dict[str, Any]:
        """Return the processor, the cores and the version of numpy."""
        return run(TASKS, "machine").answer

    @cached_property
    def _import_bytes(self) -> int:
        return min(run(TASKS, "imports").peak_bytes for _ in range(3))

    def _run(self, job: Job, paths: list[str]) -> Outcome:
        request: dict[str, Any] = {"paths": paths, **job.request}
        if job.task not in READ_ONLY:
            request["out"] = str(self._out)
        if "rule" in request:
            request["parent"] = str(self._parent)
        if job.module == PEERS:
            assert self._peer_python
            outcome = run(PEERS, job.task, self._peer_python, **request)
        else:
            outcome = run(TASKS, job.task, **request)
        self._out.unlink(missing_ok=True)
        return outcome

    def _files(self, size: Size, *, sparse: bool = False) -> list[str]:
        """Return the updates' files, which are written unless they are those that were used last."""
        if self._made != (size, sparse):
            self._progress(f"{size}: files")
            for path in self._directory.glob("*.safetensors"):
                path.unlink()
            request: dict[str, Any] = {
                "size": size.parameters,
                "tensors": size.tensors,
                "sparse": sparse,
            }
            run(TASKS, "make", paths=self._paths(size), parent=str(self._parent), **request)
            self._made = size, sparse
        return self._paths(size)

    def _paths(self, size: Size) -> list[str]:
        return [str(self._directory / f"{n}.safetensors") for n in range(size.updates)]
