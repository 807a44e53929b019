"""`python -m rankr_sync.service.probe`: asks the running daemon's `/healthz`, and exits 0 if it is alive.

For a container's health check: it loads nothing but the standard library and checks no configuration, so that a look
every minute costs nothing. Where nothing is served there is nothing to ask: then it exits 0.
"""

import http.client
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

SECONDS = 10.0


def listen_of(environ: Mapping[str, str]) -> str:
    """`http.listen`, from the environment or the configuration file."""
    if listen := environ.get("RANKR_SYNC_HTTP__LISTEN"):
        return listen
    file = Path(environ.get("RANKR_SYNC_CONFIG") or "config.toml")
    content = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return str(content.get("http", {}).get("listen", "127.0.0.1:8700"))


def is_alive(listen: str) -> bool:
    """Whether `/healthz` says so. An address that stands for all is asked on this machine."""
    if listen.strip().lower() == "off":
        return True
    host, _, port = listen.strip().rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - to ask, not to bind
    connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if is_alive(listen_of(os.environ)) else 1)
