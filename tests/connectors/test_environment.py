"""Variables of the environment: their types, and what is told of those that are wrong."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from connectors.environment import Environment


@pytest.mark.parametrize(
    ("told", "meant"),
    [("true", True), ("True", True), ("1", True), ("YES", True), ("off", False), ("0", False)],
)
def test_a_flag_may_be_called_as_people_call_it(
    monkeypatch: pytest.MonkeyPatch, told: str, meant: bool
) -> None:
    """Yes, on, true and 1 are one thing, in any case; and so are their contraries."""
    monkeypatch.setenv("DEBUG", told)
    assert Environment().flag("DEBUG", not meant) is meant


@pytest.mark.parametrize(
    ("told", "meant"), [("", []), ("a", ["a"]), ("a,b", ["a", "b"]), (" a , b ", ["a", "b"])]
)
def test_names_have_commas_between(
    monkeypatch: pytest.MonkeyPatch, told: str, meant: list[str]
) -> None:
    """Spaces around a name are not of it, and an empty text has no name."""
    monkeypatch.setenv("ALLOWED_HOSTS", told)
    assert Environment().names("ALLOWED_HOSTS", ["localhost"]) == meant


def test_what_is_not_set_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default is given as it is, whatever would be said of it as a variable."""
    for name in ("READ_THREADS", "BUCKET", "ADMIN", "ALLOWED_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    env = Environment()
    assert env.integer("READ_THREADS", 0, min=1) == 0
    assert env.text("BUCKET", "") == ""
    assert env.flag("ADMIN", False) is False
    assert env.names("ALLOWED_HOSTS", ["localhost"]) == ["localhost"]
    env.seal()


def test_each_variable_is_told_with_what_is_wrong_and_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A value may be a secret that was put into the wrong variable."""
    wrong = {
        "DATABASE_URL": "secret",
        "DEBUG": "secret",
        "READ_THREADS": "secret",
        "FEW": "3",
        "MANY": "300",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MISSING", raising=False)
    env = Environment()
    env.database_url("DATABASE_URL")
    env.flag("DEBUG", False)
    env.integer("READ_THREADS", 16)
    env.integer("FEW", 16, min=4)
    env.integer("MANY", 16, min=4, max=256)
    env.text("MISSING")
    with pytest.raises(ImproperlyConfigured) as refused:
        env.seal()
    assert str(refused.value) == (
        "environment variables missing or wrong: "
        "DATABASE_URL is not the URL of a database; "
        "DEBUG is neither true nor false; "
        "READ_THREADS is not an integer; "
        "FEW is less than 4; "
        "MANY is more than 256; "
        "MISSING is not set"
    )
