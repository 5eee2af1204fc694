"""Where a client keeps its secret: one file for each profile, readable by its user only."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import BadArgument

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a client needs to take part through the API.

    Parameters
    ----------
    url : str
        Of the API.
    client : str
        Its id.
    secret : str
    models : tuple of int
        Ids of the models it was invited to.
    """

    url: str
    client: str
    secret: str
    models: tuple[int, ...] = ()


def profile_path(name: str) -> Path:
    """Return the file of a profile, below ``FEDERATED_CLIENT_HOME`` or the user's configuration.

    Raises
    ------
    BadArgument
        If it is not a name.
    """
    if not _NAME.fullmatch(name):
        raise BadArgument(
            f"the profile {name!r} is not a name of letters, digits, dots and hyphens"
        )
    home = os.environ.get("FEDERATED_CLIENT_HOME")
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home or Path(config) / "federated-client") / f"{name}.json"


def load_profile(name: str) -> Profile:
    """Return a profile.

    Raises
    ------
    BadArgument
        If there is none, or its file is damaged.
    """
    path = profile_path(name)
    try:
        found = json.loads(path.read_text())
        return Profile(**{**found, "models": tuple(found["models"])})
    except FileNotFoundError as error:
        raise BadArgument(
            f"there is no profile {name!r} ({path}): enroll with the token that the operator gave you"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadArgument(f"the profile {path} cannot be read: {error}") from error


def save_profile(name: str, profile: Profile) -> Path:
    """Write a profile, complete or not at all, and return its file."""
    path = profile_path(name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(profile), file, indent=1)
    os.replace(partial, path)
    return path


def save_progress(name: str, model_id: int, progress: Mapping[str, Any]) -> None:
    """Save what a command did for the next command of the same profile and model."""
    path = _progress_path(name, model_id)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    partial.write_text(json.dumps(progress, indent=1))
    os.replace(partial, path)


def load_progress(name: str, model_id: int) -> dict[str, Any]:
    """Return what an earlier command saved; nothing if there was none."""
    try:
        found: dict[str, Any] = json.loads(_progress_path(name, model_id).read_text())
    except FileNotFoundError:
        return {}
    return found


def _progress_path(name: str, model_id: int) -> Path:
    return profile_path(name).with_suffix(f".model-{model_id}")
