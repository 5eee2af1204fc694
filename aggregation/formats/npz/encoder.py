"""Writes npz archives that `numpy.load` reads, without seeking and without a clock."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from ...errors import AggregationError, UpdateRejected
from ...layout import Tensor, TensorLayout
from ..encoder import Piece, TensorEncoder
from ..limits import TRUSTED
from . import npy, zip_format
from .names import array_names
from .zip_directory import MAX_NAME_BYTES

_NO_TIME, _FIRST_DAY = 0, 0x21  # midnight on 1 January 1980, the first day that zip can express


class NpzEncoder(TensorEncoder):
    """An archive of stored members, each followed by its CRC, which is not known before.

    A bfloat16 tensor is written as `numpy.save` does it, as raw data of two bytes an element;
    ``np.load(...)[name].view(ml_dtypes.bfloat16)`` converts it back.

    Raises
    ------
    AggregationError
        If the archive could not be read back: a tensor has a name that a member cannot have, or there
        are too many.
    """

    def __init__(self, layout: TensorLayout, state: Mapping[str, Any] | None = None) -> None:
        super().__init__(layout, state)
        self._crcs: list[int] = list(state["crcs"]) if state else []
        self._crc: int = state["crc"] if state else 0
        self._members = [_Member(tensor) for tensor in layout.tensors]
        self._check_members()
        self._offsets = list(accumulate((m.size_in_archive for m in self._members), initial=0))

    def _check_members(self) -> None:
        try:
            array_names(f"{tensor.name}.npy" for tensor in self._tensors)
        except UpdateRejected as error:
            raise AggregationError(f"npz cannot hold the weights: {error}") from error
        sizes = [member.name_bytes for member in self._members]
        if max(sizes, default=0) > MAX_NAME_BYTES:
            raise AggregationError(
                f"npz cannot hold a tensor with a name of more than {MAX_NAME_BYTES - 4} bytes"
            )
        if sum(sizes) + len(sizes) * zip_format.MAX_ENTRY_BYTES > TRUSTED.header_bytes:
            raise AggregationError(f"npz cannot hold as many as {len(sizes)} tensors")

    def state(self) -> dict[str, Any]:
        return {**super().state(), "crcs": list(self._crcs), "crc": self._crc}

    def footer(self) -> bytes:
        pieces = [super().footer()]
        for member, offset, crc in zip(self._members, self._offsets, self._crcs, strict=False):
            pieces.append(member.directory_entry(offset, crc))
        return b"".join([*pieces, self._end_of_archive(sum(map(len, pieces[1:])))])

    def _begin(self, number: int, tensor: Tensor) -> bytes:
        member = self._members[number]
        self._crc = zlib.crc32(member.header)
        return member.local_header() + member.header

    def _values(self, tensor: Tensor, start: int, data: memoryview) -> Iterator[Piece]:
        self._crc = zlib.crc32(data, self._crc)
        yield data

    def _end(self, number: int, tensor: Tensor) -> bytes:
        self._crcs.append(self._crc)
        return self._members[number].descriptor(self._crc)

    def _end_of_archive(self, size: int) -> bytes:
        count, offset = len(self._members), self._offsets[-1]
        end = zip_format.END.pack(
            zip_format.END_SIGNATURE,
            0,
            0,
            min(count, zip_format.MAX16),
            min(count, zip_format.MAX16),
            min(size, zip_format.MAX32),
            min(offset, zip_format.MAX32),
            0,
        )
        if count < zip_format.MAX16 and size < zip_format.MAX32 and offset < zip_format.MAX32:
            return end
        record = zip_format.END64.pack(
            zip_format.END64_SIGNATURE,
            zip_format.END64.size - 12,
            45,
            45,
            0,
            0,
            count,
            count,
            size,
            offset,
        )
        return (
            record
            + zip_format.LOCATOR64.pack(zip_format.LOCATOR64_SIGNATURE, 0, offset + size, 1)
            + end
        )


class _Member:
    """The records of one member of an archive."""

    def __init__(self, tensor: Tensor) -> None:
        self.header = npy.encode_header(tensor)
        self._size = len(self.header) + tensor.nbytes
        self._large = self._size >= zip_format.MAX32
        self._name = f"{tensor.name}.npy".encode()

    @property
    def name_bytes(self) -> int:
        return len(self._name)

    @property
    def size_in_archive(self) -> int:
        return len(self.local_header()) + self._size + len(self.descriptor(0))

    def local_header(self) -> bytes:
        extra = _zip64(0, 0) if self._large else b""
        size = zip_format.MAX32 if self._large else 0
        fields = zip_format.LOCAL.pack(
            zip_format.LOCAL_SIGNATURE, *self._common, 0, size, size, len(self._name), len(extra)
        )
        return fields + self._name + extra

    def descriptor(self, crc: int) -> bytes:
        width = 8 if self._large else 4
        size = self._size.to_bytes(width, "little")
        return zip_format.DESCRIPTOR_SIGNATURE + crc.to_bytes(4, "little") + size + size

    def directory_entry(self, offset: int, crc: int) -> bytes:
        size = min(self._size, zip_format.MAX32)
        values = [self._size] * 2 if self._large else []
        values += [offset] if offset >= zip_format.MAX32 else []
        extra = _zip64(*values) if values else b""
        lengths = len(self._name), len(extra), 0
        place = min(offset, zip_format.MAX32)
        fields = zip_format.CENTRAL.pack(
            zip_format.CENTRAL_SIGNATURE,
            45,
            *self._common,
            crc,
            size,
            size,
            *lengths,
            0,
            0,
            0,
            place,
        )
        return fields + self._name + extra

    @property
    def _common(self) -> tuple[int, ...]:
        flags = zip_format.HAS_DESCRIPTOR | (0 if self._name.isascii() else zip_format.UTF8)
        return 45 if self._large else 20, flags, zip_format.STORED, _NO_TIME, _FIRST_DAY


def _zip64(*values: int) -> bytes:
    data = b"".join(value.to_bytes(8, "little") for value in values)
    return zip_format.ZIP64.to_bytes(2, "little") + len(data).to_bytes(2, "little") + data
