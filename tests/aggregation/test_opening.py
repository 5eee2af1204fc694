"""Opening the updates of a round: which are rejected does not depend on the order of the threads."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping

import numpy as np
import pytest

from aggregation.formats import NeedsSpool, Spool, open_weights, peek_layout
from aggregation.layout import TensorLayout
from aggregation.opening import Opener, open_consistent
from aggregation.sources import BytesSource
from aggregation.weights import Weights, read_tensors

#: Values of one update, and what a compressed one takes to unpack: an npy header of 128 bytes, too.
VALUES = 8 * 1000
UNPACKED = VALUES + 128


def archive(value: float, *, compressed: bool, size: int = 1000) -> bytes:
    """Return a model of one tensor, as numpy writes it."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, arr_0=np.full(size, value))
    return file.getvalue()


def damaged(value: float) -> bytes:
    """Return a compressed archive whose values do not match its CRC."""
    data = bytearray(archive(value, compressed=True))
    crc = 14  # in the local header
    data[crc] ^= 1
    data[data.rindex(b"PK\1\2") + 16] ^= 1
    return bytes(data)


def text(value: float, size: int = 1000) -> bytes:
    """Return the same model as JSON."""
    return json.dumps([[value] * size]).encode()


def opener(body: bytes, format: str = "npz", *, seconds: float = 0) -> Opener:
    """Return an opener of one update that takes some time."""

    def opened(expected_layout: TensorLayout | None, spool: Spool | None) -> Weights:
        time.sleep(seconds)
        return open_weights(BytesSource(body), format, expected_layout=expected_layout, spool=spool)

    return opened


def outcome(
    openers: Mapping[int, Opener],
    room: int,
    expected_layout: TensorLayout | None = None,
    threads: int = 4,
) -> tuple[dict[int, float], dict[int, str]]:
    """Return the first number of each update that was opened, and the reasons for the others."""
    with Spool(room) as spool:
        opened, rejected = open_consistent(openers, expected_layout, threads, spool)
        first = {key: read_tensors(each) for key, each in opened.items()}
        return {k: float(next(iter(v.values()))[0]) for k, v in first.items()}, rejected


MODEL = peek_layout(BytesSource(archive(0, compressed=False)), "npz")


@pytest.mark.parametrize("expected_layout", [None, MODEL])
@pytest.mark.parametrize("slow", [1, 2])
def test_the_spool_is_given_out_in_claim_order(
    expected_layout: TensorLayout | None, slow: int
) -> None:
    """If only one of two updates can be unpacked, it is the first one, whichever is read first."""
    openers = {
        number: opener(
            archive(number, compressed=number in (1, 2)), seconds=0.05 * (number == slow)
        )
        for number in range(4)
    }
    opened, rejected = outcome(openers, UNPACKED * 3 // 2, expected_layout)
    assert opened == {0: 0, 1: 1, 3: 3}
    assert list(rejected) == [2]
    assert f"takes {UNPACKED} bytes to unpack; of the {UNPACKED * 3 // 2}" in rejected[2]
    assert f"{UNPACKED // 2} are left" in rejected[2]
    assert "EphemeralStorageMb" in rejected[2]


def test_an_update_needs_only_its_own_space() -> None:
    """An update that fits is unpacked although a larger one before it was rejected."""
    openers = {
        1: opener(archive(1, compressed=True)),
        2: opener(archive(2, compressed=True)),
        3: opener(text(3), "json"),
    }
    opened, rejected = outcome(openers, UNPACKED + VALUES, MODEL)
    assert (list(opened), list(rejected)) == ([1, 3], [2])


def test_a_damaged_update_keeps_its_space() -> None:
    """Whether the next update fits does not depend on when the damage is found."""
    openers = {1: opener(damaged(1)), 2: opener(archive(2, compressed=True))}
    opened, rejected = outcome(openers, UNPACKED, MODEL)
    assert opened == {}
    assert "CRC" in rejected[1]
    assert "0 are left" in rejected[2]


def test_an_update_with_another_layout_takes_no_space() -> None:
    """It is rejected before space is given out, also if the majority decides the layout."""
    other = opener(archive(9, compressed=True, size=999))
    openers = {0: other, 1: opener(archive(1, compressed=True)), 2: opener(text(2), "json")}
    opened, rejected = outcome({**openers, 3: opener(archive(3, compressed=False))}, 20_000)
    assert (opened, list(rejected)) == ({1: 1, 2: 2, 3: 3}, [0])
    assert "the model's" in rejected[0]


def test_text_needs_the_space_of_the_dtypes_of_the_model() -> None:
    """Without a model, text takes the dtypes of the majority; if all updates are text, float64."""
    single = io.BytesIO()
    np.savez(single, arr_0=np.zeros(1000, "f4"))
    named = {n: opener(single.getvalue()) for n in range(3)}
    texts = {n: opener(text(n), "json") for n in (4, 5)}
    assert outcome({**named, **texts}, VALUES)[1] == {}
    assert list(outcome(texts, VALUES)[1]) == [5]


def test_without_a_spool_nothing_is_unpacked() -> None:
    """An update that must be unpacked raises `NeedsSpool` if there is no spool."""
    with pytest.raises(NeedsSpool, match=f"{UNPACKED} bytes"):
        open_consistent({1: opener(archive(1, compressed=True))}, MODEL, 1)


def test_the_order_of_tensors_does_not_split_the_majority() -> None:
    """Three updates with the same tensors in three orders outvote two that agree on other tensors."""
    honest = [{"a": [1.0], "b": [2.0]}, {"b": [2.0], "a": [1.0]}, {"a": [1.0], "b": [2.0]}]
    bodies = []
    for tensors in [{"x": [0.0]}, {"x": [0.0]}, *honest]:
        file = io.BytesIO()
        np.savez(file, **tensors)  # type: ignore[arg-type]
        bodies.append(file.getvalue())
    opened, rejected = outcome({n: opener(body) for n, body in enumerate(bodies)}, 0)
    assert list(opened) == [2, 3, 4]
    assert list(rejected) == [0, 1]
