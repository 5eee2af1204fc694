"""The floors of the benchmark compute what the engine computes, from the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from benchmarks import floors, tasks
from benchmarks.__main__ import BEGIN, END, README, with_table
from benchmarks.measurements import Times
from benchmarks.models import RESNET50_PARAMETERS, equal_tensors, resnet50

UPDATES = 5

#: Elements of the model, and so small blocks that a floor takes several of each.
SIZE = 100_000
BLOCK = 1 << 14


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], str]:
    """Return the paths of the updates, and that of their parent."""
    for name in ("MEAN_BLOCK", "GRAM_BLOCK", "MEDIAN_BLOCK"):
        monkeypatch.setattr(floors, name, BLOCK)
    paths = [str(tmp_path / f"{number}.safetensors") for number in range(UPDATES)]
    parent = str(tmp_path / "parent.safetensors")
    tasks.make(paths, parent, SIZE, None)
    return paths, parent


def flattened(path: str) -> np.ndarray:
    tensors = safetensors.numpy.load_file(path)
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def test_the_model_is_resnet50() -> None:
    """The list has the 267 floating-point tensors of torchvision's ResNet-50, with their shapes."""
    layout = resnet50(RESNET50_PARAMETERS)
    shapes = {tensor.name: tensor.shape for tensor in layout.tensors}
    assert (len(shapes), layout.size) == (267, RESNET50_PARAMETERS)
    assert shapes["layer4.0.downsample.0.weight"] == (2048, 1024, 1, 1)
    assert shapes["fc.weight"] == (1000, 2048)


@pytest.mark.parametrize("parameters", [1_000_000, 10_000_000])
def test_a_scaled_model_has_as_many_tensors(parameters: int) -> None:
    """A scaled ResNet-50 has 267 tensors, and the wanted number of parameters up to 0.1 %."""
    layout = resnet50(parameters)
    assert len(layout.tensors) == 267
    assert layout.size == pytest.approx(parameters, rel=0.001)


def test_equal_tensors_divide_the_parameters() -> None:
    """The tensors of a plain model have the wanted number of elements together."""
    layout = equal_tensors(100_003, 7)
    assert (len(layout.tensors), layout.size) == (7, 100_003)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 0.0)])
def test_a_blocked_mean_is_the_weighted_mean(
    files: tuple[list[str], str], tmp_path: Path, threads: int, dtype: str, tolerance: float
) -> None:
    """In float64 it has the engine's bits, and in float32 nearly its values."""
    paths, parent = files
    out, expected = str(tmp_path / "floor"), str(tmp_path / "engine")
    floors.blocked_mean(paths, dtype, out, threads)
    tasks.aggregate(paths, "weighted_mean", {}, parent, expected)
    np.testing.assert_allclose(flattened(out), flattened(expected), rtol=tolerance, atol=1e-8)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_blocked_median_is_the_median(
    files: tuple[list[str], str], tmp_path: Path, threads: int
) -> None:
    """It has the engine's bits."""
    paths, parent = files
    out, expected = str(tmp_path / "floor"), str(tmp_path / "engine")
    floors.blocked_median(paths, out, threads)
    tasks.aggregate(paths, "coordinate_median", {}, parent, expected)
    np.testing.assert_array_equal(flattened(out), flattened(expected))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_blocked_gram_multiplies_the_updates(files: tuple[list[str], str], threads: int) -> None:
    """Its trace is the sum of the updates' squared norms."""
    paths, _ = files
    squares = sum(float(np.square(flattened(path).astype(float)).sum()) for path in paths)
    assert floors.blocked_gram(paths, threads)["trace"] == pytest.approx(squares, rel=1e-5)


def test_a_ratio_is_the_median_of_the_turns() -> None:
    """A turn in which the machine was slow slows both tasks down, and leaves the ratio."""
    ours = Times((1.0, 10.0, 1.2), (2.0, 3.0, 2.2), (2.0, 11.0, 2.2))
    theirs = Times((2.0, 20.0, 1.2), (3.0, 3.0, 3.0), (3.0, 3.0, 3.0))
    assert ours.relative_to(theirs) == 0.5
    assert (ours.median, ours.whole_process, ours.spread) == (1.2, 2.2, "1.00 to 10.00")


def test_the_table_of_the_readme_is_replaced() -> None:
    """What is around the table stays, and the README has the place for it."""
    text = f"before\n{BEGIN}old\n{END}after\n"
    assert with_table(text, "new\n") == f"before\n{BEGIN}new\n{END}after\n"
    assert with_table(README.read_text(), "new\n").count("new\n") == 1
