"""One client's part in a federation: fetch, upload, wait, report."""

from __future__ import annotations

import io
import json
import time
import uuid
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import (
    AccessDenied,
    BadScore,
    BadWeights,
    ClientError,
    NotThere,
    RoundOverdue,
    StorageUnreachable,
)
from .storage import Progress, Storage
from .weights import FORMAT, Weights, check, decode, encode


@dataclass(frozen=True, kw_only=True)
class Latest:
    """The weights to train from.

    Parameters
    ----------
    aggregate_id : int or None
        None for the initial model.
    number : int
        Of the round that made them; 0 for the initial model.
    key, etag : str
        Of the object.
    published_on : str
        ISO 8601.
    """

    aggregate_id: int | None
    number: int
    key: str
    etag: str
    published_on: str


class Client:
    """A client of one federated model.

    Parameters
    ----------
    storage : Storage
        A `Bucket` or `Posts`.
    model_id : int
    client_id : str or uuid.UUID
        Both as the federation's operator told them.

    Attributes
    ----------
    base : Latest or None
        What was fetched last, which is what an update is taken to be trained from.
    """

    def __init__(self, storage: Storage, *, model_id: int, client_id: str | uuid.UUID) -> None:
        self._storage = storage
        self._model_id = int(model_id)
        self._client_id = uuid.UUID(str(client_id))
        self._layout: dict[str, NDArray[Any]] | None = None
        self.base: Latest | None = None

    def latest(self) -> Latest:
        """What the weights to train from are, and where.

        Raises
        ------
        NotThere
            If the model has no weights yet.
        """
        key = f"aggregates/{self._model_id}/latest.json"
        try:
            told = json.loads(self._storage.get(key))
            return Latest(**{each.name: told[each.name] for each in fields(Latest)})
        except NotThere as error:
            raise NotThere(
                f"model {self._model_id} has no weights to train from: either there is no such model, "
                "or its first round starts from the clients' own weights"
            ) from error
        except AccessDenied as error:
            raise AccessDenied(
                f"{error}. S3 also answers so to who may not list the bucket, where the model has no "
                "weights yet"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ClientError(f"{key} is not what this client knows: {error!r}") from error

    def fetch(self) -> dict[str, NDArray[Any]]:
        """The weights to train from, by name.

        Raises
        ------
        NotThere
            If the model has no weights yet.
        BadWeights
            If they are in a format that only `fetch_file` can give.
        """
        base = self.latest()
        weights = decode(self._storage.get(base.key, etag=base.etag), base.key)
        self.base, self._layout = base, _without_values(weights)
        return weights

    def fetch_file(self, path: str | Path) -> Path:
        """The weights to train from, as a file; for models that do not fit in memory twice, and for
        dtypes numpy has not. The path's suffix becomes that of the weights' format."""
        base = self.latest()
        target = Path(path).with_suffix(Path(base.key).suffix)
        self._storage.download(base.key, target, etag=base.etag)
        self.base, self._layout = base, None
        return target

    def upload(
        self, weights: Weights, *, num_examples: int, progress: Progress | None = None
    ) -> str:
        """Send an update, trained from what was fetched last.

        Parameters
        ----------
        weights : mapping of str to array
            Named, shaped and typed as those that were fetched.
        num_examples : int
            What it counts in a weighted mean: the examples it was trained on.
        progress : callable, optional
            Told the bytes sent, and of how many.

        Returns
        -------
        str
            The object's key.

        Raises
        ------
        BadWeights
            If the function would reject it; nothing was sent.
        UploadRefused, AccessDenied, StorageUnreachable
        """
        arrays = {name: np.asarray(tensor) for name, tensor in weights.items()}
        check(arrays, self._layout)
        return self._send(encode(arrays), FORMAT, num_examples, progress)

    def upload_file(
        self, path: str | Path, *, num_examples: int, progress: Progress | None = None
    ) -> str:
        """Send a safetensors, npz or JSON file as it is."""
        with Path(path).open("rb") as file:
            return self._send(file, Path(path).suffix.removeprefix("."), num_examples, progress)

    def wait(self, *, timeout: float = 600, poll: float = 5) -> Latest:
        """Wait for an aggregate newer than the one that was fetched.

        Raises
        ------
        RoundOverdue
            If none came within `timeout` seconds: others may be missing, or the model is paused. Where
            storage denied access, or was out of reach, the message says so: before the first round that
            is no error, since S3 denies what is not there to who may not list the bucket.
        """
        number = self.base.number if self.base else 0
        overdue = time.monotonic() + timeout
        while True:
            try:
                latest = self.latest()
                if latest.number > number:
                    return latest
                why = ""
            except (NotThere, AccessDenied, StorageUnreachable) as error:
                why = f"; at last: {error}"
            if time.monotonic() + poll > overdue:
                raise RoundOverdue(
                    f"model {self._model_id} has no aggregate after number {number} yet; waited "
                    f"{timeout:g} seconds{why}"
                )
            time.sleep(poll)

    def report_score(
        self, *, num_examples: int, aggregate: Latest | None = None, **results: Any
    ) -> str:
        """Tell what was measured of an aggregate on examples of one's own.

        Parameters
        ----------
        num_examples : int
            It was measured on.
        aggregate : Latest, optional
            By default what was fetched last.
        **results
            Such as ``accuracy=0.93``.

        Raises
        ------
        ClientError
            If it is no aggregate: the initial model is given no score.
        BadScore
            If the function would reject it; nothing was sent.
        """
        scored = aggregate or self.base
        if scored is None or scored.aggregate_id is None:
            raise ClientError("only an aggregate is scored: fetch one after the first round")
        body = _score({"num_examples": _count(num_examples), **results})
        key = f"scores/{self._model_id}/{self._client_id}/{scored.aggregate_id}.json"
        return self._storage.put(key, io.BytesIO(body), {}, None)

    def _send(self, body: Any, extension: str, num_examples: int, progress: Progress | None) -> str:
        metadata = {"num-examples": str(_count(num_examples))}
        if self.base and self.base.aggregate_id is not None:
            metadata["base-aggregate"] = str(self.base.aggregate_id)
        number = self.base.number + 1 if self.base else 1
        # A name is used once, so that no update takes the place of another.
        name = f"round-{number:06d}-{uuid.uuid4().hex[:12]}.{extension}"
        key = f"updates/{self._model_id}/{self._client_id}/{name}"
        return self._storage.put(key, body, metadata, progress)


def _count(num_examples: int) -> int:
    if isinstance(num_examples, bool) or int(num_examples) != num_examples or num_examples < 1:
        raise BadWeights(f"num_examples is {num_examples!r}, expected a whole number from 1")
    return int(num_examples)


def _score(results: dict[str, Any]) -> bytes:
    """A score as JSON; numbers of numpy, and of frameworks that have ``item``, as plain ones."""
    try:
        return json.dumps(results, allow_nan=False, default=lambda number: number.item()).encode()
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise BadScore(f"{results} cannot be told as JSON: {error}") from error


def _without_values(weights: Weights) -> dict[str, NDArray[Any]]:
    """Names, shapes and dtypes; an array of these takes no memory."""
    return {
        name: np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)
        for name, tensor in weights.items()
    }
