"""The commands of the mask keeper's operator: ``python -m mask_keeper --table TABLE ...``.

They use the operator's own AWS credentials in the mask keeper's account.
"""

from __future__ import annotations

import argparse
import re
import sys
import uuid
from collections.abc import Sequence
from typing import Any

import boto3

from mask_keeper.handler import key_of
from mask_keeper.table import KeeperTable

_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    arguments = _parser().parse_args(argv)
    table = KeeperTable(_client("dynamodb"), arguments.table)
    match arguments.command:
        case "public-key":
            secret = _client("secretsmanager").get_secret_value(SecretId=arguments.secret)
            print(key_of(secret["SecretString"]).public_key().public_bytes_raw().hex())
        case "register":
            table.register(str(arguments.client), bytes.fromhex(arguments.public_key))
            print(f"registered {arguments.client}")
        case "revoke":
            if not table.revoke(str(arguments.client)):
                print(f"client {arguments.client} is not registered", file=sys.stderr)
                return 1
            print(f"revoked {arguments.client}: sums with its updates are refused from now on")
        case "clients":
            for client, public_key in sorted(table.clients()):
                print(client, public_key)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mask_keeper", description=__doc__)
    parser.add_argument("--table", required=True, help="output Table of the stack")
    commands = parser.add_subparsers(dest="command", required=True)
    public_key = commands.add_parser("public-key", help="print the key that clients seal seeds for")
    public_key.add_argument("--secret", required=True, help="output KeySecret of the stack")
    register = commands.add_parser("register", help="register the public key of a client")
    register.add_argument("client", type=uuid.UUID)
    register.add_argument("public_key", type=_public_key, help="as the client's library shows it")
    revoke = commands.add_parser("revoke", help="remove the public key of a client")
    revoke.add_argument("client", type=uuid.UUID)
    commands.add_parser("clients", help="list the registered clients")
    return parser


def _public_key(text: str) -> str:
    if not _PUBLIC_KEY.fullmatch(text):
        raise argparse.ArgumentTypeError("expected 64 hexadecimal digits")
    return text


def _client(service: str) -> Any:
    create: Any = boto3.client
    return create(service)


if __name__ == "__main__":
    sys.exit(main())
