"""What the function may be invoked with, from the payloads of events/."""

from __future__ import annotations

import json
from typing import Any

from connectors.runtime.events import UnknownEvent, is_sqs_batch, parse, parse_body
from local.reference.markdown import ROOT, code, page, table


def events_page() -> str:
    """What the function may be invoked with: the payloads of events/, and what it reads in them."""
    parts = []
    for path in sorted((ROOT / "events").glob("*.json")):
        event = json.loads(path.read_text())
        try:
            read = "\n".join(map(str, _requests(event)))
        except UnknownEvent as error:
            read = f"UnknownEvent: {error}"
        parts += [
            f"## {path.name}",
            f"Read as\n\n```text\n{read}\n```",
            f"```json\n{json.dumps(event, indent=1)}\n```",
        ]
    return page(
        "Events in",
        "What the function may be invoked with, and what it does:",
        table(["event", "what the function does"], ACTS.items()),
        "A message that fails is named in `batchItemFailures` and comes again; the others of its batch "
        "are done. A direct request for a round is answered with",
        table(["field", ""], [[code(name), what] for name, what in ANSWER.items()]),
        "Below are the files of the folder `events`: real payloads, of the bucket `federated-updates`, "
        "model 3 and one client, each with what is read in it. `make test` hands them to the function.",
        *parts,
    )


def _requests(event: Any) -> list[Any]:
    if not is_sqs_batch(event):
        return parse(event)
    return [request for record in event["Records"] for request in parse_body(record["body"])]


#: What the function does with what it is invoked with.
ACTS = {
    "EventBridge schedule with `detail.model_id`": "one round of that model",
    "EventBridge schedule without a model": "the sweep: a round request to the queue for each model "
    "that has ready updates or a round left behind; without a queue, those rounds in turn. Now and "
    "then it also removes what dead rounds left in the bucket",
    "S3 `ObjectCreated:*` below `updates/`, direct, through SQS, or as EventBridge's "
    '"Object Created"': "registers the uploads, then one round of each model named, if its requirement "
    "is met",
    "the same below `scores/`": "registers a client's score of an aggregate; no round",
    'SQS `{"model_id": 3}`': "one round of that model",
    "`s3:TestEvent`": "nothing; it is logged",
    "anything else": "raises `UnknownEvent`, which names what was received",
}

#: What a direct request for a round is answered with.
ANSWER = {
    "model_id": "",
    "status": "`published`; `waiting`: the requirement is not met, or nothing is ready; `busy`: a round "
    "is running, or goes on in another invocation; `paused`; `rejected`: too few usable updates were left; "
    "`failed`: a round left behind was given up",
    "round": "its number, which is its aggregate's; null where there was none",
    "aggregate_id": "of the aggregate that was published, else null",
    "updates_used": "how many",
    "updates_rejected": "how many",
    "reason": "in words, where there is something to say",
}
