"""What visitors must know: the password of people, the token of programs. Compared in constant time, never shown."""

import hashlib
import hmac
from pathlib import Path

from pydantic import SecretStr

from rankr_sync.config import Http
from rankr_sync.errors import BadConfiguration


class Secret:
    """A password or token; one in a file is read again when the file has changed."""

    def __init__(self, key: str, given: SecretStr | None, file: Path | None) -> None:
        self._key = key
        self._file = None if given is not None else file
        self._read_at = -1
        self._digest = _digest(self._checked(given.get_secret_value())) if given is not None else b""
        if self._file is not None:
            self._read()

    @property
    def digest(self) -> bytes:
        """What tells this secret from another, and does not tell it. A file that is gone changes nothing."""
        if self._file is not None:
            try:
                self._read()
            except BadConfiguration:
                return self._digest  # who knew the secret a moment ago still does
        return self._digest

    def is_(self, offered: str) -> bool:
        """Whether this is the secret. Takes as long for a wrong one, however wrong it is."""
        return hmac.compare_digest(_digest(offered), self.digest)

    def _read(self) -> None:
        assert self._file is not None
        try:
            changed_at = self._file.stat().st_mtime_ns
            if changed_at != self._read_at:
                self._digest = _digest(self._checked(self._file.read_text(encoding="utf-8")))
                self._read_at = changed_at
        except (OSError, UnicodeDecodeError):
            raise BadConfiguration(
                f"the file {self._file} of {self._key} cannot be read",
                hint=f"check {self._key}_file and its permissions",
            ) from None

    def _checked(self, secret: str) -> str:
        if not secret.strip():
            raise BadConfiguration(
                f"{self._key} is empty", hint=f"set it, or leave out {self._key} and {self._key}_file"
            )
        return secret.strip("\r\n")


def password_of(http: Http) -> Secret | None:
    """The password of people, if one is set. Raises BadConfiguration where it is empty or cannot be read."""
    return _secret("http.password", http.password, http.password_file)


def token_of(http: Http) -> Secret | None:
    """The token of programs, if one is set. Raises BadConfiguration where it is empty or cannot be read."""
    return _secret("http.token", http.token, http.token_file)


def _secret(key: str, given: SecretStr | None, file: Path | None) -> Secret | None:
    return None if given is None and file is None else Secret(key, given, file)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
