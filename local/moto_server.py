"""AWS on this machine: moto's server, over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from moto.server import ThreadedMotoServer


@contextmanager
def moto_server() -> Iterator[str]:
    """Run moto's server on a free port.

    The state belongs to the process: all servers of a process have the same buckets and queues.

    Yields
    ------
    str
        The endpoint, for ``AWS_ENDPOINT_URL`` and boto3's ``endpoint_url``.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # By default it logs every request.
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
