"""npz: a zip archive of .npy files, as `numpy.savez` writes it.

Members that are stored as they are in memory are read by ranges; the others are unpacked once to disk.

The CRC of a member is checked whenever all of it is read: if it is unpacked, or small. A large stored
member would have to be read a second time, for no more than the object store checks when it receives an
upload; safetensors has no CRCs at all.
"""

from __future__ import annotations

from ...errors import UpdateRejected, quoted
from ...layout import TensorLayout, layout_difference
from ...sources import ByteSource
from ...weights import Weights
from ..limits import Limits
from ..spool import NeedsSpool, Spool
from . import npy
from .structure import Contents, read_archive, read_contents
from .unpack import bytes_to_unpack, unpack


def peek_npz(
    source: ByteSource, expected_layout: TensorLayout | None, limits: Limits, readers: int = 1
) -> TensorLayout:
    """Return the layout of an npz object, from its directory and the headers of its members.

    The names are compared with the model's before any member is read. If the headers need more requests
    than the limit, the names and sizes are compared with the model's and no header is read: dtypes and
    shapes are checked when the object is opened.

    Parameters
    ----------
    source : ByteSource
        The bytes of the object.
    expected_layout : TensorLayout, optional
        The model's.
    limits : Limits
    readers : int
        Requests that are sent at the same time.

    Raises
    ------
    UpdateRejected
        If the object is not an npz file that can be read without executing or guessing anything, or its
        names are not the model's.
    """
    contents = read_contents(source, expected_layout, limits)
    if expected_layout and len(contents.spans) > limits.array_header_requests:
        _check_sizes(contents, expected_layout)
        return expected_layout
    archive = read_archive(
        contents, limits, max_requests=limits.array_header_requests, readers=readers
    )
    return archive.index.layout


def open_npz(
    source: ByteSource,
    spool: Spool | None,
    expected_layout: TensorLayout | None,
    limits: Limits,
) -> Weights:
    """Read the directory and headers of an npz object, and unpack what cannot be read by ranges.

    Parameters
    ----------
    source : ByteSource
        The bytes of the object.
    spool : Spool, optional
        For what must be unpacked.
    expected_layout : TensorLayout, optional
        If the layout differs from it, the object is rejected before anything is unpacked.
    limits : Limits

    Raises
    ------
    UpdateRejected
        As `peek_npz` does, and if an unpacked member is not what it declares to be.
    NeedsSpool
        If something must be unpacked and there is no spool.
    SpoolFull
        If what must be unpacked does not fit on disk beside what is already there.
    """
    contents = read_contents(source, expected_layout, limits)
    needed = len(expected_layout.tensors) if expected_layout else 0
    archive = read_archive(contents, limits, max_requests=max(limits.array_header_requests, needed))
    layout = archive.index.layout
    difference = layout_difference(expected_layout, layout) if expected_layout else None
    if difference:
        raise UpdateRejected(difference)
    if not archive.unpacked:
        return Weights(index=archive.index, source=source, format="npz")
    if spool is None:
        raise NeedsSpool(layout, bytes_to_unpack(archive), is_text=False)
    return unpack(source, archive, contents.directory.crcs, spool)


def _check_sizes(contents: Contents, expected_layout: TensorLayout) -> None:
    """Reject an archive with an array that is not as large as the model's, without reading it."""
    for name, entry in zip(contents.names, contents.entries, strict=True):
        tensor = expected_layout.by_name[name]
        header = entry.size - tensor.nbytes
        if not len(npy.MAGIC) < header <= npy.MAX_HEADER_BYTES:
            raise UpdateRejected(
                f"tensor {quoted(name)} has {entry.size} bytes with its header, "
                f"the model's is {tensor} with {tensor.nbytes}"
            )
