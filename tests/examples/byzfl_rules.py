"""Print what ByzFL's aggregators make of the vectors on standard input, as JSON.

python -m tests.examples.byzfl_rules < vectors.json
"""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType
from typing import Any

import numpy as np

F = 2


def load_byzfl() -> tuple[Any, Any]:
    """Return ByzFL's aggregators and pre-aggregators.

    The package itself also imports its benchmarks, which need torchvision and plotting libraries.
    """
    spec = importlib.util.find_spec("byzfl")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("byzfl is not installed")
    package = ModuleType("byzfl")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["byzfl"] = package
    return (
        importlib.import_module("byzfl.aggregators.aggregators"),
        importlib.import_module("byzfl.aggregators.preaggregators"),
    )


def main() -> None:
    """Run each aggregator and each pre-aggregator on the vectors."""
    vectors = np.array(json.load(sys.stdin))
    rules, steps = load_byzfl()
    found = {
        "nnm": steps.NNM(F)(vectors.copy()),
        "arc": steps.ARC(F)(vectors.copy()),
        "coordinate_median": rules.Median()(vectors.copy()),
        "trimmed_mean": rules.TrMean(F)(vectors.copy()),
        "krum": rules.Krum(F)(vectors.copy()),
        "multi_krum": rules.MultiKrum(F)(vectors.copy()),
        "centered_clipping": rules.CenteredClipping(L=3, tau=2.0)(vectors.copy()),
    }
    json.dump({name: np.asarray(rows).tolist() for name, rows in found.items()}, sys.stdout)


if __name__ == "__main__":
    main()
