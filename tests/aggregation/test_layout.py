"""Tensor layouts: where each element of the flattened model lies, and in what two models differ."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.layout import (
    DTYPES,
    MAX_DIMENSIONS,
    MAX_SIZE,
    Tensor,
    TensorLayout,
    is_indexable,
    layout_difference,
    list_difference,
    number_order,
)


def layout(*shapes: Any, named: bool = True) -> TensorLayout:
    """Return a layout of ``(dtype, shape)``, named a, b, c, ... or numbered."""
    tensors = [
        Tensor(chr(ord("a") + i), DTYPES[dtype], tuple(shape))
        for i, (dtype, shape) in enumerate(shapes)
    ]
    return TensorLayout(tuple(tensors)) if named else TensorLayout.of_layers(tensors)


LAYOUTS = st.lists(
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=3)), max_size=6
).map(lambda shapes: layout(*shapes))


def itemsizes(of: TensorLayout) -> list[int]:
    """Bytes of each element of the flattened model, one by one."""
    return [tensor.dtype.itemsize for tensor in of.tensors for _ in range(tensor.size)]


@given(LAYOUTS)
def test_sizes_add_up(of: TensorLayout) -> None:
    """Elements, bytes and the widest element are those of the tensors laid end to end."""
    sizes = itemsizes(of)
    assert of.size == len(sizes)
    assert of.nbytes == sum(sizes)
    assert of.itemsize == max((tensor.dtype.itemsize for tensor in of.tensors), default=1)
    assert of.starts == tuple(
        sum(tensor.size for tensor in of.tensors[:i]) for i in range(len(of.tensors) + 1)
    )


@given(LAYOUTS)
def test_every_element_begins_where_those_before_it_end(of: TensorLayout) -> None:
    """Bytes before an element, and the element at a byte, are each other's inverse."""
    sizes = itemsizes(of)
    for element in range(of.size + 1):
        byte = sum(sizes[:element])
        assert of.bytes_before(element) == byte
        assert of.element_at(byte) == element


@given(LAYOUTS, st.integers(0, 200))
def test_the_element_at_a_byte_is_the_next_to_begin(of: TensorLayout, byte: int) -> None:
    """Within an element it is the one after it; beyond the end there is none."""
    begins = [of.bytes_before(element) for element in range(of.size)]
    expected = next((i for i, begin in enumerate(begins) if begin >= byte), of.size)
    assert of.element_at(byte) == expected


@given(LAYOUTS.filter(lambda of: of.size), st.data())
def test_runs_are_maximal_and_cover_the_range(of: TensorLayout, data: Any) -> None:
    """Each run has one dtype, neighbours have different ones, and no element is left out."""
    start = data.draw(st.integers(0, of.size - 1))
    stop = data.draw(st.integers(start + 1, of.size))
    dtypes = [tensor.dtype for tensor in of.tensors for _ in range(tensor.size)]
    runs = list(of.runs_between(start, stop))
    assert [dtype for begin, end, dtype in runs for _ in range(begin, end)] == dtypes[start:stop]
    assert all(one[2] != other[2] for one, other in pairwise(runs))
    assert all(begin < end for begin, end, _ in runs)


@given(LAYOUTS.filter(lambda of: of.size), st.data())
def test_an_element_is_located_in_its_tensor(of: TensorLayout, data: Any) -> None:
    """The place is that of the element in its tensor, as numpy counts it."""
    element = data.draw(st.integers(0, of.size - 1))
    flat = [
        (tensor.name, [int(i) for i in index])
        for tensor in of.tensors
        for index in np.ndindex(*tensor.shape)
    ]
    name, index = flat[element]
    assert of.locate(element) == f"tensor '{name}' at {index}"


def test_a_name_is_told_escaped() -> None:
    """What a client calls a tensor breaks no log."""
    tensor = Tensor("\x1b[31m\n" + "x" * 200, DTYPES["F32"], (1,))
    place = TensorLayout((tensor,)).locate(0)
    assert place.isprintable()
    assert place.isascii()
    assert len(place) < 120


@given(LAYOUTS)
def test_a_layout_does_not_differ_from_itself(of: TensorLayout) -> None:
    """Nor from an equal one, whatever the order of named tensors."""
    assert layout_difference(of, TensorLayout(of.tensors)) is None
    assert layout_difference(of, TensorLayout(of.tensors[::-1])) is None
    assert hash(of) == hash(TensorLayout(of.tensors))


MODEL = layout(("F32", (2, 3)), ("F32", (3,)))


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        (layout(("F32", (2, 3))), "tensor 'b' (F32 [3]) is missing"),
        (layout(), "tensor 'a' (F32 [2, 3]) is missing"),
        (
            layout(("F32", (2, 3)), ("F32", (3,)), ("F16", ())),
            "tensor 'c' (F16 []) is not in the model",
        ),
        (
            layout(("F32", (3, 2)), ("F32", (3,))),
            "tensor 'a' is F32 [3, 2], the model's is F32 [2, 3]",
        ),
        (
            layout(("F32", (2, 3)), ("F32", (1, 3))),
            "tensor 'b' is F32 [1, 3], the model's is F32 [3]",
        ),
        (
            layout(("F32", (2, 3)), ("BF16", (3,))),
            "tensor 'b' is BF16 [3], the model's is F32 [3]",
        ),
    ],
)
def test_the_first_difference_is_named(found: TensorLayout, difference: str) -> None:
    """Missing, extra, reshaped and retyped tensors are named."""
    assert layout_difference(MODEL, found) == difference


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        (layout(("F32", (2, 3)), named=False), "tensor 'arr_1' (F32 [3]) is missing"),
        (
            layout(("F32", (6,)), ("F32", (3,)), named=False),
            "tensor 'arr_0' is F32 [6], the model's is F32 [2, 3]",
        ),
        (
            layout(*[("F32", (2, 3)), ("F32", (3,))] * 2, named=False),
            "tensor 'arr_2' (F32 [2, 3]) is not in the model",
        ),
    ],
)
def test_layers_are_compared_by_number(found: TensorLayout, difference: str) -> None:
    """Layers without names are called by their numbers."""
    model = layout(("F32", (2, 3)), ("F32", (3,)), named=False)
    assert layout_difference(model, found) == difference
    assert layout_difference(model, TensorLayout(model.tensors[::-1])) is None


def test_names_are_never_matched_with_numbers() -> None:
    """Named tensors and a list of layers differ even if the shapes agree; the message says what to do."""
    numbered = TensorLayout.of_layers(MODEL.tensors)
    difference = layout_difference(MODEL, numbered)
    assert difference == list_difference(MODEL)
    assert difference is not None
    assert "no names and the model's tensors do ('a', ...): send the tensors under" in difference
    difference = layout_difference(numbered, MODEL)
    assert difference is not None
    assert "have names ('a', ...) and the model's layers do not: send the layers" in difference
    assert list_difference(numbered) is None


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["arr_0"], (0,)),
        (["arr_1", "arr_0"], (1, 0)),
        (sorted(f"arr_{n}" for n in range(12)), (0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3)),
        ([], None),
        (["arr_1"], None),
        (["arr_00"], None),
        (["arr_0", "arr_2"], None),
        (["arr_0", "w"], None),
        (["arr_\u0660"], None),
    ],
)
def test_only_all_of_the_numbers_are_an_order(names: list[str], order: Any) -> None:
    """Layers are numbered only if they are called exactly arr_0 to arr_n."""
    assert number_order(names) == order


@pytest.mark.parametrize(
    ("shape", "indexable"),
    [
        ((), True),
        ((0,), True),
        ((1,) * MAX_DIMENSIONS, True),
        ((1,) * (MAX_DIMENSIONS + 1), False),
        ((MAX_SIZE - 1,), True),
        ((MAX_SIZE,), False),
        ((1 << 40, 1 << 40), False),
        ((0, 1 << 40, 1 << 40), False),
        ((0, 1 << 40), True),
    ],
)
def test_a_shape_is_indexable_if_numpy_could_make_it(
    shape: tuple[int, ...], indexable: bool
) -> None:
    """Zeros do not make a shape harmless: numpy multiplies the other dimensions all the same."""
    assert is_indexable(shape) is indexable
    if not math.prod(shape) and indexable:
        np.empty(shape, np.float64)
