"""Servers on this machine that answer as storage does, or as it should not."""

from __future__ import annotations

import datetime
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Handle = Callable[[BaseHTTPRequestHandler], None]


def answer(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> None:
    """Send a whole answer."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving(
    handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve requests until the end of the block; the server's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *arguments: None  # type: ignore[method-assign]
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def handling(
    get: Handle | None = None, post: Handle | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve with functions for GET and POST; the body of a POST has been read."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert get
            get(self)

        def do_POST(self) -> None:
            assert post
            self.rfile.read(int(self.headers["Content-Length"]))
            post(self)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with serving(Handler, tls) as url:
        yield url


@contextmanager
def securely(get: Handle) -> Iterator[str]:
    """Serve by HTTPS, with a certificate that only its own key has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(_self_signed())
        file.flush()
        context.load_cert_chain(file.name)
    with handling(get, tls=context) as url:
        yield url


def _self_signed() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem = serialization.Encoding.PEM
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(pem)
    return key.private_bytes(pem, *private) + certificate


@contextmanager
def answering(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Serve the same answer to every request."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, status, body, headers)

    with handling(reply, reply) as url:
        yield url
