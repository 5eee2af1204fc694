"""The sum of masks, stored part by part in flat memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from aggregation.errors import OutOfTime
from aggregation.masks.masking import CACHED, Mask, UInt32s

#: Bytes of a part, unless there would be more than S3 accepts.
PART_BYTES = 8 << 20
MAX_PARTS = 10_000


def part_elements_of(elements: int) -> int:
    """Return the number of elements of a part, a multiple of `CACHED`."""
    least = max(PART_BYTES // 4, -(-elements // MAX_PARTS))
    return -(-least // CACHED) * CACHED


def sum_of_masks(
    masks: Sequence[Mask], start: int, count: int, pool: ThreadPoolExecutor
) -> UInt32s:
    """Return the elements from ``start`` on of the sum of masks, modulo 2**32."""
    total = np.zeros(count, np.uint32)

    def add(begin: int) -> None:
        piece = total[begin : begin + CACHED]
        for mask in masks:
            mask.add_to(piece, start + begin)

    list(pool.map(add, range(0, count, CACHED)))
    return total


class SumStore:
    """Stores sums in a bucket.

    Parameters
    ----------
    client
        A boto3 client of S3.
    bucket : str
    out_of_time : callable
        Called before each part; when it returns True, `OutOfTime` is raised.
    """

    def __init__(self, client: Any, bucket: str, out_of_time: Callable[[], bool]) -> None:
        self._client = client
        self._bucket = bucket
        self._out_of_time = out_of_time

    def store(
        self,
        key: str,
        seeds: Sequence[bytes],
        elements: int,
        begin_upload: Callable[[str], str],
        upload: str,
    ) -> None:
        """Store the sum of the masks of some seeds.

        Parameters
        ----------
        key : str
        seeds : sequence of bytes
        elements : int
        begin_upload : callable
            Records the id of a new upload, and returns the id that counts.
        upload : str
            The id of an upload that an earlier call began; its parts are not computed again.

        Raises
        ------
        OutOfTime
            A later call resumes after the parts that are stored.
        """
        masks, part = [Mask(seed) for seed in seeds], part_elements_of(elements)
        with ThreadPoolExecutor(os.cpu_count() or 1, "sum") as pool:

            def data(number: int) -> bytes:
                start = (number - 1) * part
                count = min(part, elements - start)
                return sum_of_masks(masks, start, count, pool).astype("<u4").tobytes()

            if elements <= part:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=data(1))
                return
            self._store_parts(key, -(-elements // part), data, begin_upload, upload)

    def _store_parts(
        self,
        key: str,
        count: int,
        data: Callable[[int], bytes],
        begin_upload: Callable[[str], str],
        upload: str,
    ) -> None:
        target = {"Bucket": self._bucket, "Key": key}
        if not upload:
            upload = begin_upload(self._client.create_multipart_upload(**target)["UploadId"])
        target["UploadId"] = upload
        try:
            etags = dict(self._stored(target))
        except self._client.exceptions.NoSuchUpload:
            # It was completed, and the answer was lost: an upload is never aborted.
            self._client.head_object(Bucket=self._bucket, Key=key)
            return
        for number in range(1, count + 1):
            if number in etags:
                continue
            if self._out_of_time():
                raise OutOfTime(f"part {number} of {count} is not stored yet")
            answer = self._client.upload_part(**target, PartNumber=number, Body=data(number))
            etags[number] = answer["ETag"]
        parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
        self._client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})

    def _stored(self, target: dict[str, str]) -> Iterator[tuple[int, str]]:
        """Yield the numbers and ETags of the parts that are stored."""
        for page in self._client.get_paginator("list_parts").paginate(**target):
            for part in page.get("Parts", ()):
                yield part["PartNumber"], part["ETag"]
