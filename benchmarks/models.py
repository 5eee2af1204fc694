"""The models whose updates are combined: real lists of tensors, and single tensors for comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from aggregation.layout import Tensor, TensorLayout

FLOAT32 = np.dtype("<f4")

#: Parameters of ResNet-50, and the channels of its first convolution.
RESNET50_PARAMETERS = 25_610_152
RESNET50_WIDTH = 64

Shape = tuple[int, ...]


def resnet50(parameters: int) -> TensorLayout:
    """Return the 267 floating-point tensors of ResNet-50, its widths scaled to so many parameters.

    The names and shapes are those of torchvision's state dict; with 25,610,152 parameters they are the
    original ones. The number of classes makes up for the rounding of the widths. He et al., *Deep
    Residual Learning for Image Recognition*, CVPR 2016.
    """
    width = max(1, round(RESNET50_WIDTH * math.sqrt(parameters / RESNET50_PARAMETERS)))
    shapes = dict(_features(width))
    features = 32 * width
    rest = parameters - sum(math.prod(shape) for shape in shapes.values())
    classes = max(1, rest // (features + 1))
    return _layout({**shapes, "fc.weight": (classes, features), "fc.bias": (classes,)}.items())


def _features(width: int) -> Iterator[tuple[str, Shape]]:
    """Yield the tensors in front of the classifier."""
    yield from _convolution("conv1", "bn1", (width, 3, 7, 7))
    inputs = width
    for layer, blocks in enumerate((3, 4, 6, 3)):
        inner, outputs = width << layer, width << layer + 2
        for number in range(blocks):
            block = f"layer{layer + 1}.{number}"
            yield from _convolution(f"{block}.conv1", f"{block}.bn1", (inner, inputs, 1, 1))
            yield from _convolution(f"{block}.conv2", f"{block}.bn2", (inner, inner, 3, 3))
            yield from _convolution(f"{block}.conv3", f"{block}.bn3", (outputs, inner, 1, 1))
            if number == 0:
                shortcut = f"{block}.downsample"
                yield from _convolution(f"{shortcut}.0", f"{shortcut}.1", (outputs, inputs, 1, 1))
            inputs = outputs


def _convolution(name: str, norm: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    """Yield the tensors of a convolution and of the batch normalization behind it."""
    yield f"{name}.weight", shape
    for statistic in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{statistic}", shape[:1]


def equal_tensors(parameters: int, tensors: int) -> TensorLayout:
    """Return a layout with the parameters in tensors of nearly equal size."""
    cuts = np.linspace(0, parameters, tensors + 1).astype(int)
    return _layout(
        (f"layer{number}.weight", (int(stop - start),))
        for number, (start, stop) in enumerate(pairwise(cuts))
    )


def _layout(shapes: Iterable[tuple[str, Shape]]) -> TensorLayout:
    return TensorLayout(tuple(Tensor(name, FLOAT32, shape) for name, shape in shapes))


def layout_of(parameters: int, tensors: int | None) -> TensorLayout:
    """Return the layout of a float32 model: ResNet-50's, or ``tensors`` of nearly equal size."""
    return resnet50(parameters) if tensors is None else equal_tensors(parameters, tensors)
