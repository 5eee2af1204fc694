"""Opening the updates of a round: what is left out, and that it does not depend on the threads."""

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
    """A model of one tensor, as numpy writes it."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, arr_0=np.full(size, value))
    return file.getvalue()


def damaged(value: float) -> bytes:
    """A compressed archive whose values are not those of its CRC."""
    data = bytearray(archive(value, compressed=True))
    crc = 14  # in the local header
    data[crc] ^= 1
    data[data.rindex(b"PK\1\2") + 16] ^= 1
    return bytes(data)


def text(value: float, size: int = 1000) -> bytes:
    """The same as JSON."""
    return json.dumps([[value] * size]).encode()


def opener(body: bytes, format: str = "npz", *, seconds: float = 0) -> Opener:
    """Opens one update, after a while."""

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
    """The first number of each update that was opened, and why the others were not."""
    with Spool(room) as spool:
        opened, rejected = open_consistent(openers, expected_layout, threads, spool)
        first = {key: read_tensors(each) for key, each in opened.items()}
        return {k: float(next(iter(v.values()))[0]) for k, v in first.items()}, rejected


MODEL = peek_layout(BytesSource(archive(0, compressed=False)), "npz")


@pytest.mark.parametrize("expected_layout", [None, MODEL])
@pytest.mark.parametrize("slow", [1, 2])
def test_there_is_room_in_claim_order(expected_layout: TensorLayout | None, slow: int) -> None:
    """Of two that fit one at a time the first is unpacked, whichever is read first; nobody else is
    touched."""
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


def test_a_smaller_one_fits_beside_one_that_does_not() -> None:
    """Each is asked for its own needs: text, which has no headers, fits where an archive does not."""
    openers = {
        1: opener(archive(1, compressed=True)),
        2: opener(archive(2, compressed=True)),
        3: opener(text(3), "json"),
    }
    opened, rejected = outcome(openers, UNPACKED + VALUES, MODEL)
    assert (list(opened), list(rejected)) == ([1, 3], [2])


def test_what_turns_out_bad_keeps_its_room() -> None:
    """Whether the next one fits must not depend on when a thread finds that out."""
    openers = {1: opener(damaged(1)), 2: opener(archive(2, compressed=True))}
    opened, rejected = outcome(openers, UNPACKED, MODEL)
    assert opened == {}
    assert "CRC" in rejected[1]
    assert "0 are left" in rejected[2]


def test_what_is_laid_out_otherwise_takes_no_room() -> None:
    """It is left out before room is given away, also where the votes decide what the model is."""
    other = opener(archive(9, compressed=True, size=999))
    openers = {0: other, 1: opener(archive(1, compressed=True)), 2: opener(text(2), "json")}
    opened, rejected = outcome({**openers, 3: opener(archive(3, compressed=False))}, 20_000)
    assert (opened, list(rejected)) == ({1: 1, 2: 2, 3: 3}, [0])
    assert "the model's" in rejected[0]


def test_text_takes_the_room_of_its_models_dtypes() -> None:
    """Without a model, what the others voted for; text alone is float64."""
    single = io.BytesIO()
    np.savez(single, arr_0=np.zeros(1000, "f4"))
    named = {n: opener(single.getvalue()) for n in range(3)}
    texts = {n: opener(text(n), "json") for n in (4, 5)}
    assert outcome({**named, **texts}, VALUES)[1] == {}
    assert list(outcome(texts, VALUES)[1]) == [5]


def test_without_a_spool_nothing_is_unpacked() -> None:
    """What would need one says so."""
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
