"""The errors of the embedded cloud."""

from __future__ import annotations


class LocalError(Exception):
    """Base of the errors whose message `python -m local` prints without a traceback."""


class FunctionError(LocalError):
    """The function raised, timed out or died.

    Parameters
    ----------
    error_type : str
        Lambda's name for it, such as ``ValueError`` or ``Runtime.ExitError``.
    message : str
    trace : str
        The function's own traceback; empty if there is none.
    """

    def __init__(self, error_type: str, message: str, trace: str = "") -> None:
        super().__init__(
            f"the function failed: {error_type}: {message}" + (f"\n{trace}" if trace else "")
        )
        self.error_type = error_type
        self.message = message
        self.trace = trace


class RuntimeUnavailable(LocalError):
    """The Lambda runtime could not be started."""


class PostgresUnavailable(LocalError):
    """The embedded PostgreSQL could not be started."""


class RoundOverdue(LocalError):
    """The clients have uploaded their updates, but no aggregate was published in time."""


class FolderUnusable(LocalError):
    """The folder for the results of a run cannot be created or written."""
