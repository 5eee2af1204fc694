"""Links and posts are signed so that S3 accepts them in every Region."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from connectors.storage.presigning import signing_client

BUCKET = "updates-123456789012"


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2", "eu-central-1", "ap-east-1"])
def test_the_address_of_the_region_is_signed(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signature Version 4 and the Region's own host name are accepted everywhere without a redirect."""
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


def test_another_server_is_addressed_by_its_name() -> None:
    """Servers that imitate S3 have no host names for buckets."""
    client = signing_client("http://localhost:5000")
    link = client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "a"})
    assert link.startswith(f"http://localhost:5000/{BUCKET}/a?")
