"""The description of an uploaded object in an event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An object has been stored.

    Parameters
    ----------
    bucket, key : str
        The key as S3 has it, decoded.
    etag : str
    version : str
        The version's id; empty in a bucket without versions.
    size : int or None
        In bytes, as the event claims.
    event_time : datetime or None
        When S3 stored the object: to the millisecond in S3's notifications, to the second in
        EventBridge's events.
    """

    bucket: str
    key: str
    etag: str
    version: str
    size: int | None
    event_time: datetime | None = None
