"""The properties of all encoders: the same bytes, however the values were cut."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.errors import UpdateRejected
from aggregation.formats import FORMATS, encoder_for, format_of
from aggregation.layout import Tensor, TensorLayout
from tests.aggregation.formats.samples import encode, layouts, values_of


@given(st.sampled_from(FORMATS), layouts(), st.integers(0, 2**32), st.data())
def test_the_bytes_do_not_depend_on_cuts_and_resumption(
    format: str, layout: TensorLayout, seed: int, data: st.DataObject
) -> None:
    """One encoder for all values, or a chain of them with a few values each: the same bytes."""
    arrays = values_of(layout, seed, finite=True)
    cuts = data.draw(st.lists(st.integers(0, layout.size), max_size=6))
    assert encode(format, layout, arrays, cuts) == encode(format, layout, arrays)


@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_do_not_depend_on_the_clock(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of a result do not depend on when it was written."""
    layout = TensorLayout((Tensor("x", np.dtype("<f4"), (3,)),))
    first = encode(format, layout, values_of(layout, 1, finite=True))
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert encode(format, layout, values_of(layout, 1, finite=True)) == first


@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_do_not_depend_on_blocks(format: str) -> None:
    """Values that an encoder handles in several blocks come out as in one."""
    layout = TensorLayout(
        (Tensor("x", np.dtype("<f4"), (3, 5, 7000)), Tensor("y", np.dtype("i1"), ()))
    )
    arrays = values_of(layout, 1, finite=True)
    assert encode(format, layout, arrays, range(0, layout.size, 997)) == encode(
        format, layout, arrays
    )


@pytest.mark.parametrize("format", FORMATS)
def test_a_gap_is_refused(format: str) -> None:
    """Values that are not the next ones are not written."""
    encoder = encoder_for(format, TensorLayout((Tensor("x", np.dtype("<f4"), (3,)),)))
    with pytest.raises(ValueError, match="those from 0 are next"):
        list(encoder.encode(4, memoryview(bytes(4))))


@pytest.mark.parametrize("format", FORMATS)
def test_the_state_is_json(format: str) -> None:
    """A state can be kept in a database or a message."""
    layout = TensorLayout(tuple(Tensor(f"x{n}", np.dtype("<f4"), (3,)) for n in range(3)))
    encoder = encoder_for(format, layout)
    list(encoder.encode(0, memoryview(bytes(16))))
    state = encoder.state()
    assert json.loads(json.dumps(state)) == state


@pytest.mark.parametrize(
    ("key", "format"),
    [("updates/3/x/a.safetensors", "safetensors"), ("W.NPZ", "npz"), ("a.b.json", "json")],
)
def test_the_extension_names_the_format(key: str, format: str) -> None:
    """The last extension counts, in upper or lower case."""
    assert format_of(key) == format


@pytest.mark.parametrize("key", ["w", "w.pt", "npz", ".npz/x", "w.npz.gz", "w.n\u0440z", ""])
def test_other_extensions_are_rejected(key: str) -> None:
    """Anything else is refused, with what is accepted."""
    with pytest.raises(UpdateRejected, match=r"\.safetensors, \.npz, \.json"):
        format_of(key)


def test_unknown_formats_are_an_error_of_the_caller() -> None:
    """Formats come from `format_of`; another one is a bug, not a bad update."""
    with pytest.raises(ValueError, match="unknown format 'pt'"):
        encoder_for("pt", TensorLayout(()))
