"""The unmasked mean: any range of the model is what plain numpy computes from the quantised updates."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.layout import BFLOAT16, Tensor, TensorLayout
from aggregation.masks.masking import Mask
from aggregation.masks.settings import masked_layout
from aggregation.masks.unmasking import unmasked_mean
from aggregation.policies import DEFAULT
from aggregation.sources import BytesSource
from tests.aggregation.masks.samples import quantised_values

MODEL = TensorLayout(
    (
        Tensor("a", np.dtype("<f4"), (7, 3)),
        Tensor("counter", np.dtype("<i8"), (2,)),
        Tensor("b", BFLOAT16, (11,)),
        Tensor("none", np.dtype("<f4"), (0,)),
        Tensor("c", np.dtype("<f8"), ()),
        Tensor("d", np.dtype("<f2"), (5,)),
    )
)
MASKED_LAYOUT = masked_layout(MODEL, DEFAULT)


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.lists(st.integers(0, MODEL.size), max_size=5))
def test_any_range_is_that_of_the_whole(seed: int, cuts: list[int]) -> None:
    """Tensors that are not masked are zeros; the others are the quotient, rounded to their dtype."""
    total = quantised_values(seed, MASKED_LAYOUT.size, 1 << 30)
    masks = np.zeros(MASKED_LAYOUT.size, np.uint32)
    Mask(seed.to_bytes(32, "big")).add_to(masks, 0)
    mean = unmasked_mean(
        MODEL,
        MASKED_LAYOUT,
        BytesSource((total + masks).tobytes()),
        BytesSource(masks.tobytes()),
        3 * 65536,
    )
    expected, place = b"", 0
    for tensor in MODEL.tensors:
        values = np.zeros(tensor.size, tensor.dtype)
        if tensor.name in MASKED_LAYOUT.by_name:
            integers = total[place : place + tensor.size].view(np.int32).astype(np.float64)
            values, place = (integers / (3 * 65536)).astype(tensor.dtype), place + tensor.size
        expected += values.tobytes()
    found = bytearray(b"\xee" * MODEL.nbytes)
    edges = [MODEL.bytes_before(cut) for cut in sorted({0, *cuts, MODEL.size})]
    for start, stop in pairwise(edges):
        mean.read_into(MODEL, start, memoryview(found)[start:stop])
    assert bytes(found) == expected
