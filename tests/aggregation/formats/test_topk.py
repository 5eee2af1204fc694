"""topk: what the reader makes of updates that contain the largest elements, against plain numpy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.errors import UpdateRejected
from aggregation.formats import Spool, open_weights, peek_layout
from aggregation.formats.int8 import BLOCK, is_quantized
from aggregation.formats.topk import ENTRIES, ENTRY, OFFSETS, largest
from aggregation.layout import Tensor, TensorLayout
from aggregation.sources import ByteSource, BytesSource
from aggregation.weights import Weights, read_tensors
from tests.aggregation.formats.compressed_updates import sparse, sparse_update, written
from tests.aggregation.formats.samples import Array, CountingSource, assert_same, flattened
from tests.aggregation.formats.test_int8 import MODEL, values_for

F4 = np.dtype("<f4")


def opened(source: ByteSource, layout: TensorLayout | None = MODEL) -> Weights:
    """Open an update that may be compressed."""
    with Spool() as spool:
        return open_weights(
            source, "safetensors", expected_layout=layout, spool=spool, compressed=True
        )


@settings(max_examples=25)
@given(
    st.integers(0, 2**32),
    st.permutations([t.name for t in MODEL.tensors]),
    st.sampled_from([0.0, 0.0001, 0.01, 1.0]),
    st.data(),
)
def test_any_range_of_an_update_is_that_of_the_whole(
    seed: int, order: list[str], share: float, data: st.DataObject
) -> None:
    """Every range of elements is what plain numpy computes, whichever order the object holds them in."""
    arrays = sparse(values_for(MODEL, seed), share)
    weights = opened(BytesSource(sparse_update(arrays, order)))
    expected = flattened(arrays.values())
    cuts = data.draw(st.lists(st.integers(0, MODEL.size), max_size=5))
    found = bytearray(b"\xee" * MODEL.nbytes)
    edges = [MODEL.bytes_before(cut) for cut in sorted({0, *cuts, MODEL.size})]
    for start, stop in pairwise(edges):
        weights.read_into(MODEL, start, memoryview(found)[start:stop])
    assert bytes(found) == expected
    assert_same(read_tensors(weights.in_order(MODEL)), arrays)


def test_a_range_takes_two_reads_and_few_bytes() -> None:
    """A range is one range of offsets and one of rows; a hundredth of the elements is 2 % of the bytes."""
    rng = np.random.default_rng(1)
    arrays = {f"layer{n}": rng.normal(size=(300, 300)).astype(np.float32) for n in range(10)}
    layout = TensorLayout(tuple(Tensor(n, F4, a.shape) for n, a in arrays.items()))
    source = CountingSource(BytesSource(sparse_update(sparse(arrays, 0.01))))
    weights = opened(source, layout)
    source.reads = source.bytes_read = 0
    buffer = bytearray(layout.nbytes)
    weights.read_into(layout, 0, memoryview(buffer))
    assert source.reads == 2
    assert source.bytes_read <= 0.02 * layout.nbytes
    assert abs(source.bytes_read - weights.nbytes) <= 8 * len(arrays)
    half = layout.bytes_before(layout.size // 2)
    source.reads = 0
    weights.read_into(layout, half, memoryview(buffer)[half:])
    assert source.reads == 2


def test_the_header_states_the_layout() -> None:
    """The shapes and dtypes are known without the model, and a transposed tensor is rejected."""
    arrays = sparse({"w": np.ones((2, 3), np.float32)}, 0.5)
    source = BytesSource(sparse_update(arrays))
    found = peek_layout(source, "safetensors", compressed=True)
    assert found.tensors == (Tensor("w", F4, (2, 3)),)
    other = TensorLayout((Tensor("w", F4, (3, 2)),))
    with pytest.raises(UpdateRejected, match=r"'w' is F32 \[2, 3\], the model's is F32 \[3, 2\]"):
        peek_layout(source, "safetensors", expected_layout=other, compressed=True)
    with pytest.raises(UpdateRejected, match="only updates that are differences"):
        peek_layout(source, "safetensors")


def test_a_tensor_that_may_be_missing_is_zero() -> None:
    """An excluded tensor that the update lacks is read as zeros, and is not one of its tensors."""
    arrays = sparse(values_for(MODEL, 1), 1.0)
    expected = TensorLayout(MODEL.tensors, frozenset({"half"}))
    body = sparse_update({name: array for name, array in arrays.items() if name != "half"})
    weights = opened(BytesSource(body), expected).in_order(expected)
    found = bytearray(MODEL.nbytes)
    weights.read_into(expected, 0, memoryview(found))
    assert bytes(found) == flattened((arrays | {"half": np.zeros_like(arrays["half"])}).values())
    assert "half" not in read_tensors(weights)


SMALL = TensorLayout((Tensor("w", F4, (2, BLOCK // 2 + 1)),))
EMPTY = np.empty((0, 2, BLOCK // 2 + 1), np.float32)


def rows(*entries: tuple[int, float]) -> Array:
    """Return the tensor of rows."""
    return np.array(list(entries), ENTRY).view(np.uint8).reshape(-1, ENTRY.itemsize)


def offsets(*values: int) -> Array:
    return np.array(values, np.uint64)


def update(**changed: Array) -> bytes:
    """Return an update of two elements, in two blocks, with some of its tensors changed."""
    stored = {"w": EMPTY, OFFSETS: offsets(0, 1, 2), ENTRIES: rows((5, 1.0), (1, 2.0))}
    return written(stored | changed, {"compression": "topk"})


def test_the_elements_are_where_the_rows_say() -> None:
    """An index counts from the beginning of its block."""
    found = read_tensors(opened(BytesSource(update()), SMALL))["w"].reshape(-1)
    assert np.flatnonzero(found).tolist() == [5, BLOCK + 1]
    assert (found[5], found[BLOCK + 1]) == (1, 2)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({OFFSETS: offsets(0, 2)}, r"'__offsets__' is U64 \[2\], expected U64 \[3\]"),
        ({OFFSETS: np.zeros(3, np.int64)}, "'__offsets__' is I64"),
        ({ENTRIES: np.zeros((2, 5), np.uint8)}, "'__entries__' is U8 .* 6 bytes in each row"),
        ({ENTRIES: np.zeros(12, np.uint8)}, "'__entries__' is U8"),
        ({ENTRIES: np.zeros((2, 6), np.int8)}, "'__entries__' is I8"),
        ({"w": np.zeros((2, 3), np.float32)}, "expected a shape that is 0 followed by"),
        ({"w": EMPTY.astype(np.float64)}, "the model's is F32"),
    ],
)
def test_a_header_that_does_not_fit_is_rejected_at_intake(
    changed: dict[str, Array], reason: str
) -> None:
    """Lengths, shapes and dtypes are checked from the header."""
    source = BytesSource(update(**changed))
    with pytest.raises(UpdateRejected, match=reason):
        peek_layout(source, "safetensors", expected_layout=SMALL, compressed=True)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({OFFSETS: offsets(1, 0, 2)}, r"offsets of the block from tensor 'w' at \[0, 0\] on"),
        ({OFFSETS: offsets(0, 1, 3)}, "beyond the 2 rows"),
        ({OFFSETS: offsets(0, 2**64 - 1, 2)}, "beyond the 2 rows"),
        ({OFFSETS: offsets(2**63, 2**63, 2**63)}, "beyond the 2 rows"),
        ({OFFSETS: offsets(0, 2, 2), ENTRIES: rows((5, 1.0), (5, 2.0))}, "index 5 .* is repeated"),
        ({OFFSETS: offsets(0, 2, 2), ENTRIES: rows((5, 1.0), (4, 2.0))}, "index 4 .* not sorted"),
        ({ENTRIES: rows((BLOCK, 1.0), (1, 2.0))}, f"index {BLOCK} .* not below {BLOCK}"),
        ({ENTRIES: rows((0, 1.0), (2, 2.0))}, r"index 2 .*'w' at \[1, 2047\] on .* not below 2"),
        (
            {OFFSETS: offsets(0, 0, 3), ENTRIES: rows((0, 1.0), (1, 2.0), (1, 2.0))},
            "more than 2 apart",
        ),
    ],
)
def test_hostile_rows_are_rejected_with_their_place(changed: dict[str, Array], reason: str) -> None:
    """Offsets and indices that are out of range, repeated or not sorted are rejected by the round."""
    weights = opened(BytesSource(update(**changed)), SMALL)
    with pytest.raises(UpdateRejected, match=reason):
        weights.read_into(SMALL, 0, memoryview(bytearray(SMALL.nbytes)))


def test_a_value_that_is_nan_is_read_as_nan() -> None:
    """The engine finds values that are not finite, as in any other update."""
    weights = opened(BytesSource(update(**{ENTRIES: rows((5, np.nan), (1, np.inf))})), SMALL)
    found = read_tensors(weights)["w"].reshape(-1)
    assert np.isnan(found[5])
    assert np.isinf(found[BLOCK + 1])


@pytest.mark.parametrize("name", [OFFSETS, ENTRIES])
def test_a_model_with_a_tensor_of_that_name_takes_no_such_updates(name: str) -> None:
    """The names of the tensors that contain the elements are never ambiguous."""
    layout = TensorLayout((*SMALL.tensors, Tensor(name, F4, (1,))))
    with pytest.raises(UpdateRejected, match="send the update uncompressed"):
        opened(BytesSource(update()), layout)


def test_a_full_object_is_read_in_several_requests_of_bounded_size() -> None:
    """An update with all elements takes no large buffer: at most 131,072 rows are read at once."""
    arrays: dict[str, Any] = {"w": np.arange(1, 400_001, dtype=np.float32)}
    layout = TensorLayout((Tensor("w", F4, (400_000,)),))
    source = CountingSource(BytesSource(sparse_update(arrays)))
    weights = opened(source, layout)
    source.reads = 0
    assert (read_tensors(weights)["w"] == arrays["w"]).all()
    assert 4 <= source.reads <= 6


def test_the_largest_elements_are_chosen() -> None:
    """The indices are those of the largest absolute values, sorted."""
    values = np.array([1.0, -9.0, 0.5, 7.0, -7.5], np.float32)
    assert largest(values, 3).tolist() == [1, 3, 4]
    assert largest(values, 0).tolist() == []
    assert largest(values, 5).tolist() == [0, 1, 2, 3, 4]
    assert not is_quantized(np.dtype(bool))
