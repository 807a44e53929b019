"""Who may look, and who may change something. Everything that is asked over HTTP passes through here first.

Open to anybody are `/healthz`, `/readyz`, and (under our own names) the page to sign in and what is below `/static/`.
Without a password or token all else is open too, but then we listen on this machine only.
"""

import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rankr_sync.config import LOCAL_HOSTS, Http
from rankr_sync.errors import BadConfiguration
from rankr_sync.service.secrets import Secret, password_of, token_of
from rankr_sync.service.sessions import SESSION_LASTS, Session, Sessions
from rankr_sync.service.slowdown import Slowdown

log = structlog.get_logger()

FOR_EVERYBODY = frozenset({"/healthz", "/readyz"})
"""They tell nothing of anybody, and a probe comes under whatever name."""

STATIC, LOGIN = "/static/", "/login"

LARGEST_FORM = 64 * 1024
"""Bytes of a form."""

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: then a browser also hides from us where a form came from (`Origin: null`).
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-frame-options": "DENY",
}

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one running service."""

    host: str
    """The address that we listen on, as it was configured."""
    password: Secret | None = None
    token: Secret | None = None
    allowed_hosts: frozenset[str] = frozenset()
    cookie: str = "rankr_sync"
    sessions: Sessions = field(default_factory=lambda: Sessions(lambda: b"", time.time))
    slowdown: Slowdown = field(default_factory=Slowdown)
    """Of passwords."""
    token_slowdown: Slowdown = field(default_factory=lambda: Slowdown(together=None))
    """Of tokens: whoever guesses from elsewhere must not keep the monitoring out."""
    clock: Callable[[], float] = time.monotonic

    @property
    def closed(self) -> bool:
        """Whether one must know a password or token."""
        return self.password is not None or self.token is not None

    def is_ours(self, name: str) -> bool:
        """Whether a `Host` is a name of ours. A page elsewhere whose name was turned to our address is refused by it;
        a bare address cannot be turned.
        """
        name = _bare(name)
        if name in self.allowed_hosts or name in LOCAL_HOSTS or name == self.host:
            return True
        return not is_local(self.host) and _is_address(name)


def access_of(http: Http, host: str, port: int, *, clock: Callable[[], float] = time.monotonic) -> Access:
    """The rules as configured, for a service on this address. Raises BadConfiguration where they protect nothing."""
    password, token = password_of(http), token_of(http)
    if not is_local(host) and password is None and token is None:
        raise BadConfiguration(
            f"http.listen is {http.listen}: whoever reaches this address would see all contacts",
            hint="set RANKR_SYNC_HTTP__PASSWORD_FILE (or http.password, http.token), or listen on 127.0.0.1",
        )
    return Access(
        host.lower(),
        password,
        token,
        frozenset(_bare(name) for name in http.allowed_hosts),
        # Cookies do not tell ports apart: two services of one machine must not sign each other out.
        cookie=f"rankr_sync_{port}",
        sessions=Sessions(lambda: password.digest if password is not None else b"", time.time),
        clock=clock,
    )


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in LOCAL_HOSTS


class Gate:
    """The ASGI middleware: refuses, or lets through with `request.state` as `status_page.routes` describes it."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        visit = Visit(scope, self._access)
        sending = _with_headers(send, visit)
        try:
            refusal = visit.refusal()
            if refusal is None and visit.changes and not visit.is_program:
                refusal, receive = await _checked_form(visit, receive)
            await (refusal or self._app)(scope, receive, sending)
        except Exception:
            log.exception("http.crashed", method=scope["method"], route=_route(scope))
            if not visit.answered:
                await PlainTextResponse("something unexpected happened; the log tells more", 500)(
                    scope, receive, sending
                )


class Visit:
    """What is known of a request before anything is done for it."""

    def __init__(self, scope: Scope, access: Access) -> None:
        self.access = access
        self.headers = Headers(scope=scope)
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.query: str = scope["query_string"].decode("latin-1")
        self.answered = False
        self.address = scope["client"][0] if scope.get("client") else "-"
        self._offered = _bearer(self.headers) if access.token is not None else None
        self.is_program = False
        """Whether the token of programs came with it: no browser sends that unasked."""
        cookie = cookie_parser(self.headers.get("cookie", "")).get(access.cookie)
        known = access.sessions.read(cookie)
        self.is_new = known is None
        self.session: Session = known or access.sessions.begin(signed_in=False)
        self.signed_in = access.password is not None and self.session.signed_in
        state = scope.setdefault("state", {})
        state["csrf"] = access.sessions.csrf(self.session)
        state["signed_in"] = self.signed_in
        state["session"] = self.session
        state["secure"] = self.is_secure

    @property
    def changes(self) -> bool:
        """Whether it asks for more than to look."""
        return self.method not in SAFE

    @property
    def is_secure(self) -> bool:
        """Whether the browser speaks https to the proxy before us. A lie can only make the cookie stricter."""
        told = (self.headers.get("origin", ""), self.headers.get("x-forwarded-proto", ""))
        return any(word.lower().startswith("https") for word in told)

    def refusal(self) -> Response | None:
        """Why it is not answered, or None."""
        if self.path in FOR_EVERYBODY:
            return None
        if "\0" in self.path or "%00" in self.query:  # PostgreSQL takes no such text, SQLite has none
            return _refused(400, "no address here holds a zero byte", "open the page itself: /")
        if self._offered is not None:
            return self._program()
        host = self.headers.get("host", "")
        if not self.access.is_ours(host):
            return _refused(
                400,
                f"this service is not known as {_bare(host)!r}",
                "add the name to http.allowed_hosts, if it is right",
            )
        if self._comes_from_elsewhere(host):
            return _refused(403, "this came from another site", "open the page itself, and try again")
        if not self.access.closed or self.signed_in or self.path == LOGIN or self.path.startswith(STATIC):
            return None
        return self._sign_in()

    def _program(self) -> Response | None:
        access, now = self.access, self.access.clock()
        assert access.token is not None
        assert self._offered is not None
        if (seconds := access.token_slowdown.wait(self.address, now)) > 0:
            return too_fast(seconds)
        if access.token.is_(self._offered):
            access.token_slowdown.succeeded(self.address)
            self.is_program = True
            return None
        access.token_slowdown.failed(self.address, now)
        log.warning("http.refused", address=self.address, what="token")
        return _refused(401, "the token is not right", "see http.token", {"www-authenticate": "Bearer"})

    def _comes_from_elsewhere(self, host: str) -> bool:
        """Whether a browser says that another site's page asks. Following a link to us is no more than looking."""
        site, origin = self.headers.get("sec-fetch-site"), self.headers.get("origin")
        if self.changes:
            if site is not None and site != "same-origin":
                return True
            return origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        link = self.headers.get("sec-fetch-mode") == "navigate" and self.headers.get("sec-fetch-dest") == "document"
        return site not in (None, "same-origin", "none") and not link

    def _sign_in(self) -> Response:
        if self.access.password is not None and "text/html" in self.headers.get("accept", "") and not self.changes:
            wanted = self.path + (f"?{self.query}" if self.query else "")
            return RedirectResponse(f"{LOGIN}?next={quote(wanted, safe='')}", 303)
        ways = [f"in a browser: {LOGIN}"] if self.access.password is not None else []
        ways += ["programs send Authorization: Bearer and http.token"] if self.access.token is not None else []
        return _refused(401, "sign in first", "; ".join(ways), {"www-authenticate": "Bearer"})


def too_fast(seconds: float) -> Response:
    """The answer to one who guesses too fast."""
    after = int(seconds) + 1
    return _refused(429, "too many wrong attempts", f"try again in {after} s", {"retry-after": str(after)})


def set_session(response: Response, visit_cookie: str, value: str, *, secure: bool) -> None:
    """Give the browser its session: no script sees it, and no other site's page can make use of it."""
    response.set_cookie(
        visit_cookie, value, max_age=int(SESSION_LASTS), path="/", httponly=True, samesite="strict", secure=secure
    )


def local_path(wanted: str) -> str:
    """A path of this service to go on to; `/` instead of anything that would lead elsewhere."""
    is_path = wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isprintable()
    return wanted if is_path and not wanted.startswith(LOGIN) else "/"


async def _checked_form(visit: Visit, receive: Receive) -> tuple[Response | None, Receive]:
    """Read the form of a request that changes something, see that it is ours, and put it back."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        if len(body) > LARGEST_FORM:
            return _refused(413, "the form is too large", f"at most {LARGEST_FORM} bytes"), receive
        if not message.get("more_body", False):
            break
    offered = visit.headers.get("x-csrf-token") or _csrf_of(visit.headers, body)
    if not visit.access.sessions.is_csrf(visit.session, offered):
        return _refused(403, "this form is too old, or not ours", "load the page again, and try again"), receive
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return None, again


def _csrf_of(headers: Mapping[str, str], body: bytes) -> str:
    if headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return ""
    try:
        return parse_qs(body.decode(), max_num_fields=100).get("csrf", [""])[0]
    except ValueError:
        return ""


def _with_headers(send: Send, visit: Visit) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            visit.answered = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            if not visit.path.startswith(STATIC):
                headers["cache-control"] = "no-store"
            is_page = headers.get("content-type", "").startswith("text/html")
            if visit.is_new and is_page and "set-cookie" not in headers:
                carrier = Response()
                value = visit.access.sessions.write(visit.session)
                set_session(carrier, visit.access.cookie, value, secure=visit.is_secure)
                headers["set-cookie"] = carrier.headers["set-cookie"]
        await send(message)

    return sending


def _refused(status: int, reason: str, hint: str, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{reason}\n  -> {hint}\n", status, dict(headers or {}))


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _bare(host: str) -> str:
    """A name or address without its port and brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    if host.count(":") > 1:
        return host
    return host.partition(":")[0].rstrip(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _route(scope: Mapping[str, Any]) -> str:
    """The template of the path that was asked for: the path itself may hold what people search for."""
    return str(getattr(scope.get("route"), "path", "-"))
