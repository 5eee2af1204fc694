"""Presigned posts: which one is used, what its form says, and what its policy allows."""

from __future__ import annotations

import io

import pytest

from federated_client import AccessDenied, BadArgument, Posts, StorageUnreachable, UploadRefused
from tests.client.members import Deliver, Issue, federation, in_the_cloud, member
from tests.client.servers import answering
from tests.factories import client_id, filled

pytestmark = in_the_cloud


def test_posts_that_are_read_again_never_reuse_a_key(issue: Issue, read_url: str) -> None:
    """A client that is started each day with the same posts stores each update under a key of its own."""
    model = federation(1)
    posts = issue(model, 1, "--count", 2)
    keys = {
        member(Posts(posts, read_url), model).upload(filled(1.0), num_examples=1) for _ in range(4)
    }
    assert len(keys) == 4
    prefix = posts[0]["fields"]["key"].removesuffix("${filename}")
    assert all(key.startswith(prefix) for key in keys)


def test_a_post_for_one_key_is_not_used_for_updates(read_url: str) -> None:
    """Its second update would take the place of the first one, so it is refused with the reason."""
    model = federation(1)
    key = f"updates/{model.pk}/{client_id(1)}/monday.safetensors"
    client = member(Posts([{"url": read_url, "fields": {"key": key}}], read_url), model)
    with pytest.raises(AccessDenied, match=r"ends with \${filename}"):
        client.upload(filled(1.0), num_examples=1)


def test_a_post_that_stored_nothing_can_be_used_again(issue: Issue, read_url: str) -> None:
    """An update that was not stored is sent again by the same post."""
    model = federation(1)
    (post,) = issue(model, 1)
    client, url = member(Posts([post], read_url), model), post["url"]
    post["url"] = "http://127.0.0.1:9"
    with pytest.raises(StorageUnreachable):
        client.upload(filled(1.0), num_examples=1)
    post["url"] = url
    assert client.upload(filled(1.0), num_examples=1)


def test_a_post_that_has_expired_gives_way_to_the_next(issue: Issue, read_url: str) -> None:
    """A post that is denied is not tried again as long as there are others."""
    model = federation(1)
    expired, good = issue(model, 1, "--count", 2)
    client = member(Posts([expired, good], read_url), model)
    document = b"<Code>AccessDenied</Code><Message>Policy expired.</Message>"
    with answering(403, document) as expired["url"]:
        key = client.upload(filled(1.0), num_examples=1)
        assert key.startswith(good["fields"]["key"].removesuffix("${filename}"))
        with (
            answering(403, document) as good["url"],
            pytest.raises(AccessDenied, match="has expired: ask for a new one"),
        ):
            client.upload(filled(1.0), num_examples=1)


def test_the_client_knows_better_than_its_post(
    issue: Issue, read_url: str, deliver: Deliver
) -> None:
    """The form's "based on the latest aggregate" is replaced for an update that is based on nothing."""
    model = federation(1)
    early = member(Posts(issue(model, 1), read_url), model)
    early.fetch()
    early.upload(filled(1.0), num_examples=1)
    deliver()
    (post,) = issue(model, 1)
    latest = model.aggregates.get()
    assert post["fields"]["x-amz-meta-base-aggregate"] == str(latest.pk)
    member(Posts([post], read_url), model).upload(filled(2.0), num_examples=3)
    deliver()
    update = model.model_updates.get(num_examples=3)
    assert (update.base_aggregate, update.rejection_reason) == (None, "")


def test_what_a_post_does_not_allow_is_refused(issue: Issue, read_url: str) -> None:
    """An update that is too large for its post is not sent, nor one to another client's folder."""
    model = federation(2)
    client = member(Posts(issue(model, 1, "--max-bytes", 10), read_url), model)
    with pytest.raises(
        UploadRefused, match=r"larger than its presigned post allows: \d+ bytes, .* 10"
    ):
        client.upload(filled(1.0), num_examples=1)
    other = member(Posts(issue(model, 1), read_url), model, 2)
    with pytest.raises(AccessDenied, match="no presigned post allows updates/"):
        other.upload(filled(1.0), num_examples=1)


def test_a_post_cannot_be_bent_to_another_key(issue: Issue, read_url: str) -> None:
    """A form with another key than the signed one violates its policy."""
    (post,) = issue(federation(1), 1)
    post["fields"]["key"] = post["fields"]["key"].replace("updates/", "aggregates/")
    folder = post["fields"]["key"].rpartition("/")[0]
    with pytest.raises(AccessDenied, match="Policy Condition failed"):
        Posts([post], read_url).put(f"{folder}/x", io.BytesIO(b"x"), {}, None)


def test_only_web_addresses_are_opened() -> None:
    """A URL that leads to a file of this machine is refused."""
    with pytest.raises(BadArgument, match="begins with https"):
        Posts([], "file:///etc")
