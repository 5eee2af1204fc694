"""Environment variables: their types, and the error for wrong ones."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from connectors.environment import Environment


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("True", True), ("1", True), ("YES", True), ("off", False), ("0", False)],
)
def test_a_flag_accepts_several_spellings(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: bool
) -> None:
    """A flag accepts yes, on, true, 1 and their opposites in upper and lower case."""
    monkeypatch.setenv("DEBUG", text)
    assert Environment().flag("DEBUG", not expected) is expected


@pytest.mark.parametrize(
    ("text", "expected"), [("", []), ("a", ["a"]), ("a,b", ["a", "b"]), (" a , b ", ["a", "b"])]
)
def test_names_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: list[str]
) -> None:
    """Spaces around a name are ignored, and an empty text contains no name."""
    monkeypatch.setenv("ALLOWED_HOSTS", text)
    assert Environment().names("ALLOWED_HOSTS", ["localhost"]) == expected


def test_a_variable_that_is_not_set_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default is returned unchanged, even if the limits forbid it as a value of the variable."""
    for name in ("READ_THREADS", "BUCKET", "ADMIN", "ALLOWED_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    env = Environment()
    assert env.integer("READ_THREADS", 0, min=1) == 0
    assert env.text("BUCKET", "") == ""
    assert env.flag("ADMIN", False) is False
    assert env.names("ALLOWED_HOSTS", ["localhost"]) == ["localhost"]
    env.seal()


def test_the_error_names_each_wrong_variable_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error omits values, since a value may be a secret in the wrong variable."""
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
