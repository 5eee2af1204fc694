"""The formats in which weights come and go: safetensors, npz and JSON, by name.

An object is opened by reading its headers; its values are read by ranges from then on
(`aggregation.weights.Weights`). A result is written piece by piece (`Encoder`).

The client's distribution contains this package and the modules of `aggregation` that it imports, through
symbolic links: these modules import each other relatively.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ..errors import UpdateRejected, quoted
from ..layout import TensorLayout, layout_difference
from ..sources import ByteSource
from ..weights import Weights
from .encoder import Encoder
from .json.encoder import JsonEncoder
from .json.reader import MAX_JSON_BYTES, open_json, peek_json
from .npz.encoder import NpzEncoder
from .npz.reader import open_npz, peek_npz
from .safetensors import SafetensorsEncoder, open_safetensors, read_metadata
from .spool import NeedsSpool, Spool

__all__ = [
    "FORMATS",
    "MAX_JSON_BYTES",
    "SEEKABLE_FORMATS",
    "Encoder",
    "NeedsSpool",
    "Spool",
    "encoder_for",
    "encoder_state_at",
    "format_of",
    "open_weights",
    "peek_layout",
    "read_metadata",
]

#: Names of the formats, which are the extensions of their files.
FORMATS = ("safetensors", "npz", "json")

#: Formats whose encoder can start at any element, so that several processes can write one object.
#: In npz, a checksum of all values follows each array; in JSON, the length of the text varies.
SEEKABLE_FORMATS = ("safetensors",)


def format_of(key: str) -> str:
    """The format of an object, by the extension of its name.

    Raises
    ------
    UpdateRejected
        If it is none of `FORMATS`.
    """
    if key.lower().endswith(".safetensors.index.json"):
        raise UpdateRejected(
            f"{quoted(key)} is the index of a sharded model: load the shards and save them as one "
            "safetensors file"
        )
    extension = PurePosixPath(key).suffix.lower().removeprefix(".")
    if extension not in FORMATS:
        accepted = ", ".join(f".{name}" for name in FORMATS)
        raise UpdateRejected(f"{quoted(key)} is in none of the formats {accepted}")
    return extension


def open_weights(
    source: ByteSource,
    format: str,
    *,
    expected_layout: TensorLayout | None = None,
    spool: Spool | None,
    trusted: bool = False,
) -> Weights:
    """Check what an object says about itself, and make it readable by ranges.

    Parameters
    ----------
    source : ByteSource
        The bytes of the object.
    format : str
        One of `FORMATS`.
    expected_layout : TensorLayout, optional
        The model's. An object laid out otherwise is rejected, before anything of it is unpacked;
        and the layers of JSON text, which tells no dtypes, take those of the model by position
        (without a model: float64).
    spool : Spool or None
        Takes in what cannot be read by ranges where it is. The weights can be used as long as it.
    trusted : bool
        Whether the object is no stranger's: an aggregate, or what an operator stored. Limits that
        bound what one client can cost do not hold for it; an aggregate of JSON updates, whose
        numbers have all their digits, is longer than each of them.

    Raises
    ------
    UpdateRejected
        If the object cannot be used, now or ever; the message is the reason.
    NeedsSpool
        If it cannot be read by ranges where it is, and there is no spool.
    SpoolFull
        If what must be unpacked does not fit into the spool along with what is there already.
    """
    match format:
        case "safetensors":
            weights = open_safetensors(source)
        case "npz":
            weights = open_npz(source, spool, expected_layout, trusted=trusted)
        case "json":
            weights = open_json(source, spool, expected_layout, _longest_text(source, trusted))
        case _:
            raise ValueError(f"unknown format {format!r}")
    difference = layout_difference(expected_layout, weights.layout) if expected_layout else None
    if difference:
        raise UpdateRejected(difference)
    return weights


def peek_layout(
    source: ByteSource,
    format: str,
    *,
    expected_layout: TensorLayout | None = None,
    trusted: bool = False,
) -> TensorLayout:
    """The layout of an object, for no more reading than its format needs, and nothing unpacked.

    Of safetensors the header is read, of npz the directory and the headers of the arrays, of JSON
    all of the text.

    Parameters
    ----------
    source, format, like, trusted
        As for `open_weights`; but a layout that differs from ``expected_layout`` is given back.

    Raises
    ------
    UpdateRejected
        If the object is not well formed.
    """
    match format:
        case "safetensors":
            return open_safetensors(source).layout
        case "npz":
            return peek_npz(source, trusted=trusted)
        case "json":
            return peek_json(source, expected_layout, _longest_text(source, trusted))
    raise ValueError(f"unknown format {format!r}")


def _longest_text(source: ByteSource, trusted: bool) -> int:
    return source.size if trusted else MAX_JSON_BYTES


def encoder_for(
    format: str,
    layout: TensorLayout,
    metadata: Mapping[str, str] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Encoder:
    """An encoder that writes weights in a format.

    Parameters
    ----------
    format : str
        One of `FORMATS`.
    layout : TensorLayout
        Of the weights that will be written.
    metadata : mapping of str to str, optional
        Kept by safetensors alone.
    state : mapping, optional
        `Encoder.state` of an encoder with the same arguments, to go on after its last value.

    Raises
    ------
    AggregationError
        If the format cannot hold such a layout.
    """
    match format:
        case "safetensors":
            return SafetensorsEncoder(layout, metadata, state)
        case "npz":
            return NpzEncoder(layout, state)
        case "json":
            return JsonEncoder(layout, state)
    raise ValueError(f"unknown format {format!r}")


def encoder_state_at(format: str, position: int) -> dict[str, Any]:
    """Return the state of an encoder that has encoded the first ``position`` bytes of the model.

    Raises
    ------
    ValueError
        If the format is not one of `SEEKABLE_FORMATS`.
    """
    if format not in SEEKABLE_FORMATS:
        raise ValueError(f"the encoder of {format!r} cannot start in the middle of a model")
    return {"position": position}
