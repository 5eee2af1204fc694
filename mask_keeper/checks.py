"""Check a request: which of its updates may be part of a sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from aggregation.errors import UpdateRejected
from aggregation.masks.messages import Header, Message, check_signature, open_seed
from aggregation.masks.requests import MaskAnswer, MaskRequest

#: No update is valid for longer; a commitment is remembered for as long as its update is valid.
MAX_VALID_SECONDS = 31 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a mask keeper requires.

    Parameters
    ----------
    key : X25519PrivateKey
    min_cohort : int
        The fewest updates of a sum.
    now : float
        Seconds since 1970.
    """

    key: X25519PrivateKey
    min_cohort: int
    now: float

    @property
    def public_key(self) -> str:
        """The public key, in hexadecimal digits."""
        return self.key.public_key().public_bytes_raw().hex()


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The updates of a request that passed the checks.

    Parameters
    ----------
    headers : list of Header
    seeds : list of bytes
    """

    headers: list[Header]
    seeds: list[bytes] = field(repr=False)

    @property
    def elements(self) -> int:
        """Elements of each mask."""
        return self.headers[0].elements

    @property
    def expires(self) -> int:
        """The time after which none of the updates is valid."""
        return max(header.expires for header in self.headers)


def clients_of(request: MaskRequest) -> list[str]:
    """Return the clients that the headers of a request name; nothing is verified yet."""
    clients = []
    for message in request.updates:
        try:
            clients.append(Header.decode(message.header).client)
        except UpdateRejected:
            continue
    return clients


def check_request(
    request: MaskRequest, public_keys: Mapping[str, bytes], terms: Terms
) -> Cohort | MaskAnswer:
    """Return the cohort of a request, or the refusal.

    Parameters
    ----------
    request : MaskRequest
    public_keys : mapping of str to bytes
        Of the registered clients, by id.
    terms : Terms
    """
    if len(request.updates) < terms.min_cohort:
        return MaskAnswer(
            reason=f"a sum of {len(request.updates)} updates is refused: the mask keeper's minimum is "
            f"{terms.min_cohort}"
        )
    refused: dict[int, str] = {}
    headers: list[Header] = []
    seeds: list[bytes] = []
    for position, message in enumerate(request.updates):
        try:
            header = Header.decode(message.header)
            seeds.append(_checked_seed(message, header, request, public_keys, terms))
            headers.append(header)
        except UpdateRejected as error:
            refused[position] = str(error)
    if refused:
        return MaskAnswer(refused=refused)
    return _consistent(headers, seeds)


def reserved_cohort(request: MaskRequest, terms: Terms) -> Cohort:
    """Return the cohort of a request that passed the checks before: only its seeds are opened."""
    headers = [Header.decode(message.header) for message in request.updates]
    pairs = zip(request.updates, headers, strict=True)
    seeds = [open_seed(message, header, terms.key) for message, header in pairs]
    return Cohort(headers=headers, seeds=seeds)


def _checked_seed(
    message: Message,
    header: Header,
    request: MaskRequest,
    public_keys: Mapping[str, bytes],
    terms: Terms,
) -> bytes:
    if header.model != request.model:
        raise UpdateRejected(f"the update is for model {header.model}, not {request.model}")
    if header.keeper != terms.public_key:
        raise UpdateRejected("the update is for another mask keeper")
    if header.expires <= terms.now:
        raise UpdateRejected("the update has expired: send it again")
    if header.expires > terms.now + MAX_VALID_SECONDS:
        raise UpdateRejected("the update is valid for more than 31 days")
    if header.client not in public_keys:
        raise UpdateRejected(
            "the client's public key is not registered: give it to the mask keeper's operator"
        )
    check_signature(message, public_keys[header.client])
    return open_seed(message, header, terms.key)


def _consistent(headers: list[Header], seeds: list[bytes]) -> Cohort | MaskAnswer:
    """Refuse what differs from most, and what is there twice."""
    forms = [(h.elements, h.layout, h.scale, h.limit, h.max_weight) for h in headers]
    common = Counter(forms).most_common(1)[0][0]
    refused: dict[int, str] = {}
    clients: set[str] = set()
    commitments: set[str] = set()
    for position, (header, form) in enumerate(zip(headers, forms, strict=True)):
        if form != common:
            refused[position] = "its layout, scale, limit or max_weight is not that of the others"
        elif header.client in clients:
            refused[position] = "there is another update of the same client"
        elif header.commitment in commitments:
            refused[position] = "there is another update with the same commitment"
        clients.add(header.client)
        commitments.add(header.commitment)
    return MaskAnswer(refused=refused) if refused else Cohort(headers=headers, seeds=seeds)
