"""Keys of objects in storage: what they name, and which keys have another form."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.storage.keys import (
    ScoreKey,
    UpdateKey,
    aggregate_key,
    is_document,
    parse_score_key,
    parse_update_key,
    pointer_key,
    progress_key,
)

UUID = "11111111-1111-4111-8111-000000000001"

NOT_UPDATES = [
    "",
    "updates",
    "updates/",
    f"updates/1/{UUID}",
    f"updates/1/{UUID}/",
    f"/updates/1/{UUID}/u.npz",
    f"UPDATES/1/{UUID}/u.npz",
    f"updates//1/{UUID}/u.npz",
    f"updates/1//{UUID}/u.npz",
    f"updates/0/{UUID}/u.npz",
    f"updates/01/{UUID}/u.npz",
    f"updates/-1/{UUID}/u.npz",
    f"updates/+1/{UUID}/u.npz",
    f"updates/1.0/{UUID}/u.npz",
    f"updates/1e0/{UUID}/u.npz",
    f"updates/ 1/{UUID}/u.npz",
    f"updates/１/{UUID}/u.npz",
    f"updates/١/{UUID}/u.npz",
    f"updates/{10**18}/{UUID}/u.npz",
    f"updates/{10**400}/{UUID}/u.npz",
    f"updates/../updates/1/{UUID}/u.npz",
    f"updates/1/../1/{UUID}/u.npz",
    f"updates/1/{UUID[:-1]}/u.npz",
    f"updates/1/{UUID}0/u.npz",
    f"updates/1/{{{UUID}}}/u.npz",
    f"updates/1/urn:uuid:{UUID}/u.npz",
    f"updates/1/{UUID.replace('-', '')}/u.npz",
    f"updates/1/{UUID.replace('1', 'А', 1)}/u.npz",
    f"updates/1/{'A' + UUID[1:]}/u.npz",
    f"updates/1/{UUID}%2Fu.npz",
    f"updates%2F1%2F{UUID}%2Fu.npz",
    f"updates/1/{UUID}/u\x00.npz",
    f"updates/1/{UUID}/u\n.npz",
    f"updates/1/{UUID}/u\r\nSet-Cookie: x.npz",
    f"updates/1/{UUID}/u\u202ezpn.npz",
    f"updates/1/{UUID}/u\u200b.npz",
    f"updates/1/{UUID}/u\ud800.npz",
    f"updates/1/{UUID}/" + "u" * 2000 + ".npz",
    f"updates/1/{UUID}/" + "ü" * 600 + ".npz",
    f"artifacts/1/{UUID}/u.npz",
    f"aggregates/1/{UUID}/u.npz",
]


@pytest.mark.parametrize("key", NOT_UPDATES)
def test_a_key_of_another_form_names_no_update(key: str) -> None:
    """Other prefixes, numbers and ids in other spellings, and characters that cannot be printed."""
    assert parse_update_key(key) is None


@pytest.mark.parametrize(
    "key",
    [
        *(f"scores/0/{UUID}/1.json", f"scores/1/{UUID}/1.txt", f"scores/1/{UUID}/x/1.json"),
        *(f"scores/1/{UUID}/latest.json", "scores/1/nobody/1.json", f"updates/1/{UUID}/1.json"),
    ],
)
def test_a_key_of_another_form_names_no_score(key: str) -> None:
    """A score's key ends with the id of an aggregate and `.json`."""
    assert parse_score_key(key) is None


@given(model=st.integers(1, 10**18 - 1), client=st.uuids(), number=st.integers(1, 10**18 - 1))
def test_a_key_names_what_it_was_made_of(model: int, client: uuid.UUID, number: int) -> None:
    """Model, client and name, or aggregate, are read as they were written."""
    assert parse_update_key(f"updates/{model}/{client}/a b/ü+.npz") == UpdateKey(
        model, client, "a b/ü+.npz"
    )
    assert parse_score_key(f"scores/{model}/{client}/{number}.json") == ScoreKey(
        model, client, number
    )


def test_a_pointer_is_not_a_result() -> None:
    """The pointer and the files beside it in a directory are distinguished from aggregates."""
    assert is_document(pointer_key(3))
    assert is_document(progress_key(3))
    assert is_document("aggregates/3/.latest.json.lock")
    assert not is_document(aggregate_key(3, 1, "npz"))
