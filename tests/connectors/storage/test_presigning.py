"""Links and posts are signed so that S3 takes them in every Region."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from connectors.storage.presigning import signing_client

BUCKET = "updates-123456789012"


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2", "eu-central-1", "ap-east-1"])
def test_the_regions_own_address_is_signed_for(
    region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a Region that once took older signatures nor one that must be asked at its own address
    refuses what is signed: Signature Version 4, and no redirect."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    monkeypatch.setenv("AWS_REGION", region)
    domain = "s3.amazonaws.com" if region == "us-east-1" else f"s3.{region}.amazonaws.com"
    client = signing_client(f"https://{domain}")
    post = client.generate_presigned_post(BUCKET, "updates/3/a.npz")
    assert urlsplit(post["url"]).hostname == f"{BUCKET}.{domain}"
    assert post["fields"]["x-amz-algorithm"] == "AWS4-HMAC-SHA256"
    link = client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "a"})
    assert urlsplit(link).hostname == f"{BUCKET}.{domain}"
    assert "X-Amz-Signature=" in link
    assert f"%2F{region}%2Fs3%2F" in link


def test_a_server_of_ones_own_is_asked_by_its_name() -> None:
    """A server that only stands for S3 has no names for its buckets."""
    client = signing_client("http://localhost:5000")
    link = client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "a"})
    assert link.startswith(f"http://localhost:5000/{BUCKET}/a?")
