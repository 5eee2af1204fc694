"""Messages: what was changed in any bit is refused, and a seed opens under its own header only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from aggregation.errors import UpdateRejected
from aggregation.masks.masking import commitment_of
from aggregation.masks.messages import Header, Message, check_signature, new_message, open_seed
from tests.aggregation.masks.samples import HEADER, KEEPER, SIGNING_KEY

SEED = b"s" * 32
SENT = replace(HEADER, commitment=commitment_of(SEED), elements=12)
PUBLIC = SIGNING_KEY.public_key().public_bytes_raw()


def accept(message: Message) -> bytes:
    """Return the seed, as the mask keeper does after all checks."""
    message = Message.from_mapping(message.to_mapping())
    header = Header.decode(message.header)
    check_signature(message, PUBLIC)
    return open_seed(message, header, KEEPER)


def test_a_message_is_opened_by_its_mask_keeper() -> None:
    """The seed that a client seals is the one that the mask keeper opens."""
    message = new_message(SENT, SEED, SIGNING_KEY)
    assert accept(message) == SEED
    assert Header.decode(message.header) == SENT


@pytest.mark.parametrize("part", ["header", "signature", "sealed"])
def test_every_changed_bit_is_refused(part: str) -> None:
    """No bit of a message can be changed, also none that changes only the case of a digit."""
    message = new_message(SENT, SEED, SIGNING_KEY)
    text = getattr(message, part)
    for position in range(len(text)):
        for bit in range(7):
            changed = text[:position] + chr(ord(text[position]) ^ 1 << bit) + text[position + 1 :]
            with pytest.raises(UpdateRejected):
                accept(replace(message, **{part: changed}))


def test_a_seed_is_not_opened_under_another_header() -> None:
    """A client that copies another's sealed seed into its own message learns and spends nothing."""
    message = new_message(SENT, SEED, SIGNING_KEY)
    thief = Ed25519PrivateKey.generate()
    stolen = replace(SENT, client="11111111-1111-4111-8111-000000000002")
    copied = replace(new_message(stolen, b"x" * 32, thief), sealed=message.sealed)
    check_signature(copied, thief.public_key().public_bytes_raw())
    with pytest.raises(UpdateRejected, match="not sealed for this"):
        open_seed(copied, stolen, KEEPER)


def test_another_mask_keeper_cannot_open_a_seed() -> None:
    """A seed is sealed for one key."""
    message = new_message(SENT, SEED, SIGNING_KEY)
    with pytest.raises(UpdateRejected, match="not sealed for this"):
        open_seed(message, SENT, X25519PrivateKey.generate())


def test_a_seed_that_was_not_committed_to_is_refused() -> None:
    """A client cannot commit to one seed and seal another."""
    message = new_message(SENT, b"other" + bytes(27), SIGNING_KEY)
    with pytest.raises(UpdateRejected, match="commits to"):
        accept(message)


def test_the_sealed_seed_differs_each_time() -> None:
    """Each message has an ephemeral key of its own."""
    first, second = (new_message(SENT, SEED, SIGNING_KEY) for _ in range(2))
    assert first.sealed != second.sealed
    assert first.signature == second.signature


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"weight": 0}, "weight"),
        ({"weight": 2}, "weight"),
        ({"model": -1}, "model"),
        ({"model": True}, "model"),
        ({"expires": 1 << 63}, "expires"),
        ({"client": "Someone"}, "client"),
        ({"keeper": "A" * 64}, "keeper"),
        ({"version": 2}, "version"),
    ],
)
def test_a_malformed_header_is_refused(fields: dict[str, Any], why: str) -> None:
    """The field that is wrong is named."""
    with pytest.raises(UpdateRejected, match=why):
        Header.decode(replace(SENT, **fields).encode())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model":1}', "[" * 10_000, "null"])
def test_what_is_no_header_is_refused(text: str) -> None:
    """Other text is refused."""
    with pytest.raises(UpdateRejected):
        Header.decode(text)


def test_another_form_of_the_same_header_is_refused() -> None:
    """A header has one form, so that what is signed is what is read."""
    text = SENT.encode()
    for changed in (text.replace(":", ": ", 1), f"{text} ", text[:-1] + ',"model":3}'):
        with pytest.raises(UpdateRejected, match="canonical"):
            Header.decode(changed)
