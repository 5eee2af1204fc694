"""One client's part in a federation: fetch, upload, wait, report."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, SupportsIndex

from . import limits
from ._core.layout import TensorLayout
from ._core.policies import TensorPolicies
from .arguments import (
    checked_client_id,
    checked_compression,
    checked_count,
    checked_model_id,
    checked_target,
    open_file,
    stated_counts,
)
from .errors import BadArgument, ClientError, NotThere
from .frozen import FrozenTensors
from .personal import personal_arrays, personal_names, put_back
from .pointer import Latest, read_pointer, visible_pointer
from .private import Identity, Masking
from .scores import encode_score
from .status import Status, parse_status, status_key
from .storage import Progress, Storage, visible
from .update import Update, metadata_of, new_name, prepare, warn_if_capped
from .waiting import storage_state, wait_for_aggregate
from .weights import FORMAT, Arrays, Weights, as_arrays, decode_with_layout, encode, layout_of_file


class Client:
    """A client of one federated model.

    Parameters
    ----------
    storage : Storage
        A `Bucket` or `Posts`.
    model_id : int
    client_id : str or uuid.UUID
        Both from the federation's operator.
    identity : Identity, optional
        The keys of a client that masks its updates (`federated_client.private.load_identity`).

    Attributes
    ----------
    base : Latest or None
        What was fetched last. An update is taken to be trained from it.
    personal : dict of str to array
        The tensors that the model excludes, from the last `upload`: `fetch` puts them back.
    residual : dict of str to array
        What compression left out so far. A program that ends between rounds saves it, and sets it again.

    Raises
    ------
    BadArgument
        If an id cannot be one.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        model_id: int,
        client_id: str | uuid.UUID,
        identity: Identity | None = None,
    ) -> None:
        self._storage = storage
        self._model_id = checked_model_id(model_id)
        self._client_id = checked_client_id(client_id)
        self._layout: TensorLayout | None = None
        self._sent_key = ""
        self.base: Latest | None = None
        self.personal: Arrays = {}
        self.residual: Arrays = {}
        self._identity = identity
        self._frozen = FrozenTensors()

    @property
    def client_id(self) -> uuid.UUID:
        """The client's id."""
        return self._client_id

    @property
    def sent_key(self) -> str:
        """The key of the update that was sent last; empty if none was."""
        return self._sent_key

    def resume(self, base: Latest, sent_key: str = "", residual: Arrays | None = None) -> None:
        """Continue what another process began: the weights it fetched, the update it sent, its residual."""
        self.base, self._sent_key, self.residual = base, sent_key, residual or {}

    def latest(self, *, attempts: int = limits.ATTEMPTS) -> Latest:
        """Return which weights to train from, and what the model makes of an update.

        Raises
        ------
        NotThere
            If the model has no weights yet.
        """
        return read_pointer(self._storage, self._model_id, attempts)

    def fetch(self, *, initial: Weights | None = None, personal: Weights | None = None) -> Arrays:
        """Return the weights to train from, by name; tensors that the model excludes are the client's own.

        Parameters
        ----------
        initial : mapping of str to array, optional
            Returned if the model has no weights yet: its first round starts from what the clients send.
        personal : mapping of str to array, optional
            The excluded tensors; by default those of the last `upload`, or else those of the model.

        Raises
        ------
        NotThere
            If the model has no weights yet, and there are no initial ones.
        BadDownload
            If the object is not what it should be.
        """
        try:
            base = self.latest()
        except NotThere:
            if initial is None:
                raise
            self.base, self._layout, self._frozen = None, None, FrozenTensors()
            return as_arrays(initial)
        weights, layout = decode_with_layout(self._storage.get(base.key, etag=base.etag), base.key)
        self.base, self._layout, self._frozen = base, layout, FrozenTensors(base, weights)
        if personal is not None:
            self.personal = personal_arrays(base.policies, as_arrays(personal))
        names = personal_names(base.policies, layout)
        kept = {name: self.personal[name].copy() for name in names if name in self.personal}
        return weights | kept

    def fetch_file(self, path: str | Path, *, personal: str | Path | None = None) -> Path:
        """Write the weights to train from to a file; a path without a suffix gets that of their format.

        For models that do not fit in memory twice. The file appears when it is complete. The tensors that
        the model excludes are those of ``personal``, a file of the client's own weights, if it is given.

        Raises
        ------
        BadArgument
            If the path has the suffix of another format.
        """
        base = self.latest()
        target = checked_target(path, base.key)
        self._storage.download(base.key, target, etag=base.etag)
        if personal is not None:
            put_back(target, Path(personal), base.policies)
        self.base, self._layout, self._frozen = base, layout_of_file(target), FrozenTensors()
        return target

    def upload(
        self,
        weights: Weights,
        *,
        num_examples: SupportsIndex,
        num_steps: SupportsIndex | None = None,
        are_differences: bool = False,
        compression: str | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Send an update that was trained from what was fetched last.

        Parameters
        ----------
        weights : mapping of str to array
            The trained weights, with the names, shapes and dtypes of those that were fetched; tensors of
            PyTorch and JAX are converted. For a model of differences, the difference is computed here.
        num_examples : int
            How much the update counts in a weighted mean: the examples it was trained on.
        num_steps : int, optional
            The steps of local training, for a model whose rule divides by them (`normalized_mean`).
        are_differences : bool
            Whether the tensors are differences already.
        compression : {'int8', 'topk'}, optional
            Send differences rounded to 8 bits, a quarter of the bytes, or the largest hundredth of each
            tensor. What is left out is kept in `residual` and added to the next compressed update.
        progress : callable, optional
            Called with the number of bytes sent and of all bytes.

        Returns
        -------
        str
            The object's key.

        Raises
        ------
        BadWeights
            If the aggregator would reject it; nothing was sent.
        UploadRefused, AccessDenied, StorageUnreachable
        """
        stated = stated_counts(num_examples, num_steps)
        arrays = as_arrays(weights)
        self._frozen.check(arrays, are_differences=are_differences)
        update = self._update(
            encode(arrays), f"update.{FORMAT}", are_differences, compression, stated
        )
        key, policies = self._send(update, stated, progress)
        if policies.needs_parent:
            self.personal = personal_arrays(policies, arrays)
        return key

    def upload_file(
        self,
        path: str | Path,
        *,
        num_examples: SupportsIndex,
        num_steps: SupportsIndex | None = None,
        are_differences: bool = False,
        compression: str | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Send the weights in a safetensors, npz or JSON file.

        For a model of weights the file is sent as it is, without the tensors that the model excludes.
        Parameters and errors are those of `upload`.
        """
        stated = stated_counts(num_examples, num_steps)
        with open_file(path) as file:
            update = self._update(file, Path(path).name, are_differences, compression, stated)
            return self._send(update, stated, progress)[0]

    def wait(
        self,
        *,
        timeout: float = limits.WAIT_SECONDS,
        poll: float = limits.POLL_SECONDS,
        on_progress: Callable[[str], None] | None = None,
    ) -> Latest:
        """Wait for an aggregate newer than the one that was fetched.

        Parameters
        ----------
        timeout, poll : float
            Seconds to wait in all, and between two looks.
        on_progress : callable, optional
            Called with a sentence, such as "3 of 5 updates are ready", whenever it changes. The same
            sentences are logged.

        Raises
        ------
        UpdateRejected
            As soon as the update that was sent is rejected, with the reason.
        RoundOverdue
            If no aggregate came within `timeout` seconds: others may be missing, or the model is paused.
            Storage that denied access or did not answer is mentioned: before the first round that is no
            error, since S3 denies what is not there to clients that may not list the bucket.
        CredentialsInvalid
            If the credentials expired or are wrong: waiting does not help.
        """
        return wait_for_aggregate(
            partial(
                storage_state,
                partial(self.status, attempts=1),
                partial(self.latest, attempts=1),
                self._sent_key,
            ),
            after=self.base.number if self.base else 0,
            timeout=timeout,
            poll=poll,
            on_progress=on_progress,
        )

    def status(self, *, attempts: int = limits.ATTEMPTS) -> Status | None:
        """Return what the aggregator says of this client's updates; None if it says nothing.

        Raises
        ------
        StorageUnreachable, CredentialsInvalid
        """
        key = status_key(self._model_id, self._client_id)
        body = visible(partial(self._storage.get, key, attempts=attempts))
        return None if body is None else parse_status(body)

    def report_score(
        self, *, num_examples: SupportsIndex, aggregate: Latest | None = None, **results: Any
    ) -> str:
        """Report what was measured of an aggregate on this client's own examples.

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
            If it is not an aggregate: the initial model gets no score.
        BadScore
            If the aggregator would reject it; nothing was sent.
        """
        scored = aggregate or self.base
        if scored is None or scored.aggregate_id is None:
            raise ClientError("only an aggregate is scored: fetch one after the first round")
        body = encode_score({"num_examples": checked_count(num_examples), **results})
        key = f"scores/{self._model_id}/{self._client_id}/{scored.aggregate_id}.json"
        return self._storage.put(key, io.BytesIO(body), {}, None)

    def _update(
        self,
        body: BinaryIO,
        name: str,
        are_differences: bool,
        compression: str | None,
        stated: dict[str, int],
    ) -> Update:
        if compression and self._identity:
            raise BadArgument("a masked update cannot be compressed: its elements look random")
        return Update(
            body=body,
            name=name,
            are_differences=are_differences,
            compression=checked_compression(compression),
            residual=self.residual,
            masking=self._masking(stated["num-examples"]),
        )

    def _masking(self, num_examples: int) -> Masking | None:
        if self._identity is None:
            return None
        return Masking(
            identity=self._identity,
            model_id=self._model_id,
            client_id=self._client_id,
            base_id=(self.base.aggregate_id or 0) if self.base else 0,
            num_examples=num_examples,
        )

    def _send(
        self, update: Update, stated: dict[str, int], progress: Progress | None
    ) -> tuple[str, TensorPolicies]:
        """Send an update; return its key and the policies of the model's tensors."""
        lookup = partial(visible_pointer, self._storage, self._model_id)
        with prepare(self._storage, lookup, self.base, self._layout, update) as ready:
            warn_if_capped(ready, stated["num-examples"])
            metadata = metadata_of(ready, self.base, stated)
            key = f"updates/{self._model_id}/{self._client_id}/{new_name(ready, self.base)}"
            self._sent_key = self._storage.put(key, ready.body, metadata, progress)
        self.residual = ready.residual
        return self._sent_key, ready.policies
