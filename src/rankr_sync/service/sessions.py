"""Sessions of browsers: a signed cookie, and from it the token that proves a form to be ours. Pure but for chance."""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

SESSION_LASTS = 7 * 86_400.0
"""Seconds after which people sign in again."""

SIGNED_IN, VISITOR = "in", "out"


@dataclass(frozen=True, slots=True)
class Session:
    """One browser's session: begun `at` (Unix time), by somebody who has given the password or not."""

    id: str
    at: int
    signed_in: bool


class Sessions:
    """Makes and knows its own sessions. The key is of this process: when it ends, all are signed out.

    `binding` is what the password is known by: with another password, those who gave the old one are signed out.
    """

    def __init__(self, binding: Callable[[], bytes], clock: Callable[[], float]) -> None:
        self._key = secrets.token_bytes(32)
        self._binding = binding
        self._clock = clock
        self._ended: dict[str, float] = {}

    def go_on_with(self, before: "Sessions") -> None:
        """Know the sessions of a former configuration: who is signed in by a password that stays, stays so."""
        self._key, self._ended = before._key, before._ended

    def begin(self, *, signed_in: bool) -> Session:
        """A new session, under a name that nobody could have known before."""
        return Session(secrets.token_urlsafe(18), int(self._clock()), signed_in)

    def write(self, session: Session) -> str:
        """The cookie's value."""
        content = f"{session.id}.{session.at}.{SIGNED_IN if session.signed_in else VISITOR}"
        return f"{content}.{self._sign('session', content)}"

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie's value; None for what is not ours, too old, or ended."""
        content, _, signature = (cookie or "").rpartition(".")
        if not hmac.compare_digest(self._sign("session", content).encode(), signature.encode()):
            return None
        id_, at, kind = content.split(".")
        if id_ in self._ended or not 0 <= self._clock() - int(at) < SESSION_LASTS:
            return None
        return Session(id_, int(at), kind == SIGNED_IN)

    def csrf(self, session: Session) -> str:
        """What a form of this session must carry."""
        return self._sign("csrf", session.id)

    def is_csrf(self, session: Session, offered: str) -> bool:
        """Whether a form carries what it must."""
        return hmac.compare_digest(self.csrf(session).encode(), offered.encode("utf-8", "surrogateescape"))

    def end(self, session: Session) -> None:
        """Sign out: the cookie is worth nothing any more, whoever has a copy of it."""
        now = self._clock()
        self._ended = {id_: until for id_, until in self._ended.items() if until > now}
        self._ended[session.id] = session.at + SESSION_LASTS

    def _sign(self, purpose: str, content: str) -> str:
        message = b"\0".join((purpose.encode(), self._binding(), content.encode("utf-8", "surrogateescape")))
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()
