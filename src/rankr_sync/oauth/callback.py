"""A server on this machine for the one redirect of a login; nothing else is answered."""

import contextlib
import hmac
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from urllib.parse import parse_qs, urlsplit

from rankr_sync.errors import BadConfiguration

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HEAD = (
    b'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    b"<title>rankr-sync</title><body>"
)
DONE = HEAD + b"<p>Thank you. You can close this window.</body></html>"
FOREIGN = (
    HEAD + b"<p>This does not belong to the login that rankr-sync waits for. Open the page that it named.</body></html>"
)


def port_of(redirect_uri: str) -> int | None:
    """The port to listen on for a redirect to this machine by plain http; None where it goes elsewhere."""
    parts = urlsplit(redirect_uri)
    return (parts.port or 80) if parts.scheme == "http" and parts.hostname in LOOPBACK else None


@contextlib.contextmanager
def listening(port: int, path: str, state: str) -> Iterator[tuple[int, "Queue[str]"]]:
    """Listen on this machine during the block: on which port (0 takes a free one), and the URLs that arrive there.

    What does not carry the `state` of the login that is waited for is told so, and the wait goes on.
    """
    arrived: Queue[str] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            here, offered = parts.path == path, parse_qs(parts.query).get("state", [""])[0]
            mine = here and hmac.compare_digest(offered.encode(), state.encode())
            body = DONE if mine else FOREIGN if here else b""
            self.send_response(200 if mine else 400 if here else 404)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-security-policy", "default-src 'none'")
            self.send_header("referrer-policy", "no-referrer")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            if mine:
                arrived.put(self.path)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: its lines would hold the code."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise BadConfiguration(
            f"port {port} of this machine cannot be listened on: {error.strerror}",
            hint="end the program that has it, or use --paste",
        ) from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="oauth-callback", daemon=True)
    thread.start()
    try:
        yield server.server_port, arrived
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait_for(arrived: "Queue[str]", seconds: float) -> str:
    """The first URL. Raises BadConfiguration when none arrives in time."""
    try:
        return arrived.get(timeout=seconds)
    except Empty:
        raise BadConfiguration(
            f"nobody came back within {seconds / 60:g} minutes", hint="rankr-sync auth login, or with --paste"
        ) from None
