"""Enrollment: a client exchanges a one-time token for a secret of its own."""

from __future__ import annotations

import hashlib
import secrets

from .api import request_json
from .errors import BadArgument
from .https import check_url
from .profiles import Profile, load_profile, profile_path, save_profile


def enroll(url: str, token: str, *, name: str, profile: str) -> Profile:
    """Enroll at an API, and return the profile with the client's id, which is saved.

    The secret is saved before it is used, so that an interrupted call can be repeated, and a call with a
    wrong URL can be followed by one with the right URL.

    Parameters
    ----------
    url, token : str
        From the operator.
    name : str
        Shown to the operator; may be empty.
    profile : str

    Raises
    ------
    BadArgument
        If the URL is not one, or the profile belongs to another client already.
    AccessDenied
        If the token is unknown, used or expired.
    """
    check_url(url)
    secret = _secret_for(url, profile)
    body = {
        "token": token,
        "name": name,
        "secret_hash": hashlib.sha256(secret.encode()).hexdigest(),
    }
    found = request_json(f"{url.rstrip('/')}/v1/enroll", "POST", body)
    models = tuple(int(each) for each in found["models"])
    enrolled = Profile(url=url, client=found["client"], secret=secret, models=models)
    save_profile(profile, enrolled)
    return enrolled


def _secret_for(url: str, profile: str) -> str:
    """Return the secret of an interrupted call for the same URL, or else a new one, which is saved.

    A secret that another server may have registered is never shown to this one.
    """
    saved = load_profile(profile) if profile_path(profile).exists() else None
    if saved and saved.client:
        raise BadArgument(
            f"the profile {profile!r} is in use, for {saved.url}: choose another profile"
        )
    if saved is None or saved.url.rstrip("/") != url.rstrip("/"):
        saved = Profile(url=url, client="", secret=secrets.token_urlsafe(32))
        save_profile(profile, saved)
    return saved.secret
