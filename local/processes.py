"""Ports and processes of this machine, as Linux shows them in /proc."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path


def free_port() -> int:
    """Return a TCP port on which no process listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(pid: int, port: int) -> bool:
    """Return whether this process, and no other, listens on a port of this machine.

    A connection would also be accepted by another process that took the port. The files are described
    in proc(5).
    """
    sockets = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, address, _, state, *_, inode = line.split()[:10]
        if state == "0A" and int(address.partition(":")[2], 16) == port:
            sockets.add(f"socket:[{inode}]")
    try:
        return any(os.readlink(each) in sockets for each in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False  # The process exited, or closed one of its files.


def kill_session(session: int) -> None:
    """Kill the processes of a session, such as a runtime whose emulator crashed."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                pass  # It has exited.
