"""The bytes of results, pinned: a change of the code that should not change results does not."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from aggregation.__main__ import main

PINNED: dict[str, str] = json.loads(Path(__file__).with_name("digests.json").read_text())

#: Rules, some with steps before them, and the arguments of the rule.
RULES: dict[str, list[str]] = {
    "weighted_mean": [],
    "unweighted_mean": [],
    "normalized_mean": [],
    "coordinate_median": [],
    "trimmed_mean": ["beta=0.2"],
    "krum": ["f=1"],
    "multi_krum": ["f=1", "m=3"],
    "bulyan": ["f=1"],
    "geometric_median": [],
    "norm_clipped_mean": ["max_norm=2.0"],
    "centered_clipping": ["tau=2.0", "iterations=2"],
    "norm_filtered_mean": ["threshold=3.0"],
    "spectral_filter": ["f=2"],
    "history_filter": ["f=2"],
    "nnm(f=2) + krum": ["f=1"],
    "arc(f=2) + nnm(f=1) + coordinate_median": [],
    "bucketing(s=2) + geometric_median": [],
}
FORMATS = ("safetensors", "npz", "json")
UPDATES = 7


def tensors(generator: np.random.Generator, format: str) -> dict[str, Any]:
    """Return tensors of several dtypes; JSON has none, so that all of its values are float64."""
    kernel = generator.standard_normal((40, 30))
    bias = generator.standard_normal(30)
    scale = generator.standard_normal(())
    if format == "json":
        return {"kernel": kernel, "bias": bias}
    return {
        "kernel": kernel.astype(np.float32),
        "half": generator.standard_normal(500).astype(np.float16),
        "bias": bias,
        "scale": scale.astype(np.float32),
        "count": generator.integers(0, 100, 3),
    }


def save(path: Path, arrays: dict[str, Any]) -> None:
    """Save arrays in the format of the file's extension, with the format's own library."""
    if path.suffix == ".safetensors":
        save_file(arrays, path)
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        path.write_text(json.dumps([array.tolist() for array in arrays.values()]))


def digest(folder: Path, rule: str, format: str) -> str:
    """Return the digest of the aggregate of seven updates that a parent precedes."""
    generator = np.random.default_rng(20261128)
    paths = [folder / f"{name}.{format}" for name in ("parent", *map(str, range(UPDATES)))]
    for path in paths:
        save(path, tensors(generator, format))
    out = folder / f"result.{format}"
    arguments = [each for argument in RULES[rule] for each in ("--arg", argument)]
    counts = ",".join(str(10 + position) for position in range(UPDATES))
    parent, *updates = map(str, paths)
    *steps, name = rule.split(" + ")
    for step in steps:
        arguments += ["--pre-aggregation", step]
    options = ["--rule", name, *arguments, "--parent", parent, "--num-examples", counts]
    options += ["--num-steps", counts] if rule == "normalized_mean" else []
    options += ["--seed", "5eed"] if steps else []
    options += [
        "--tensor-policy",
        "*=optimize",
    ]  # By default, integers are not combined by the rule.
    status = main([*options, "--out", str(out), *updates])
    assert status == 0
    return hashlib.sha256(out.read_bytes()).hexdigest()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rule", RULES)
def test_results_keep_their_bytes(rule: str, format: str, tmp_path: Path) -> None:
    """The same updates give the same bytes as when their digest was pinned."""
    assert digest(tmp_path, rule, format) == PINNED[f"{rule}.{format}"]


#: Kernels of BLAS that every processor of a kind can run, and that add in another order than its own.
KERNELS = {"x86_64": "Prescott", "AMD64": "Prescott", "aarch64": "ARMV8", "arm64": "ARMV8"}


@pytest.mark.parametrize("kernel", ["", KERNELS[platform.machine()]], ids=["own", "generic"])
def test_results_do_not_depend_on_the_kernels_of_blas(kernel: str) -> None:
    """Another process gives the pinned bytes with its processor's own kernels, and with generic ones."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    if kernel:
        environment["OPENBLAS_CORETYPE"] = kernel
    selected = f"{__file__}::test_results_keep_their_bytes"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", selected],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{len(RULES) * len(FORMATS)} passed" in done.stdout
