"""Sums of masks: their parts, and the memory that they take."""

from __future__ import annotations

import tracemalloc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aggregation.masks.masking import CACHED, derive
from mask_keeper.sums import MAX_PARTS, PART_BYTES, SumStore, part_elements_of


@given(st.integers(1, 1 << 40))
def test_parts_fit_into_an_object(elements: int) -> None:
    """There are no more parts than S3 accepts, and none but the last is smaller than S3 accepts."""
    part = part_elements_of(elements)
    assert -(-elements // part) <= MAX_PARTS
    assert 4 * part >= PART_BYTES
    assert part % CACHED == 0


class CountingS3:
    """Takes the parts of an upload and forgets them."""

    class exceptions:  # noqa: N801 - boto3's name
        NoSuchUpload = KeyError

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def create_multipart_upload(self, **_: Any) -> dict[str, str]:
        return {"UploadId": "1"}

    def get_paginator(self, _: str) -> CountingS3:
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        return [{}]

    def upload_part(self, **part: Any) -> dict[str, str]:
        self.sizes.append(len(part["Body"]))
        return {"ETag": "e"}

    def complete_multipart_upload(self, **_: Any) -> None:
        self.sizes.append(0)


def peak_of(elements: int, seeds: int) -> int:
    """Return the most bytes that a sum takes in memory."""
    s3 = CountingS3()
    store = SumStore(s3, "bucket", lambda: False)
    given_seeds = [derive(b"seed", str(number)) for number in range(seeds)]
    tracemalloc.start()
    store.store("masks/sum.u32", given_seeds, elements, lambda upload: upload, "")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(s3.sizes) == 4 * elements
    return peak


def test_memory_depends_neither_on_the_model_nor_on_the_clients() -> None:
    """Four times the elements and eight times the clients take hardly more memory than a part or two."""
    small = peak_of(2 * PART_BYTES // 4 + 5, 2)
    large = peak_of(8 * PART_BYTES // 4 + 5, 16)
    assert small < 4 * PART_BYTES
    assert large < small + (1 << 20)
