"""The custom resources of a deployment: the database's users, and the migrations.

Runs as a function of its own. Whatever happens to the migrating function (an error, a crash, a
timeout), CloudFormation receives an answer, and the deployment fails with it.
"""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import boto3
from botocore.config import Config

#: A paused database is given this long to resume; Aurora takes under a minute.
RESUME_SECONDS = 300
RETRY_SECONDS = 5

#: Longer than the migrating function's timeout, which is 600 s.
MIGRATION_SECONDS = 630


def handler(event: dict[str, Any], context: object) -> None:
    """Carry out a request of CloudFormation and answer it."""
    status, reason = "SUCCESS", "done"
    try:
        if event["RequestType"] != "Delete":
            properties = event["ResourceProperties"]
            if "Function" in properties:
                invoke(properties["Function"])
            else:
                execute(properties)
    except Exception as error:  # without an answer, CloudFormation would wait for an hour
        status, reason = "FAILED", f"{type(error).__name__}: {error}"[:1000]
    answer(event, status, reason)


def invoke(function: str) -> None:
    """Invoke the migrating function and wait until it ends."""
    config = Config(read_timeout=MIGRATION_SECONDS, retries={"total_max_attempts": 1})
    client = boto3.client("lambda", config=config)
    result = client.invoke(FunctionName=function, Payload=b"{}")
    if "FunctionError" in result:
        raise RuntimeError(result["Payload"].read().decode())


def execute(properties: dict[str, str]) -> None:
    """Run a statement as the master user through the Data API."""
    client = boto3.client("rds-data")
    deadline = time.monotonic() + RESUME_SECONDS
    while True:
        try:
            client.execute_statement(
                resourceArn=properties["Cluster"],
                secretArn=properties["Secret"],
                database=properties["Database"],
                sql=properties["Statement"],
            )
            return
        except client.exceptions.DatabaseResumingException:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def answer(event: dict[str, Any], status: str, reason: str) -> None:
    """Send the result to the address that CloudFormation gave in its request."""
    body = {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
    body |= {"Status": status, "Reason": reason}
    body["PhysicalResourceId"] = event.get("PhysicalResourceId", event["LogicalResourceId"])
    request = urllib.request.Request(  # noqa: S310  CloudFormation gives an https address
        event["ResponseURL"], json.dumps(body).encode(), {"Content-Type": ""}, method="PUT"
    )
    urllib.request.urlopen(request, timeout=30).close()  # noqa: S310
