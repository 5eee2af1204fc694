"""How much reading one object may cost, whatever the object says about itself.

An object of our own (an aggregate, or what an operator stored) has limits that only keep mistakes from
exhausting a machine. An object of a client may cost as much as the model needs, by the model's layout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from ..layout import TensorLayout

#: The longest safetensors header that its own library reads.
LIBRARY_HEADER_BYTES = 100_000_000

#: The longest safetensors header, or npz directory, of a client if the model is not known or small. It
#: describes some twenty thousand tensors.
HEADER_BYTES = 2 << 20

#: The headers of all arrays of an npz archive together; as many arrays as `HEADER_BYTES` describe.
ARRAY_HEADERS_BYTES = 8 << 20

#: The most requests for the headers of the arrays of an npz archive. At intake they are sent in
#: parallel; with 16 at a time and 30 ms each, this takes a second. A round may send one for each tensor.
ARRAY_HEADER_REQUESTS = 512

#: The longest JSON text of a client.
MAX_JSON_BYTES = 16 << 20

#: The most layers of a JSON text whose model is not known.
JSON_LAYERS = 20_000

#: The most lists in a JSON text. Each costs some microseconds, which would add up to a minute for a
#: layer of lists of one number. Numbers of full precision, one to a list, stay below the limit up to
#: `MAX_JSON_BYTES`.
JSON_LISTS = 1 << 20

#: Room for what a header says of a tensor beside its name and shape, and for a client's metadata.
_TENSOR_BYTES, _DIMENSION_BYTES, _METADATA_BYTES = 192, 24, 1 << 20


@dataclass(frozen=True)
class Limits:
    """What reading one object may cost.

    Parameters
    ----------
    header_bytes : int
        A safetensors header, or an npz directory.
    array_headers_bytes : int
        The headers of all arrays of an npz archive together.
    array_header_requests : int
        Requests for these headers.
    json_bytes, json_layers, json_lists : int
        Length, layers and lists of a JSON text.
    """

    header_bytes: int = HEADER_BYTES
    array_headers_bytes: int = ARRAY_HEADERS_BYTES
    array_header_requests: int = ARRAY_HEADER_REQUESTS
    json_bytes: int = MAX_JSON_BYTES
    json_layers: int = JSON_LAYERS
    json_lists: int = JSON_LISTS


#: For objects of our own.
TRUSTED = Limits(
    header_bytes=LIBRARY_HEADER_BYTES,
    array_headers_bytes=1 << 30,
    array_header_requests=1 << 20,
    json_bytes=1 << 50,
    json_layers=1 << 24,
    json_lists=1 << 50,
)


def limits_for(expected_layout: TensorLayout | None, *, trusted: bool = False) -> Limits:
    """Return the limits for an object of ours, or of a client of a model with that layout."""
    if trusted:
        return TRUSTED
    return Limits() if expected_layout is None else _limits_of_model(expected_layout)


@lru_cache(maxsize=2)
def _limits_of_model(expected_layout: TensorLayout) -> Limits:
    tensors = expected_layout.tensors
    needed = _METADATA_BYTES + sum(
        len(json.dumps(tensor.name)) + _TENSOR_BYTES + _DIMENSION_BYTES * len(tensor.shape)
        for tensor in tensors
    )
    return Limits(
        header_bytes=min(max(HEADER_BYTES, needed), LIBRARY_HEADER_BYTES),
        array_headers_bytes=max(ARRAY_HEADERS_BYTES, 4 * needed),
        array_header_requests=max(ARRAY_HEADER_REQUESTS, len(tensors)),
        json_layers=len(tensors),
    )
