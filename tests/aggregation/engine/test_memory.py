"""Flat memory: a hundred updates are combined in the memory that ten of them take."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from tests.aggregation.engine.peak import FORMATS, RULES

MIB = 1 << 20
UPDATE_BYTES = 2 * MIB
BUDGET = 8 * MIB

#: For what the workers make of a block: float64 rows of it, and products.
MARGIN = 4 * MIB


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Return the peak of allocated bytes by rule, format and number of updates."""
    folder = tmp_path_factory.mktemp("memory")
    tensors = {"w": np.arange(UPDATE_BYTES // 4, dtype=np.float32)}
    safetensors.numpy.save_file(tensors, folder / "update.safetensors")
    np.savez(folder / "update.npz", **tensors)
    done = subprocess.run(
        [sys.executable, "-m", "tests.aggregation.engine.peak", str(BUDGET), str(folder)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rule", RULES)
def test_memory_does_not_grow_with_the_number_of_updates(
    rule: str, kind: str, peaks: dict[str, int]
) -> None:
    """Ten updates, and a hundred with 200 MiB in total, stay within one small budget."""
    assert peaks[f"{rule} {kind} 10"] < BUDGET + MARGIN
    assert peaks[f"{rule} {kind} 100"] < BUDGET + MARGIN
