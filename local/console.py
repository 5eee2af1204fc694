"""``python -m local.console STACK``: run the console on this machine against a deployed stack.

The database is in a private network. A stack of its own, which is deleted at the end, has an instance to
which AWS Systems Manager forwards connections from this machine: no port is open, and no log-in is public.
Everything else is what the functions use: the bucket, and IAM tokens for the database over verified TLS.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from local.interrupts import interrupts_postponed

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "infra" / "tunnel.yaml"

#: Where the console and the database are reached on this machine.
ADDRESS, HERE = "127.0.0.1:8000", "127.0.0.1"

#: Variables of the functions that are not for this machine.
FUNCTIONS_ONLY = ("STATE_MACHINE_ARN", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE")

#: How long a session may take to begin, in seconds.
SESSION_SECONDS = 60.0


class ConsoleError(Exception):
    """The console cannot be run; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is reached of a stack.

    Parameters
    ----------
    variables, owner_variables : mapping
        The environment of the aggregating function, and of the one that owns the tables.
    subnet, security_group : str
        Of the functions.
    """

    variables: Mapping[str, str]
    owner_variables: Mapping[str, str]
    subnet: str
    security_group: str

    @property
    def database(self) -> tuple[str, int]:
        """Host and port of the database."""
        url = urlsplit(self.variables["DATABASE_URL"])
        return url.hostname or "", url.port or 5432


def find(stack: str) -> Target:
    """Return what a deployed stack consists of.

    Raises
    ------
    ConsoleError
        If the stack lacks an output of this application.
    """
    described = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    outputs = {each["OutputKey"]: each["OutputValue"] for each in described.get("Outputs", ())}
    missing = {"FunctionAlias", "OperatorFunction"} - outputs.keys()
    if missing:
        raise ConsoleError(f"the stack {stack} has no output {' and '.join(sorted(missing))}")
    functions = boto3.client("lambda")
    function, owner = (
        functions.get_function_configuration(FunctionName=outputs[name])
        for name in ("FunctionAlias", "OperatorFunction")
    )
    network = function["VpcConfig"]
    return Target(
        variables=function["Environment"]["Variables"],
        owner_variables=owner["Environment"]["Variables"],
        subnet=network["SubnetIds"][0],
        security_group=network["SecurityGroupIds"][0],
    )


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of manage.py on this machine: that of a function, with the console.

    The database's name stays in the URL, because its certificate and the token are for that name;
    ``hostaddr`` is where the connection goes.
    """
    kept = {name: value for name, value in variables.items() if name not in FUNCTIONS_ONLY}
    url = kept["DATABASE_URL"]
    return {
        **os.environ,
        **kept,
        "DATABASE_URL": f"{url}{'&' if '?' in url else '?'}hostaddr={HERE}",
        "ADMIN": "true",
        "SECRET_KEY": secrets.token_urlsafe(64),  # Sessions end with the process.
    }


@contextmanager
def tunnel_stack(stack: str, target: Target, *, endpoints: str, keep: bool) -> Iterator[str]:
    """Create the tunnel's stack unless it exists, give the id of its instance, and delete it at the end."""
    cloudformation, name = boto3.client("cloudformation"), f"{stack}-tunnel"
    try:
        try:
            cloudformation.describe_stacks(StackName=name)
        except cloudformation.exceptions.ClientError:
            print(f"creating the stack {name}, which takes some minutes", flush=True)
            cloudformation.create_stack(
                StackName=name,
                TemplateBody=TEMPLATE.read_text(),
                Capabilities=["CAPABILITY_IAM"],
                Parameters=_parameters(target, endpoints),
            )
        cloudformation.get_waiter("stack_create_complete").wait(StackName=name)
        described = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        yield described["Outputs"][0]["OutputValue"]
    finally:
        with interrupts_postponed():
            if keep:
                print(f"the stack {name} is kept, and costs some cents an hour", flush=True)
            else:
                cloudformation.delete_stack(StackName=name)
                print(f"the stack {name} is being deleted", flush=True)


def _parameters(target: Target, endpoints: str) -> list[Any]:
    subnet = boto3.client("ec2").describe_subnets(SubnetIds=[target.subnet])["Subnets"][0]
    values = {
        "VpcId": subnet["VpcId"],
        "SubnetId": target.subnet,
        "FunctionSecurityGroup": target.security_group,
        "Endpoints": endpoints,
    }
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]


def session_command(instance: str, target: Target) -> list[str]:
    """Return the command that forwards a port of this machine to the database.

    The port is the database's own: a token is for a host and a port.
    """
    host, port = target.database
    parameters = f"host={host},portNumber={port},localPortNumber={port}"
    document = "AWS-StartPortForwardingSessionToRemoteHost"
    return [
        *("aws", "ssm", "start-session", "--target", instance),
        *("--document-name", document, "--parameters", parameters),
    ]


@contextmanager
def forwarded(command: Sequence[str], port: int) -> Iterator[None]:
    """Run a command that forwards a port, and wait until the port is open.

    Raises
    ------
    ConsoleError
        If the port is in use already, or does not open.
    """
    if _is_open(port):
        raise ConsoleError(f"port {port} of this machine is in use: stop what listens on it")
    deadline = time.monotonic() + SESSION_SECONDS
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as session:
        try:
            while not _is_open(port):
                if session.poll() is not None or time.monotonic() > deadline:
                    raise ConsoleError(f"the session did not open port {port}: see above")
                time.sleep(0.2)
            yield
        finally:
            session.terminate()


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HERE, port)) == 0


def run(target: Target, arguments: Sequence[str]) -> int:
    """Run manage.py against a stack that is reached on this machine; by default, serve the console.

    Raises
    ------
    ConsoleError
        If the deployed version has other tables than this one.
    """
    manage = [sys.executable, "manage.py"]
    own, owner = environment(target.variables), environment(target.owner_variables)
    check = [*manage, "migrate", "models_app", "--check"]
    if subprocess.run(check, cwd=ROOT, env=own, stdout=subprocess.DEVNULL, check=False).returncode:
        raise ConsoleError(
            "the deployed version has other tables: check out the version that is deployed"
        )
    for app in ("sessions", "admin"):  # The functions have no console, and need no tables of it.
        migrate = [*manage, "migrate", app, "--verbosity", "0"]
        subprocess.run(migrate, cwd=ROOT, env=owner, check=True)
    served = arguments or ["runserver", "--noreload", "--insecure", ADDRESS]
    return subprocess.run([*manage, *served], cwd=ROOT, env=own, check=False).returncode


def main() -> int:
    """Open the tunnel, run the console until it is interrupted, and close the tunnel."""
    parser = argparse.ArgumentParser(prog="python -m local.console", description=__doc__)
    parser.add_argument("stack", help="the name of the application's stack")
    parser.add_argument("arguments", nargs="*", help="of manage.py, such as createsuperuser")
    parser.add_argument(
        "--keep", action="store_true", help="leave the tunnel's stack for next time"
    )
    parser.add_argument(
        "--endpoints",
        choices=("on", "off"),
        default="on",
        help="off if the network reaches AWS Systems Manager already",
    )
    options = parser.parse_args()
    try:
        for program in ("aws", "session-manager-plugin"):
            if shutil.which(program) is None:
                raise ConsoleError(f"{program} is not installed")
        target = find(options.stack)
        with (
            tunnel_stack(
                options.stack, target, endpoints=options.endpoints, keep=options.keep
            ) as instance,
            forwarded(session_command(instance, target), target.database[1]),
        ):
            print(f"http://{ADDRESS}/ - Ctrl-C ends it", flush=True)
            return run(target, options.arguments)
    except (ConsoleError, BotoCoreError, ClientError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
