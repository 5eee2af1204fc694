"""The page about the events that the function handles, from the payloads in `events/`."""

from __future__ import annotations

import json
from typing import Any

from connectors.runtime.events import UnknownEvent, is_sqs_batch, parse, parse_body
from local.reference.markdown import ROOT, code, page, table


def events_page() -> str:
    """Return the page about events: the payloads in `events/`, and how they are parsed."""
    parts = []
    for path in sorted((ROOT / "events").glob("*.json")):
        event = json.loads(path.read_text())
        try:
            read = "\n".join(map(str, _requests(event)))
        except UnknownEvent as error:
            read = f"UnknownEvent: {error}"
        parts += [
            f"## {path.name}",
            f"Parsed as\n\n```text\n{read}\n```",
            f"```json\n{json.dumps(event, indent=1)}\n```",
        ]
    return page(
        "Events in",
        "The events that the function handles:",
        table(["event", "what the function does"], ACTIONS.items()),
        "A message that fails is named in `batchItemFailures` and is delivered again; the others of its "
        "batch are deleted. The response to a direct request for a round has these fields:",
        table(["field", ""], [[code(name), what] for name, what in RESPONSE.items()]),
        "These are the files in `events/`: real payloads, for the bucket `federated-updates`, model 3 and "
        "one client, each with the requests that it is parsed as. `make test` passes them to the function.",
        *parts,
    )


def _requests(event: Any) -> list[Any]:
    if not is_sqs_batch(event):
        return parse(event)
    return [request for record in event["Records"] for request in parse_body(record["body"])]


#: The event, and what the function does.
ACTIONS = {
    "EventBridge schedule with `detail.model_id`": "runs a round of that model",
    "EventBridge schedule without a model": "sweeps: requests a round from the queue for each model that "
    "has ready updates or a round whose lease has expired (without a queue, runs these rounds), writes "
    "pointers and status documents that are out of date and, once an hour at most, removes what dead "
    "rounds left in the bucket",
    "S3 `ObjectCreated:*` below `updates/`, direct, through SQS, or as EventBridge's "
    '"Object Created"': "registers the uploads, then runs a round of each model whose requirement is met",
    "the same below `scores/`": "registers a client's score of an aggregate",
    'SQS `{"model_id": 3}`': "runs a round of that model",
    "`s3:TestEvent`": "logs it",
    "anything else": "raises `UnknownEvent`, which names what was received; a message of a batch is "
    "logged and not delivered again",
}

#: The fields of the response to a direct request for a round.
RESPONSE = {
    "model_id": "the model",
    "status": "`published`; `waiting`: the requirement is not met, or no update is ready; `busy`: a round "
    "is running, or continues in another invocation; `paused`; `rejected`: too few usable updates were "
    "left; `failed`: a round whose lease had expired was given up",
    "round": "the number of the round, which is that of its aggregate; null if there was none",
    "aggregate_id": "the aggregate that was published; otherwise null",
    "updates_used": "the number of updates in the aggregate",
    "updates_rejected": "the number of updates that the round rejected",
    "reason": "in words, if there is one",
}
