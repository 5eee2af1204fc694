"""What one command leaves for the next: the base that was pulled, the update that was sent, the residual.

A session is a file beside the profile, one for each model. The residual is a file of its own that the
session names, so that a command that is killed leaves both as they were before, or both as they are after.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .client import Client
from .errors import BadArgument
from .pointer import Latest, parse_pointer
from .profiles import profile_path, write_private
from .weights import Arrays, decode, encode


def save_base(profile: str, model_id: int, base: Latest) -> None:
    """Save what was pulled. Nothing was sent from it yet; the residual stays."""
    path = _session_path(profile, model_id)
    kept = _read(path).get("residual", "")
    _write(path, {"base": asdict(base), "sent": "", "residual": kept})


def save_sent(profile: str, model_id: int, client: Client) -> None:
    """Save what was sent, and what its compression left out."""
    path = _session_path(profile, model_id)
    before = _read(path)
    base = asdict(client.base) if client.base else None
    residual = _save_residual(path, client.residual)
    _write(path, {"base": base, "sent": client.sent_key, "residual": residual})
    if before.get("residual"):
        path.with_name(before["residual"]).unlink(missing_ok=True)


def resume_session(profile: str, model_id: int, client: Client) -> bool:
    """Continue where the last command ended; return whether there was one.

    Raises
    ------
    BadArgument
        If its files are damaged.
    """
    path = _session_path(profile, model_id)
    found = _read(path)
    if not found or found.get("base", {}) is None:
        return False
    try:
        base = parse_pointer(json.dumps(found["base"]).encode(), "the saved base")
        client.resume(base, found["sent"], _load_residual(path, found["residual"]))
    except (OSError, KeyError, TypeError) as error:
        raise BadArgument(
            f"{path} cannot be used: {error!r}. Remove it, then pull again"
        ) from error
    return True


def load_residual(profile: str, model_id: int) -> Arrays:
    """Return what the compression of the last update left out; nothing if there was none."""
    path = _session_path(profile, model_id)
    return _load_residual(path, _read(path).get("residual", ""))


def _session_path(profile: str, model_id: int) -> Path:
    return profile_path(profile).with_suffix(f".model-{model_id}")


def _write(path: Path, session: dict[str, Any]) -> None:
    write_private(path, json.dumps(session, indent=1).encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadArgument(f"{path} cannot be read: {error}. Remove it, then pull again") from error
    return found


def _save_residual(session: Path, residual: Arrays) -> str:
    """Write the residual to a new file, and return its name; empty if there is none."""
    if not residual:
        return ""
    path = session.with_name(f"{session.name}.{secrets.token_hex(4)}.safetensors")
    write_private(path, encode(residual).getbuffer())
    return path.name


def _load_residual(session: Path, name: str) -> Arrays:
    return decode(session.with_name(name).read_bytes(), name) if name else {}
