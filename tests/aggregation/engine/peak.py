"""`python -m tests.aggregation.engine.peak BUDGET FOLDER`: prints what combining files takes, as JSON.

A process of its own, so that BLAS can be configured to start no threads: they wait for each other busily,
and take ten times as long on a machine that does something else as well.
"""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aggregation.engine import Combination, Resources, combine
from aggregation.engine.output import FileSink
from aggregation.formats import open_weights
from aggregation.optimizers import create_optimizer
from aggregation.policies import DEFAULT
from aggregation.pre_aggregation import build_rule
from aggregation.privacy import discrete_gaussian
from aggregation.privacy.rule import private_mean
from aggregation.rules import Rule
from aggregation.sources import FileSource
from aggregation.weights import Weights
from tests.aggregation.privacy.privacy_tools import noise, settings

RULES: Mapping[str, Mapping[str, Any]] = {
    "weighted_mean": {},
    "weighted_mean and fedadam": {},
    "unweighted_mean and privacy": {},
    "krum": {"f": 1},
    "nnm(f=1) + coordinate_median": {},
}
FORMATS = ("safetensors", "npz")


#: The optimizer that takes steps with each rule; the others take none.
OPTIMIZERS = {"weighted_mean and fedadam": "fedadam"}


def rule_of(described: str, name: str, steps: list[str]) -> Rule:
    """Return a rule, with noise if its description says so."""
    rule = build_rule(name, RULES[described], steps)
    if not described.endswith("privacy"):
        return rule
    return private_mean(rule, settings(), DEFAULT).with_noise(noise("peak"))


def peak(rule: str, n: int, path: Path, budget: int) -> int:
    """Return the peak of bytes that Python and numpy hold while a file is combined with itself."""
    kind = path.suffix[1:]

    def opened() -> Weights:
        return open_weights(FileSource(path), kind, spool=None)

    *steps, name = rule.partition(" and ")[0].split(" + ")
    optimizer = create_optimizer(OPTIMIZERS.get(rule, "none"))
    state = path.with_suffix(".state") if optimizer.slots else None
    tracemalloc.start()
    try:
        work = Combination(
            rule=rule_of(rule, name, steps),
            updates=[opened() for _ in range(n)],
            num_examples=[1] * n,
            parent=opened(),
            optimizer=optimizer,
        )
        sink = FileSink(path.with_suffix(".result"))
        state_sink = FileSink(state) if state else None
        resources = Resources(memory_bytes=budget)
        combine(work, sink, state_sink=state_sink, format=kind, resources=resources)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    discrete_gaussian.table()  # Computing it takes more memory than keeping it.
    _budget, _folder = int(sys.argv[1]), Path(sys.argv[2])
    _peaks = {
        f"{rule} {kind} {n}": peak(rule, n, _folder / f"update.{kind}", _budget)
        for rule in RULES
        for kind in FORMATS
        for n in (10, 100)
    }
    print(json.dumps(_peaks))
