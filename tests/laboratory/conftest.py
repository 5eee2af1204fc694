"""Commands, for the way from the laboratory to the cloud."""

from tests.commands.conftest import run_command

__all__ = ["run_command"]
