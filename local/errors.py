"""What can go wrong in the embedded cloud, each told in a plain sentence."""

from __future__ import annotations


class LocalError(Exception):
    """Base of the errors that `python -m local` shows without a traceback."""


class FunctionError(LocalError):
    """The function raised, timed out or died.

    Parameters
    ----------
    error_type : str
        As Lambda names it, such as ``ValueError`` or ``Runtime.ExitError``.
    message : str
    trace : str
        The function's own traceback; empty if it left none.
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
    """The clients uploaded, and no aggregate came."""


class FolderUnusable(LocalError):
    """What a run leaves cannot be written."""
