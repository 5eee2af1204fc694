"""Keys of the objects in storage: how they are formed, and what the key of an upload names."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

UPDATES = "updates/"
SCORES = "scores/"
AGGREGATES = "aggregates/"
ARTIFACTS = "artifacts/"
PLANS = "plans/"
STATUSES = "status/"
CLIENTS = "clients/"
#: Requests to the mask keeper, and its answers (`aggregation.masks.requests`).
MASKS = "masks/"
SEED_KEYS = "keys/"

UPDATE_KEY_FORM = "updates/<federated_model_id>/<client_uuid>/<name>.<ext>"
SCORE_KEY_FORM = "scores/<federated_model_id>/<client_uuid>/<aggregate_id>.json"
STATUS_KEY_FORM = "status/<federated_model_id>/<client_uuid>.json"

#: Length of the longest key that S3 accepts, in bytes of UTF-8.
MAX_KEY_BYTES = 1024

_ID = r"[1-9][0-9]{0,17}"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_UPDATE = re.compile(rf"updates/({_ID})/({_UUID})/(.+)", re.ASCII)
_SCORE = re.compile(rf"scores/({_ID})/({_UUID})/({_ID})\.json", re.ASCII)

_PLAN_FOLDER = re.compile(rf"{PLANS}{_ID}/{_ID}-[0-9a-f]{{32}}/", re.ASCII)

#: A pointer or the progress, and the files that a directory keeps beside it while it is replaced.
_DOCUMENT = re.compile(r"aggregates/[0-9]+/((latest|progress)\.json|\.latest\.json\.(lock|new))")


@dataclass(frozen=True)
class UpdateKey:
    """The parts of an update's key."""

    model_id: int
    client_id: uuid.UUID
    name: str


@dataclass(frozen=True)
class ScoreKey:
    """The parts of a score's key."""

    model_id: int
    client_id: uuid.UUID
    aggregate_id: int


def parse_update_key(key: str) -> UpdateKey | None:
    """Return what the key of an update names; None if it does not have the form of one."""
    match = _match(_UPDATE, key)
    return UpdateKey(int(match[1]), uuid.UUID(match[2]), match[3]) if match else None


def parse_score_key(key: str) -> ScoreKey | None:
    """Return what the key of a score names; None if it does not have the form of one."""
    match = _match(_SCORE, key)
    return ScoreKey(int(match[1]), uuid.UUID(match[2]), int(match[3])) if match else None


def _match(form: re.Pattern[str], key: str) -> re.Match[str] | None:
    if not key.isprintable() or len(key.encode()) > MAX_KEY_BYTES:
        return None
    return form.fullmatch(key)


def aggregate_key(model_id: int, number: int, format: str) -> str:
    """Return a new key for the aggregate of a round; no two calls return the same key."""
    return f"{AGGREGATES}{model_id}/round-{number:06d}-{uuid.uuid4().hex}.{format}"


def plan_folder(model_id: int, round_id: int) -> str:
    """Return a new folder for the plan of a distributed round; no two calls return the same one."""
    return f"{PLANS}{model_id}/{round_id}-{uuid.uuid4().hex}/"


def is_plan_folder(location: str) -> bool:
    """Return whether a text is a folder that `plan_folder` returned."""
    return _PLAN_FOLDER.fullmatch(location) is not None


def model_of_plan(location: str) -> int:
    """Return the id of the model to whose round a plan's folder belongs."""
    return int(location.split("/")[1])


def plan_folder_of(key: str) -> str:
    """Return the folder of an object below ``plans/``."""
    return key[: key.rfind("/") + 1]


def pointer_key(model_id: int) -> str:
    """Return the key of a model's `latest.json`."""
    return f"{AGGREGATES}{model_id}/latest.json"


def progress_key(model_id: int) -> str:
    """Return the key of the document that says how far a model is from its next round."""
    return f"{AGGREGATES}{model_id}/progress.json"


def status_key(model_id: int, client_id: uuid.UUID) -> str:
    """Return the key of the document that says what became of a client's updates."""
    return f"{STATUSES}{model_id}/{client_id}.json"


def credentials_key(client_id: object) -> str:
    """Return the key of the document by which a client is authenticated."""
    return f"{CLIENTS}{client_id}.json"


def seed_key(model_id: int) -> str:
    """Return the key of the object with the data key that encrypts the seeds of a private model."""
    return f"{SEED_KEYS}{model_id}.key"


def is_document(key: str) -> bool:
    """Return whether a key below ``aggregates/`` belongs to a document rather than to a result."""
    return _DOCUMENT.fullmatch(key) is not None
