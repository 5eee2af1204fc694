"""Where a client keeps its secret: one file for each profile, readable by its user only."""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

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
    write_private(path, json.dumps(asdict(profile), indent=1).encode())
    return path


def write_private(path: Path, content: bytes | memoryview) -> None:
    """Write a file that only its user can read, complete or not at all."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.replace(partial, path)
