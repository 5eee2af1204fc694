"""The request for a sum of masks, and the mask keeper's answer: JSON objects in the bucket.

The key of a request contains the SHA-256 of its bytes. The answer and the sum lie beside it, so that an
identical request has the identical answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import AggregationError, UpdateRejected
from .messages import Message

#: The prefix of the objects that the aggregator and the mask keeper exchange.
MASKS = "masks/"

#: A thousand updates take a megabyte.
MAX_REQUEST_BYTES = 64 << 20

_KEY = re.compile(rf"({MASKS}[1-9][0-9]{{0,17}}/([0-9a-f]{{64}})/)request\.json", re.ASCII)


class BadRequest(AggregationError):
    """A request for a sum of masks is malformed; it would be refused again."""


@dataclass(frozen=True, kw_only=True)
class MaskRequest:
    """A request for the sum of the masks of some updates.

    Parameters
    ----------
    model : int
    round : int
        A random number that identifies the round.
    updates : tuple of Message
    """

    model: int
    round: int
    updates: tuple[Message, ...]

    def encode(self) -> bytes:
        """Return the bytes of the request."""
        updates = [update.to_mapping() for update in self.updates]
        body = {"model": self.model, "round": self.round, "updates": updates}
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, body: bytes) -> MaskRequest:
        """Return the request that some bytes contain.

        Raises
        ------
        BadRequest
        """
        try:
            found = json.loads(body)
            updates = tuple(Message.from_mapping(each) for each in found["updates"])
            request = cls(model=found["model"], round=found["round"], updates=updates)
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            RecursionError,
            UpdateRejected,
        ) as error:
            raise BadRequest(f"not a request for a sum of masks: {error!r:.200}") from error
        if type(request.model) is not int or type(request.round) is not int or not updates:
            raise BadRequest("a request needs the ids of a model and a round, and updates")
        return request


def request_key(request: MaskRequest, body: bytes) -> str:
    """Return the key of a request's object."""
    return f"{MASKS}{request.model}/{hashlib.sha256(body).hexdigest()}/request.json"


@dataclass(frozen=True, kw_only=True)
class MaskKeys:
    """The keys of a request, its answer and its sum.

    Parameters
    ----------
    folder : str
    digest : str
        The SHA-256 of the request.
    """

    folder: str
    digest: str

    @classmethod
    def of(cls, key: str) -> MaskKeys:
        """Return the keys that belong to the key of a request.

        Raises
        ------
        BadRequest
            If it is not the key of a request.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise BadRequest(f"{ascii(key)[:200]} is not the key of a request for a sum of masks")
        return cls(folder=match[1], digest=match[2])

    @property
    def request(self) -> str:
        """The key of the request."""
        return f"{self.folder}request.json"

    @property
    def answer(self) -> str:
        """The key of the answer."""
        return f"{self.folder}answer.json"

    @property
    def sum(self) -> str:
        """The key of the sum: the elements of the masks' sum, U32."""
        return f"{self.folder}sum.u32"


@dataclass(frozen=True, kw_only=True)
class MaskAnswer:
    """The mask keeper's answer: the sum is stored, or the request is refused and nothing was revealed.

    Parameters
    ----------
    elements : int
        Of the sum; 0 if there is none.
    refused : mapping of int to str
        The positions of updates that cannot be part of a sum, with the reasons.
    reason : str
        Why the request is refused whatever its updates are.
    """

    elements: int = 0
    refused: Mapping[int, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def is_refusal(self) -> bool:
        """Whether there is no sum."""
        return bool(self.refused or self.reason)

    def encode(self) -> bytes:
        """Return the bytes of the answer."""
        refused = {str(position): why for position, why in sorted(self.refused.items())}
        body = {"elements": self.elements, "reason": self.reason, "refused": refused}
        return json.dumps(body, sort_keys=True).encode()

    @classmethod
    def decode(cls, body: bytes) -> MaskAnswer:
        """Return the answer that some bytes contain.

        Raises
        ------
        BadRequest
            If it is no answer.
        """
        try:
            found: dict[str, Any] = json.loads(body)
            refused = {int(position): str(why) for position, why in found["refused"].items()}
            return cls(
                elements=int(found["elements"]), refused=refused, reason=str(found["reason"])
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadRequest(f"not an answer of a mask keeper: {error!r:.200}") from error
