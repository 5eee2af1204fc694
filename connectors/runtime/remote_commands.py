"""Run operators' commands in the function that migrates the database, inside the network."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from django.core.management import CommandError, call_command, get_commands, load_command_class

from aggregation.errors import quoted

#: The app whose commands may be run; Django's own can do anything.
APP = "connectors"

#: Commands that the aggregating function runs itself, with the events that invoke it.
AGGREGATOR_EVENTS: dict[str, dict[str, Any]] = {
    "run_round": {"detail-type": "Scheduled Event", "detail": {"model_id": 3}},
    "sweep": {"detail-type": "Scheduled Event", "detail": {}},
}

#: Commands that are not deployed.
LOCAL = {"estimate_cost"}


def handle_remote_command(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response of the function that migrates the database and runs commands.

    Raises
    ------
    Exception
        If a migration fails, so that the deployment fails too.
    ValueError, CommandError
        As by `run_remote_command`.
    """
    if "command" in event:
        return {**run_remote_command(event["command"], event.get("arguments", []))}
    call_command("migrate", interactive=False, verbosity=0)
    return {"migrated": True}


def run_remote_command(command: Any, arguments: Any) -> dict[str, str]:
    """Run a command of the project.

    Parameters
    ----------
    command : str
    arguments : list of str
        As on the command line; numbers may be given as such.

    Returns
    -------
    dict
        ``output``, and ``notes`` if the command wrote to its standard error.

    Raises
    ------
    ValueError
        If the command does not exist or may not be run here, or the arguments are not a list.
    CommandError
        If the command fails. The message has its output and the reason.
    """
    _check_command(command, arguments)
    if {"-h", "--help"} & set(map(str, arguments)):
        return {"output": _help_text(command)}
    output, notes = io.StringIO(), io.StringIO()
    try:
        with suppress(SystemExit):  # after an option of Django's that only prints
            call_command(command, *arguments, stdout=output, stderr=notes, no_color=True)
    except CommandError as error:
        raise CommandError(f"{output.getvalue()}{notes.getvalue()}{error}") from error
    answer = {"output": output.getvalue()}
    return answer | ({"notes": notes.getvalue()} if notes.getvalue() else {})


def _help_text(command: str) -> str:
    """Return the help text, which argparse would print to the function's log before it exits."""
    return load_command_class(APP, command).create_parser("manage.py", command).format_help()


def remote_commands() -> list[str]:
    """Return the names of the commands that may be run."""
    own = {name for name, app in get_commands().items() if app == APP}
    return sorted(own - AGGREGATOR_EVENTS.keys() - LOCAL)


def _check_command(command: Any, arguments: Any) -> None:
    if str(command) in AGGREGATOR_EVENTS:
        payload = json.dumps(AGGREGATOR_EVENTS[command])
        raise ValueError(f"{command} is the aggregating function's: invoke that one with {payload}")
    if command not in remote_commands():
        raise ValueError(f"no command {quoted(command)}; there are {', '.join(remote_commands())}")
    if not isinstance(arguments, Sequence) or isinstance(arguments, str):
        raise ValueError(f'arguments are a list, such as ["3"]; got {quoted(arguments)}')
