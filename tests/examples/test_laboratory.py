"""Models of PyTorch and JAX in the laboratory, in the interpreter that EXAMPLES_PYTHON names."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.examples.test_examples import PYTHON, ROOT, TIMEOUT_SECONDS, VARIABLES, importable


@pytest.mark.parametrize(
    ("kind", "framework", "model", "library"),
    [
        ("torch", "torch", "Sequential", "torch"),
        ("state_dict", "torch", "dict", "torch"),
        ("jax", "jax", "dict", "jaxlib"),
    ],
)
def test_models_are_trained_as_they_are(
    kind: str, framework: str, model: str, library: str
) -> None:
    """Training gets and returns the framework's own model; saved tensors have the names of a client's."""
    if framework not in importable():
        pytest.skip(f"{framework} is not installed")
    done = subprocess.run(
        [PYTHON, "-m", "tests.examples.laboratory_models", kind],
        cwd=ROOT,
        env=os.environ | VARIABLES,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    score, name, of_weight, saved, sent = done.stdout.split()
    assert float(score) > 0.8
    assert saved == sent
    assert (name, of_weight) == (model, library)
