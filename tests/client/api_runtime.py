"""The API and the function in the real Lambda runtime, as clients find them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.api_front import api_front
from local.cloud import Cloud
from local.event_pump import EventPump
from local.function import function_environment
from local.lambda_runtime import LambdaRuntime


@contextmanager
def running_api(cloud: Cloud, folder: Path) -> Iterator[str]:
    """Run the API, and the function, which the queue invokes; yield the API's URL."""
    environment = function_environment(cloud, os.environ["DATABASE_URL"])
    with (
        LambdaRuntime("lambda_handler.api", environment=environment, log=folder / "api.log") as api,
        LambdaRuntime(environment=environment, log=folder / "function.log") as function,
        EventPump(cloud.queue_url, function.invoke, sqs=cloud.client("sqs"), retry_seconds=1),
        api_front(api.invoke) as url,
    ):
        yield url
