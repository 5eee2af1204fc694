"""The measurements: write the files, run the tasks, and keep the best of a few runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

from benchmarks.children import Outcome, run
from benchmarks.s3 import BUCKET, server

TASKS = "benchmarks.tasks"
PEERS = "benchmarks.peers"
S3 = "benchmarks.s3_task"

MILLION = 1_000_000


class Size(NamedTuple):
    """A number of updates, and the numbers of their float32 parameters and tensors."""

    updates: int
    parameters: int
    tensors: int = 1

    def __str__(self) -> str:
        if self.parameters < MILLION:
            return f"{self.updates} x {self.parameters // 1000}k"
        return f"{self.updates} x {self.parameters // MILLION}M"


@dataclass(frozen=True)
class Job:
    """A task with its arguments, except for the files, which depend on the size."""

    task: str
    module: str = TASKS
    request: Mapping[str, Any] = field(default_factory=dict)


def aggregation(rule: str, **arguments: Any) -> Job:
    """Return the job that runs the engine with a rule."""
    return Job("aggregate", request={"rule": rule, "arguments": arguments})


#: Every rule, with arguments that are valid for ten updates.
RULES = {
    "weighted_mean": aggregation("weighted_mean"),
    "unweighted_mean": aggregation("unweighted_mean"),
    "norm_clipped_mean": aggregation("norm_clipped_mean", max_norm=1.0),
    "norm_filtered_mean": aggregation("norm_filtered_mean"),
    "centered_clipping": aggregation("centered_clipping", tau=1.0, iterations=3),
    "geometric_median": aggregation("geometric_median"),
    "krum": aggregation("krum", f=1),
    "multi_krum": aggregation("multi_krum", f=1, m=5),
    "coordinate_median": aggregation("coordinate_median"),
    "trimmed_mean": aggregation("trimmed_mean", beta=0.2),
    "bulyan": aggregation("bulyan", f=1),
}

READ = {"reading alone": Job("read")}
NUMPY_MEAN = {"np.average(np.stack)": Job("numpy_average")}
NUMPY_MEDIAN = {"np.median(np.stack)": Job("numpy_median")}
PEER_MEANS = {"NVFlare, in time": Job("nvflare_mean", PEERS), "Flower": Job("flower_mean", PEERS)}
PEER_ORDERS = {
    "Flower, median": Job("flower_median", PEERS),
    "Flower, trimmed mean": Job("flower_trimmed_mean", PEERS),
}


class Measurements:
    """Writes the files and runs the tasks.

    Parameters
    ----------
    directory : Path
        Folder for the files.
    repeat : int
        Number of runs of each task; the best counts.
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
        repeat: int,
        *,
        peer_python: str | None,
        server_python: str,
        progress: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._repeat = repeat
        self._peer_python = peer_python
        self._server_python = server_python
        self._progress = progress

    @property
    def with_peers(self) -> bool:
        """Return whether the peers are measured as well."""
        return self._peer_python is not None

    def times(self, size: Size, jobs: Mapping[str, Job]) -> dict[str, float]:
        """Return the time of each job in seconds, the best of its runs.

        The jobs alternate, so that a slow minute of the machine affects all of them.
        """
        paths = self._files(size)
        outcomes: dict[str, list[float]] = {label: [] for label in jobs}
        for _ in range(self._repeat):
            for label, job in jobs.items():
                self._progress(f"{size}: {label}")
                outcomes[label].append(self._run(job, paths, size).seconds)
        for path in paths:
            Path(path).unlink()
        return {label: min(seconds) for label, seconds in outcomes.items()}

    def memory(self, size: Size, rule: str = "weighted_mean") -> Outcome:
        """Run a rule on sparse files with a budget of 64 MB, and write the result to disk.

        Returns
        -------
        Outcome
            The time, and the peak memory above that of the interpreter with its imports.
        """
        self._progress(f"{size}: memory of {rule}")
        paths = self._files(size, sparse=True)
        out = self._directory / "result.safetensors"
        request = {**RULES[rule].request, "parent": paths[0], "memory_mb": 64, "out": str(out)}
        outcome = run(TASKS, "aggregate", paths=paths, **request)
        for path in (out, *map(Path, paths)):
            path.unlink()
        return Outcome(outcome.answer, outcome.peak_bytes - self._import_bytes)

    def peer_memory(self, size: Size, job: Job) -> int:
        """Return the peak memory of a peer, including its imports."""
        self._progress(f"{size}: memory of {job.task}")
        paths = self._files(size, sparse=True)
        return self._run(job, paths, size).peak_bytes

    def over_s3(self, size: Size, readers: Iterable[int], delay: float) -> dict[int, Outcome]:
        """Return the best run of the weighted mean of objects in S3, by the number of readers."""
        bucket = self._directory / BUCKET
        bucket.mkdir(exist_ok=True)
        keys = [Path(path).name for path in self._files(size, folder=bucket)]
        best: dict[int, Outcome] = {}
        with server(self._server_python, self._directory) as endpoint:
            for count in readers:
                self._progress(f"{size}: S3, {count} readers, {delay * 1000:.0f} ms")
                request: dict[str, Any] = {
                    "endpoint": endpoint,
                    "keys": keys,
                    "readers": count,
                    "delay": delay,
                }
                runs = [run(S3, "aggregate", **request) for _ in range(self._repeat)]
                best[count] = min(runs, key=lambda outcome: outcome.seconds)
        rmtree(bucket)
        return best

    @cached_property
    def machine(self) -> dict[str, Any]:
        """Return the processor, the cores and the version of numpy."""
        return run(TASKS, "machine").answer

    @cached_property
    def _import_bytes(self) -> int:
        return min(run(TASKS, "imports").peak_bytes for _ in range(3))

    def _run(self, job: Job, paths: list[str], size: Size) -> Outcome:
        if job.module == PEERS:
            assert self._peer_python
            return run(PEERS, job.task, self._peer_python, paths=paths)
        if job.task == "products":
            return run(TASKS, job.task, n=size.updates, size=size.parameters)
        parent = {"parent": paths[0]} if job.task == "aggregate" else {}
        return run(TASKS, job.task, paths=paths, **parent, **job.request)

    def _files(self, size: Size, *, sparse: bool = False, folder: Path | None = None) -> list[str]:
        self._progress(f"{size}: files")
        folder = folder or self._directory
        paths = [str(folder / f"{number}.safetensors") for number in range(size.updates)]
        run(TASKS, "make", paths=paths, size=size.parameters, tensors=size.tensors, sparse=sparse)
        return paths
