"""``federated-client``: enroll, see the model, pull weights, push an update, watch what becomes of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ._core.formats import COMPRESSIONS
from .errors import ClientError
from .federation import Federation
from .private import load_identity
from .profiles import profile_path
from .progress import progress_bar
from .sessions import resume_session, save_base, save_sent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        found, sentence = options.run(options)
    except (ClientError, OSError) as error:
        kind = type(error).__name__
        if options.json:
            print(json.dumps({"error": kind, "detail": str(error)}, indent=1))
        print(f"{kind}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1) if options.json else sentence)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="federated-client", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def add(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help)
        command.set_defaults(run=run)
        command.add_argument("--profile", default="default", help="default: %(default)s")
        command.add_argument(
            "--model", type=int, help="by default the only one you were invited to"
        )
        command.add_argument("--json", action="store_true", help="for scripts")
        return command

    enroll = add("enroll", _enroll, "enroll with the token that the operator gave you")
    enroll.add_argument("url", nargs="?", default=os.environ.get("FEDERATION_URL"))
    enroll.add_argument(
        "--token",
        default=os.environ.get("FEDERATION_TOKEN"),
        help="by default FEDERATION_TOKEN: an argument can be seen by other users of the machine",
    )
    enroll.add_argument("--name", default="")
    add("status", _status, "show the model, and what became of your updates")
    pull = add("pull", _pull, "write the weights to train from to a file")
    pull.add_argument("file")
    push = add("push", _push, "send the weights in a file, trained from what was pulled")
    push.add_argument("file")
    push.add_argument("--num-examples", type=int, required=True)
    push.add_argument("--num-steps", type=int)
    push.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        help="send less; what is left out is kept beside the profile, and sent with the next update",
    )
    push.add_argument("--private", action="store_true", help="mask the update")
    add("key", _key, "show your public key, which the operator of the mask keeper registers")
    watch = add("watch", _watch, "wait for the next aggregate, or for the rejection of your update")
    watch.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS")
    watch.add_argument("--poll", type=float, default=5.0, metavar="SECONDS", help="between looks")
    return parser


def _federation(options: argparse.Namespace, *, private: bool = False) -> Federation:
    return Federation(profile=options.profile, model_id=options.model, private=private)


def _key(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    key = load_identity(options.profile).public_key
    return {"public_key": key}, key


def _enroll(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    if not options.url or not options.token:
        raise ClientError("give the URL and the token, or set FEDERATION_URL and FEDERATION_TOKEN")
    found = Federation.enroll(
        options.url, options.token, name=options.name, profile=options.profile
    )
    path = profile_path(options.profile)
    row = {"client": str(found.client.client_id), "profile": str(path)}
    return row, f"enrolled as {row['client']}; the secret is in {path}"


def _status(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    federation = _federation(options)
    latest, progress, status = (
        federation.latest(),
        federation.progress(),
        federation.client.status(),
    )
    updates = status.updates if status else ()
    lines = [f"aggregate {latest.number} is the latest; updates are {latest.update_kind}"]
    lines += [str(progress)] if progress else []
    lines += [str(each) for each in updates] or ["you have sent no update yet"]
    row = {
        "number": latest.number,
        "update_kind": latest.update_kind,
        "progress": asdict(progress) if progress else None,
        "updates": [asdict(each) for each in updates],
    }
    return row, "\n".join(lines)


def _pull(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    federation = _federation(options)
    path = federation.client.fetch_file(options.file)
    base = federation.client.base
    assert base is not None  # noqa: S101 - fetch_file sets it.
    save_base(options.profile, federation.model_id, base)
    return {"file": str(path), "number": base.number}, f"aggregate {base.number} is in {path}"


def _push(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    federation = _resumed(options, private=options.private)
    with progress_bar("upload") as progress:
        key = federation.client.upload_file(
            options.file,
            num_examples=options.num_examples,
            num_steps=options.num_steps,
            compression=options.compression,
            progress=progress,
        )
    save_sent(options.profile, federation.model_id, federation.client)
    return {"key": key}, f"sent as {key}"


def _watch(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    def show(text: str) -> None:
        print(text, file=sys.stderr)

    federation = _resumed(options)
    latest = federation.wait(timeout=options.timeout, poll=options.poll, on_progress=show)
    own = federation.update() if federation.client.sent_key else None
    sentence = f"aggregate {latest.number} is published"
    row = {"number": latest.number, "update": asdict(own) if own else None}
    return row, f"{sentence}; yours is {own.state}" if own else sentence


def _resumed(options: argparse.Namespace, *, private: bool = False) -> Federation:
    """Return the federation as the last command of the profile left it."""
    federation = _federation(options, private=private)
    if not resume_session(options.profile, federation.model_id, federation.client):
        raise ClientError("nothing was pulled yet: federated-client pull FILE")
    return federation


if __name__ == "__main__":
    sys.exit(main())
