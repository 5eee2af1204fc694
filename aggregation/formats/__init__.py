"""The formats of weights objects: safetensors, npz and JSON, by name.

An object is opened by reading its headers; afterwards its values are read by ranges
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
from .encoder import Encoder, ValuesEncoder
from .json.encoder import JsonEncoder
from .json.reader import open_json, peek_json
from .limits import MAX_JSON_BYTES, Limits, limits_for
from .npz.encoder import NpzEncoder
from .npz.reader import open_npz, peek_npz
from .safetensors import (
    COMPRESSIONS,
    SafetensorsEncoder,
    only_differences,
    open_safetensors,
    read_metadata,
)
from .spool import NeedsSpool, Spool

__all__ = [
    "COMPRESSIONS",
    "FORMATS",
    "MAX_JSON_BYTES",
    "SEEKABLE_FORMATS",
    "Encoder",
    "NeedsSpool",
    "Spool",
    "encoder_for",
    "encoder_state_at",
    "format_of",
    "only_differences",
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
    """Return the format of an object by the extension of its name.

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
    compressed: bool = False,
) -> Weights:
    """Check the headers of an object and make its values readable by ranges.

    Parameters
    ----------
    source : ByteSource
        The bytes of the object.
    format : str
        One of `FORMATS`.
    expected_layout : TensorLayout, optional
        The model's. An object with another layout is rejected before anything is unpacked. The layers of
        JSON text, which has no dtypes, take those of the model (float64 without it).
    spool : Spool or None
        For what cannot be read by ranges where it is. The weights can be used as long as the spool.
    trusted : bool
        Whether the object is our own: an aggregate, or what an operator stored. The limits on what an
        object of a client may cost (`aggregation.formats.limits`) do not apply to it.
    compressed : bool
        Whether the object may be compressed: an update that is a difference may.

    Raises
    ------
    UpdateRejected
        If the object can never be used; the message is the reason.
    NeedsSpool
        If it cannot be read by ranges where it is, and there is no spool.
    SpoolFull
        If what must be unpacked does not fit into the spool beside what is already there.
    """
    limits = limits_for(expected_layout, trusted=trusted)
    weights = _open(source, format, expected_layout, spool, limits, compressed)
    difference = layout_difference(expected_layout, weights.layout) if expected_layout else None
    if difference:
        raise UpdateRejected(difference)
    return weights


def _open(
    source: ByteSource,
    format: str,
    expected_layout: TensorLayout | None,
    spool: Spool | None,
    limits: Limits,
    compressed: bool,
) -> Weights:
    match format:
        case "safetensors":
            return open_safetensors(source, limits, expected_layout, compressed=compressed)
        case "npz":
            return open_npz(source, spool, expected_layout, limits)
        case "json":
            return open_json(source, spool, expected_layout, limits)
    raise ValueError(f"unknown format {format!r}")


def peek_layout(
    source: ByteSource,
    format: str,
    *,
    expected_layout: TensorLayout | None = None,
    trusted: bool = False,
    compressed: bool = False,
    readers: int = 1,
) -> TensorLayout:
    """Return the layout of an object, reading no more than its format needs and unpacking nothing.

    Of safetensors the header is read, of npz the directory and the headers of the arrays, of JSON all of
    the text. The number of requests is bounded, whatever the object says.

    Parameters
    ----------
    source, format, trusted, compressed
        As for `open_weights`.
    expected_layout : TensorLayout, optional
        The model's. An object with other names of tensors may be rejected; any other difference shows in
        the layout that is returned.
    readers : int
        Requests that are sent at the same time if there are many.

    Raises
    ------
    UpdateRejected
        If the object is not well formed.
    """
    limits = limits_for(expected_layout, trusted=trusted)
    match format:
        case "safetensors":
            return open_safetensors(source, limits, expected_layout, compressed=compressed).layout
        case "npz":
            return peek_npz(source, expected_layout, limits, readers)
        case "json":
            return peek_json(source, expected_layout, limits)
    raise ValueError(f"unknown format {format!r}")


def encoder_for(
    format: str,
    layout: TensorLayout,
    metadata: Mapping[str, str] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Encoder:
    """Return an encoder that writes weights in a format.

    Parameters
    ----------
    format : str
        One of `FORMATS`, or ``"memory"`` for the values alone.
    layout : TensorLayout
        Of the weights that will be written.
    metadata : mapping of str to str, optional
        Kept by safetensors only.
    state : mapping, optional
        `Encoder.state` of an encoder with the same arguments, to continue after its last value.

    Raises
    ------
    AggregationError
        If the format cannot hold the layout, or the result could not be read back.
    """
    match format:
        case "memory":
            return ValuesEncoder(state)
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
