"""Tests of the embedded cloud's bucket and queues, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest

from local.cloud import Cloud, create_cloud


def received(cloud: Cloud) -> list[Any]:
    """Return the bodies of all messages in the queue."""
    sqs = cloud.client("sqs")
    answer = sqs.receive_message(QueueUrl=cloud.queue_url, MaxNumberOfMessages=10)
    return [json.loads(message["Body"]) for message in answer.get("Messages", ())]


def test_upload_notifies_the_queue(own_cloud: Cloud) -> None:
    """An object below updates/ causes a notification in the queue."""
    own_cloud.client("s3").put_object(Bucket=own_cloud.bucket, Key="updates/1/a b.json", Body=b"[]")
    (body,) = received(own_cloud)
    (record,) = body["Records"]
    assert record["eventName"] == "ObjectCreated:Put"
    assert record["s3"]["bucket"]["name"] == own_cloud.bucket
    assert record["s3"]["object"]["key"] == "updates%2F1%2Fa+b.json"


def test_objects_of_the_function_cause_no_notification(own_cloud: Cloud) -> None:
    """Aggregates and artifacts do not invoke the function again."""
    s3 = own_cloud.client("s3")
    for key in ("aggregates/1/a", "artifacts/1/a", "other"):
        s3.put_object(Bucket=own_cloud.bucket, Key=key, Body=b"[]")
    assert received(own_cloud) == []


def test_bucket_keeps_versions(own_cloud: Cloud) -> None:
    """Both versions of an object that was replaced are listed."""
    s3 = own_cloud.client("s3")
    for body in (b"1", b"2"):
        s3.put_object(Bucket=own_cloud.bucket, Key="other", Body=body)
    listed = s3.list_object_versions(Bucket=own_cloud.bucket, Prefix="other")
    assert len(listed["Versions"]) == 2


def test_environment_leads_to_this_cloud(own_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cloud's variables boto3 finds the bucket, whatever the user's proxy is."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for name, value in own_cloud.environment().items():
        monkeypatch.setenv(name, value)
    names = [
        each["Name"] for each in boto3.session.Session().client("s3").list_buckets()["Buckets"]
    ]
    assert own_cloud.bucket in names


def test_profile_of_the_user_is_ignored(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that is named in the environment does not stop boto3, although its file is hidden."""
    monkeypatch.setenv("AWS_PROFILE", "work")
    own = create_cloud(cloud.endpoint, bucket="profile")
    assert own.client("s3").head_bucket(Bucket="profile")
