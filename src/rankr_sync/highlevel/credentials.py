"""What a request is authorised with: a private integration token, as it is or in a file. OAuth's are in `oauth`."""

from pathlib import Path
from typing import Protocol

from rankr_sync.errors import BadConfiguration


class Credentials(Protocol):
    """One location's access."""

    @property
    def renewal(self) -> str:
        """What the owner does when the token stays refused."""

    def adding(self, scope: str) -> str:
        """What the owner does about a scope that is missing."""

    async def token(self) -> str:
        """The token to send now."""

    async def refused(self, token: str) -> None:
        """The API refused this token: have another next time, if there is one."""


class PrivateToken:
    """A private integration token: it does not end, and changes only by hand."""

    renewal = "make a new private integration token and set RANKR_SYNC_API__TOKEN, then run: rankr-sync check"

    def __init__(self, token: str) -> None:
        """Raises BadConfiguration for what can be no token."""
        self._token = checked(token)

    def adding(self, scope: str) -> str:
        """By hand, in HighLevel."""
        return f"add the scope {scope} to the private integration, then run: rankr-sync check"

    async def token(self) -> str:
        """Always the same."""
        return self._token

    async def refused(self, token: str) -> None:
        """There is no other."""


class TokenFile:
    """A file that holds a token (Docker and Kubernetes secrets); read again when it changes, or is refused."""

    renewal = PrivateToken.renewal
    adding = PrivateToken.adding

    def __init__(self, path: Path) -> None:
        """Raises BadConfiguration when the file cannot be read."""
        self._path = path
        self._read_at = -1
        self._token = ""
        self._read()

    async def token(self) -> str:
        """The token in the file. Raises BadConfiguration when it cannot be read."""
        return self._read()

    async def refused(self, token: str) -> None:
        """Read the file next time, whatever its date: a file may be put in its place that is older."""
        self._read_at = -1

    def _read(self) -> str:
        try:
            changed_at = self._path.stat().st_mtime_ns
            if changed_at != self._read_at:
                self._token = checked(self._path.read_text(encoding="utf-8"))
                self._read_at = changed_at
        except (OSError, UnicodeDecodeError):
            raise BadConfiguration(
                f"the token file {self._path} cannot be read", hint="check api.token_file and its permissions"
            ) from None
        return self._token


def checked(token: str) -> str:
    """The token without the space around it. Raises BadConfiguration for what can be no token."""
    token = token.strip()
    if not token:
        raise BadConfiguration("the token is empty", hint="check api.token_file")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise BadConfiguration("the token holds characters that no token has", hint="copy it again")
    return token
