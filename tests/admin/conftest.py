"""The served admin with its own database, and its visitors over HTTP."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

PROJECT = Path(__file__).parents[2]
START_SECONDS = 30.0


class Visitor:
    """A visitor of the site, who does not follow redirects by default."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.trust_env = False

    def log_in(self, name: str, password: str) -> Visitor:
        self.get("/login/")
        answer = self.post("/login/", username=name, password=password)
        assert "sessionid" in self._session.cookies, answer.text
        return self

    def get(self, path: str) -> requests.Response:
        return self._session.get(self.url + path, timeout=30)

    def post(self, path: str, **form: str | list[str]) -> requests.Response:
        """Send a form, as a page of the site does."""
        token = self._session.cookies.get("csrftoken") or ""
        return self._session.post(
            self.url + path, data={**form, "csrfmiddlewaretoken": token}, timeout=30
        )


def messages(answer: requests.Response) -> list[str]:
    """Return the messages at the top of a page."""
    import html

    found = re.findall(r'<li class="(?:success|error|warning|info)">(.*?)</li>', answer.text, re.S)
    return [html.unescape(each) for each in found]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URLs of the served admin and of its database."""
    database = f"sqlite:///{tmp_path_factory.mktemp('admin') / 'admin.sqlite3'}"
    environment = {
        **os.environ,
        "DATABASE_URL": database,
        "ADMIN": "true",
        "SECRET_KEY": "abcde" * 10,
        "DEBUG": "true",  # Without HTTPS, which this server does not speak, cookies are not secure.
    }
    manage = [sys.executable, "manage.py"]
    subprocess.run([*manage, "migrate", "-v0"], cwd=PROJECT, env=environment, check=True)
    address = f"127.0.0.1:{_free_port()}"
    serve = [*manage, "runserver", "--noreload", "--insecure", address]
    with subprocess.Popen(
        serve, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            _await(f"http://{address}/login/", server)
            yield f"http://{address}", database
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise RuntimeError("the console does not start")


@pytest.fixture
def admin_database(site: tuple[str, str], cloud: Any) -> Iterator[None]:
    """This process uses the served admin's database; the bucket is empty."""
    from tests.conftest import using_database

    with using_database(site[1]):
        yield


@pytest.fixture
def visitor(site: tuple[str, str], admin_database: None) -> Callable[..., Visitor]:
    """Return a function that logs in a new user with permissions on models; staff by default."""
    from django.contrib.auth.models import Permission, User

    def log_in(name: str, *permissions: str, superuser: bool = False) -> Visitor:
        name = f"{name}-{time.monotonic_ns()}"
        make = User.objects.create_superuser if superuser else User.objects.create_user
        user = make(name, password="secret", is_staff=True)
        names = [f"{permission}_federatedmodel" for permission in permissions]
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        visitor = Visitor(site[0]).log_in(name, "secret")
        visitor.user = user  # type: ignore[attr-defined]
        return visitor

    return log_in
