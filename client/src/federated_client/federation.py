"""A client's part in a federation through the API: a URL, a token, and a training loop of ten lines."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

from . import limits
from .api import Api
from .client import Client
from .enrollment import enroll
from .errors import BadArgument
from .frameworks import arrays_of, load_into
from .pointer import Latest
from .private import Identity, load_identity
from .profiles import Profile, load_profile
from .progress import progress_bar
from .readiness import ModelProgress, read_progress
from .sessions import load_residual, save_sent
from .status import UpdateStatus
from .storage import Storage
from .weights import Arrays


@dataclass(frozen=True)
class Round:
    """A round that a client takes part in.

    Parameters
    ----------
    number : int
        Of the aggregate to train from; 0 for the initial model.
    weights : dict of str to array
    is_frozen : callable
        Given a tensor's name, returns whether an update must leave it as it is: do not train it.
    """

    number: int
    weights: Arrays
    is_frozen: Callable[[str], bool]

    def load_into(self, model: Any) -> Any:
        """Put the weights into a model of a framework, and return the model."""
        return load_into(model, self.weights)


class Federation:
    """A federated model, and this client's part in its training.

    Parameters
    ----------
    url : str, optional
        Of the API; by default the profile's.
    profile : str
        The name under which `enroll` saved the client's secret.
    model_id : int, optional
        By default the only model that the client was invited to.
    private : bool
        Whether updates are masked, so that only the sum of all updates can be seen. The keys are made
        when they are needed first, and kept beside the profile.
    storage : Storage, optional
        A `Bucket` (IAM credentials) or `Posts` (presigned posts), in place of the API and its profile.
    client_id : str or uuid.UUID, optional
        From the operator, with ``storage``.

    Attributes
    ----------
    model_id : int
    client : Client
        What the methods of this class use.

    Raises
    ------
    BadArgument
        If there is no such profile, or the client was invited to several models and none is given.
    """

    def __init__(
        self,
        url: str | None = None,
        profile: str = "default",
        *,
        model_id: int | None = None,
        private: bool = False,
        storage: Storage | None = None,
        client_id: str | uuid.UUID | None = None,
    ) -> None:
        has_storage = storage is not None
        if storage is None:
            saved = load_profile(profile)
            if not saved.client:
                raise BadArgument(
                    f"the profile {profile!r} has not been enrolled yet: enroll again, with the URL "
                    "and the token"
                )
            storage = Api(url or saved.url, saved.client, saved.secret)
            model_id = model_id or _only_model(saved)
            client_id = saved.client
        elif model_id is None or client_id is None:
            raise BadArgument("with a storage, give the model_id and the client_id")
        self.model_id = model_id
        self._storage = storage
        #: Where the residual of compressed updates is kept, for the next process.
        self._profile = "" if has_storage else profile
        self._identity = load_identity(profile) if private else None
        self.client = Client(
            storage, model_id=model_id, client_id=client_id, identity=self._identity
        )

    @classmethod
    def enroll(
        cls, url: str, token: str, *, name: str = "", profile: str = "default"
    ) -> Federation:
        """Enroll with a one-time token from the operator, and save the secret in a profile.

        The parameters and errors are those of `federated_client.enrollment.enroll`.
        """
        models = enroll(url, token, name=name, profile=profile).models
        return cls(profile=profile, model_id=models[0] if len(models) > 1 else None)

    @property
    def public_key(self) -> str:
        """The public key of a private client, which the operator of the mask keeper registers.

        Raises
        ------
        BadArgument
            If the client is not private.
        """
        return self._private_identity().public_key

    def trust_keeper(self, key: str) -> None:
        """Keep the public key of the model's mask keeper, as its operator gave it.

        Without this, the first key that the model names is kept.
        """
        self._private_identity().trust(self.model_id, key)

    def _private_identity(self) -> Identity:
        if self._identity is None:
            raise BadArgument("the client is not private: use Federation(..., private=True)")
        return self._identity

    def latest(self) -> Latest:
        """Return which weights to train from, and the model's settings."""
        return self.client.latest()

    def fetch(self, *, initial: Any = None) -> Round:
        """Return the weights to train from.

        Parameters
        ----------
        initial : optional
            A model whose weights are returned if the federation has none yet.
        """
        weights = self.client.fetch(initial=None if initial is None else arrays_of(initial))
        base = self.client.base
        is_frozen = base.is_frozen if base else lambda name: False
        return Round(self._number(), weights, is_frozen)

    def fetch_file(self, path: str | Path) -> Path:
        """Write the weights to train from to a file; a path without a suffix gets that of their format."""
        return self.client.fetch_file(path)

    def submit(
        self,
        model: Any,
        *,
        num_examples: SupportsIndex,
        num_steps: SupportsIndex | None = None,
        are_differences: bool = False,
        compression: str | None = None,
    ) -> str:
        """Send what was trained: a model of a framework, its arrays, or a file.

        Parameters
        ----------
        model
            A module or ``state_dict`` of PyTorch, a model of PEFT (of which the active adapter is sent), a
            pytree of JAX, a fitted estimator of scikit-learn, a mapping of names to arrays, or the path
            of a safetensors, npz or JSON file.
        num_examples, num_steps, are_differences, compression
            As for `Client.upload`. What compression leaves out is kept beside the profile.

        Returns
        -------
        str
            The object's key.
        """
        options: dict[str, Any] = {
            "num_examples": num_examples,
            "num_steps": num_steps,
            "are_differences": are_differences,
            "compression": compression,
        }
        if compression and self._profile and not self.client.residual:
            self.client.residual = load_residual(self._profile, self.model_id)
        with progress_bar("upload") as progress:
            if isinstance(model, str | Path):
                key = self.client.upload_file(model, progress=progress, **options)
            else:
                key = self.client.upload(arrays_of(model), progress=progress, **options)
        if compression and self._profile:
            save_sent(self._profile, self.model_id, self.client)
        return key

    def wait(
        self,
        *,
        timeout: float = limits.WAIT_SECONDS,
        poll: float = limits.POLL_SECONDS,
        on_progress: Callable[[str], None] | None = None,
    ) -> Latest:
        """Wait for the next aggregate; raise `UpdateRejected` as soon as the update is rejected."""
        return self.client.wait(timeout=timeout, poll=poll, on_progress=on_progress)

    def update(self, key: str = "") -> UpdateStatus | None:
        """Return what became of an update, by default of the one that was sent last; None if unknown.

        Parameters
        ----------
        key : str
            That `submit` returned.
        """
        key = key or self.client.sent_key
        if isinstance(self._storage, Api):
            return self._storage.update(key)
        status = self.client.status()
        return status.of(key) if status else None

    def progress(self) -> ModelProgress | None:
        """Return how many updates are ready for the next round, and its deadline; None if unknown."""
        return read_progress(self._storage, self.model_id)

    def score(self, *, num_examples: SupportsIndex, **results: Any) -> str:
        """Report what was measured of the aggregate that was fetched last."""
        return self.client.report_score(num_examples=num_examples, **results)

    def rounds(
        self,
        count: int | None = None,
        *,
        initial: Any = None,
        timeout: float = limits.WAIT_SECONDS,
        poll: float = limits.POLL_SECONDS,
    ) -> Iterator[Round]:
        """Yield the weights of each round to train from, and wait for the next aggregate in between.

        Parameters
        ----------
        count : int, optional
            Rounds to take part in; by default, as many as there are.
        initial : optional
            As for `fetch`.
        timeout, poll : float
            Of each wait.
        """
        done = 0
        while count is None or done < count:
            current = self.fetch(initial=initial)
            yield current
            done += 1
            if (
                done != count and self._number() <= current.number
            ):  # The loop has fetched no newer one.
                self.wait(timeout=timeout, poll=poll)

    def _number(self) -> int:
        return self.client.base.number if self.client.base else 0


def _only_model(profile: Profile) -> int:
    if len(profile.models) != 1:
        raise BadArgument(f"give the model_id: one of {list(profile.models)}")
    return profile.models[0]
