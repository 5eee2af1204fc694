"""The findings of checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The finding of one check.

    Parameters
    ----------
    check : str
        Name of the check.
    status : Status
    message : str
    fix : str
        What to do; empty if nothing has to be done.
    """

    check: str
    status: Status
    message: str
    fix: str = ""


def ok(check: str, message: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(check=check, status=Status.OK, message=message)


def warning(check: str, message: str, fix: str) -> Finding:
    """Return a finding that somebody should look at."""
    return Finding(check=check, status=Status.WARNING, message=message, fix=fix)


def failed(check: str, message: str, fix: str) -> Finding:
    """Return a finding that keeps the federation from working."""
    return Finding(check=check, status=Status.FAILED, message=message, fix=fix)


def skipped(check: str, message: str) -> Finding:
    """Return the finding that there is nothing to check."""
    return Finding(check=check, status=Status.SKIPPED, message=message)
