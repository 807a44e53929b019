"""Who may look and who may change something at the service surface: each promise of its access control."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from rankr_sync.config import Http
from rankr_sync.errors import BadConfiguration
from rankr_sync.service.access import LARGEST_FORM, POLICY, access_of, local_path
from rankr_sync.service.secrets import password_of
from rankr_sync.service.server import address_of, listen, listen_again
from rankr_sync.service.sessions import SESSION_LASTS, Sessions
from rankr_sync.service.slowdown import FREE, MOST_ADDRESSES, TOGETHER, Slowdown
from service import HOST, PASSWORD, TOKEN, Surface, csrf_of, sign_in, surface, with_password

CHANGED: list[str] = []


async def _page(request: Request) -> HTMLResponse:
    if request.method == "POST":
        CHANGED.append(str((await request.form()).get("word")))
    return HTMLResponse(f'{request.state.signed_in} <input name="csrf" value="{request.state.csrf}">')


@pytest.fixture
def asked(sqlite_url: str) -> Callable[..., Any]:
    """Runs a visit to a service that has one more page, which can be changed."""

    def ask(work: Callable[[Surface], Any], **http: Any) -> Any:
        async def connect() -> Any:
            CHANGED.clear()
            async with surface(sqlite_url, http=http) as made:
                made.web.router.routes.append(Route("/page", _page, methods=["GET", "POST"]))
                return await work(made)

        return asyncio.run(connect())

    return ask


# -- at the start ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["0.0.0.0:8700", "[::]:8700", "192.0.2.1:8700", "mirror.example.com:80"])
def test_no_address_but_loopback_without_a_password_or_token(listen: str) -> None:
    """What other machines can reach is refused at the start unless something protects it."""
    host, port = address_of(listen)
    with pytest.raises(BadConfiguration, match="would see all contacts") as caught:
        access_of(Http(listen=listen), host, port)
    assert "PASSWORD_FILE" in str(caught.value.hint)
    assert access_of(Http(listen=listen, password=SecretStr(PASSWORD)), host, port).closed
    assert access_of(Http(listen=listen, token=SecretStr(TOKEN)), host, port).closed


@pytest.mark.parametrize("listen", ["127.0.0.1:8700", "127.1.2.3:0", "[::1]:8700", "localhost:1"])
def test_loopback_needs_no_password(listen: str) -> None:
    """Only this machine gets there."""
    assert not access_of(Http(listen=listen), *address_of(listen)).closed


@pytest.mark.parametrize("listen", ["8700", "127.0.0.1", ":8700", "127.0.0.1:x", "127.0.0.1:70000", "::1:8700x"])
def test_an_address_that_is_none_is_refused_in_a_sentence(listen: str) -> None:
    """A misspelt `http.listen` says how it is written."""
    with pytest.raises(BadConfiguration, match=r"http\.listen"):
        address_of(listen)


def test_a_password_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A new password needs no restart; an empty or missing file is refused at the start and ignored later."""
    file = tmp_path / "password"
    with pytest.raises(BadConfiguration, match="cannot be read"):
        password_of(Http(password_file=file))
    file.write_text(" \n")
    with pytest.raises(BadConfiguration, match="is empty"):
        password_of(Http(password_file=file))
    file.write_text("first one\n")
    password = password_of(Http(password_file=file))
    assert password is not None
    assert password.is_("first one")
    file.write_text("second one\n")
    _later(file)
    assert password.is_("second one")
    assert not password.is_("first one")
    file.unlink()
    assert password.is_("second one")


def _later(file: Path) -> None:
    import os

    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))


# -- signing in --------------------------------------------------------------------------------------------


def test_everything_but_health_and_the_sign_in_page_is_closed(asked: Callable[..., Any]) -> None:
    """With a password set, a stranger sees neither page nor metrics, nor which pages there are."""

    async def work(made: Surface) -> dict[str, int]:
        paths = ["/page", "/", "/metrics", "/nothing", "/login", "/healthz", "/readyz", "/static/nothing"]
        for path in ("/static/../page", "/static/%2e%2e/page", "/healthz/../page", "/login/../page", "//page"):
            answer = await made.visitor.get(httpx.URL(HOST).copy_with(raw_path=path.encode()))
            assert "csrf" not in answer.text, path
        return {path: (await made.visitor.get(path)).status_code for path in paths}

    closed = dict.fromkeys(["/page", "/", "/metrics", "/nothing"], 303)
    assert asked(work, **with_password()) == closed | {
        "/login": 200,
        "/healthz": 200,
        "/readyz": 200,
        "/static/nothing": 404,
    }


def test_a_stranger_is_sent_to_the_sign_in_page_and_back(asked: Callable[..., Any]) -> None:
    """Who signs in goes on to the page that was wanted, with its search."""

    async def work(made: Surface) -> None:
        turned = await made.visitor.get("/page?q=a%20b")
        assert turned.headers["location"] == "/login?next=%2Fpage%3Fq%3Da%2520b"
        done = await sign_in(made.visitor, next_path="/page?q=a%20b")
        assert (done.status_code, done.headers["location"]) == (303, "/page?q=a%20b")
        assert (await made.visitor.get("/page")).text.startswith("True")
        assert (await made.visitor.get("/metrics")).status_code == 200

    asked(work, **with_password())


@pytest.mark.parametrize(
    "wanted", ["//evil.example.com", "https://evil.example.com", "/\\evil.example.com", "/\t/x", "", "x"]
)
def test_signing_in_leads_nowhere_else(wanted: str) -> None:
    """A link to the sign-in page cannot send people on to another site."""
    assert local_path(wanted) == "/"
    assert local_path("/contacts?q=1") == "/contacts?q=1"


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(asked: Callable[..., Any]) -> None:
    """`HttpOnly`, `SameSite=Strict`, for the whole service; `Secure` where the browser speaks https."""

    async def work(made: Surface) -> None:
        plain = (await sign_in(made.visitor)).headers["set-cookie"].lower()
        assert {"httponly", "samesite=strict", "path=/"} <= set(plain.split("; "))
        assert "secure" not in plain
        async with made.another("https://127.0.0.1:8700") as other:
            assert "secure" in (await sign_in(other)).headers["set-cookie"].lower().split("; ")

    asked(work, **with_password())


def test_the_session_is_another_one_after_signing_in_and_worthless_after_signing_out(asked: Callable[..., Any]) -> None:
    """A cookie that was planted before, or copied before the end, opens nothing."""

    async def work(made: Surface) -> None:
        await made.visitor.get("/login")
        before = dict(made.visitor.cookies)
        planted = csrf_of(await made.visitor.get("/login"))
        await sign_in(made.visitor)
        during = dict(made.visitor.cookies)
        assert before != during
        csrf = csrf_of(await made.visitor.get("/page"))
        assert csrf != planted
        out = await made.visitor.post("/logout", data={"csrf": csrf})
        assert out.headers["location"] == "/login"
        for cookies in (before, during, dict(made.visitor.cookies)):
            async with made.another() as other:
                other.cookies.update(cookies)
                assert (await other.get("/page")).status_code == 303

    asked(work, **with_password())


def test_only_our_own_sessions_count() -> None:
    """A cookie that is forged, changed, too old, of another process or another password is none."""
    now, binding = [1_000_000.0], [b"one"]
    sessions = Sessions(lambda: binding[0], lambda: now[0])
    cookie = sessions.write(sessions.begin(signed_in=True))
    assert (session := sessions.read(cookie)) is not None
    assert session.signed_in
    visitor = sessions.write(sessions.begin(signed_in=False))
    forged = [visitor.replace(".out.", ".in."), cookie[:-1], cookie + "0", "", "a.b.c", ".", "...", "é", None]
    assert [one for one in forged if sessions.read(one) is not None] == []
    assert Sessions(lambda: binding[0], lambda: now[0]).read(cookie) is None
    binding[0] = b"another"
    assert sessions.read(cookie) is None
    binding[0] = b"one"
    now[0] += SESSION_LASTS + 1
    assert sessions.read(cookie) is None


def test_a_reload_signs_out_only_those_whose_password_is_no_more() -> None:
    """A configuration that is read again with the same password knows the same sessions, and who has signed out."""
    http = Http(listen="127.0.0.1:0", password=SecretStr("geheim"))
    before = listen(http)
    assert before is not None
    stays, ended = (before.access.sessions.begin(signed_in=True) for _ in range(2))
    cookies = [before.access.sessions.write(one) for one in (stays, ended)]
    before.access.sessions.end(ended)
    after = listen_again(before, http, http.model_copy(update={"allowed_hosts": ("crm.example.com",)}))
    assert after is not None
    assert [after.access.sessions.read(cookie) for cookie in cookies] == [stays, None]
    other = listen_again(after, http, http.model_copy(update={"password": SecretStr("another")}))
    assert other is not None
    assert other.access.sessions.read(cookies[0]) is None
    before.socket.close()


def test_a_token_opens_everything_for_programs(asked: Callable[..., Any]) -> None:
    """`Authorization: Bearer` needs no cookie and no form's token, and a wrong one opens nothing."""

    async def work(made: Surface) -> list[int]:
        async def status(method: str, path: str, token: str, base_url: str = HOST) -> int:
            async with made.another(base_url) as program:
                headers = {"authorization": f"Bearer {token}"}
                return (await program.request(method, path, headers=headers)).status_code

        return [
            await status("GET", "/metrics", TOKEN),
            await status("GET", "/metrics", TOKEN, "http://rankr-sync:8700"),
            await status("POST", "/page", TOKEN),
            await status("GET", "/metrics", TOKEN + "x"),
            await status("GET", "/metrics", ""),
            await status("GET", "/metrics", PASSWORD),
        ]

    assert asked(work, **with_password()) == [200, 200, 200, 401, 401, 401]


def test_a_token_alone_closes_the_pages_to_people(asked: Callable[..., Any]) -> None:
    """Without a password nobody can sign in; the answer says which way there is."""

    async def work(made: Surface) -> None:
        answer = await made.visitor.get("/page")
        assert answer.status_code == 401
        assert "Authorization: Bearer" in answer.text
        assert answer.headers["www-authenticate"] == "Bearer"

    asked(work, token=SecretStr(TOKEN))


# -- guessing ----------------------------------------------------------------------------------------------


def test_guesses_are_slowed_for_each_address(asked: Callable[..., Any]) -> None:
    """After some wrong passwords even the right one waits; another address does not; time heals."""

    async def work(made: Surface) -> None:
        wrong = [(await sign_in(made.visitor, "wrong")).status_code for _ in range(FREE + 2)]
        assert wrong == [401] * (FREE + 1) + [429]
        right = await sign_in(made.visitor)
        assert right.status_code == 429
        assert int(right.headers["retry-after"]) >= 1
        async with made.another() as other:
            assert (await sign_in(other)).status_code == 303
        made.clock.at += 2.0
        assert (await sign_in(made.visitor)).status_code == 303

    asked(work, **with_password())


def test_guesses_from_many_addresses_are_slowed_together(asked: Callable[..., Any]) -> None:
    """Thirty wrong passwords a minute, from wherever, and no more; who is signed in notices nothing."""

    async def work(made: Surface) -> None:
        await sign_in(made.visitor)
        codes = []
        for number in range(TOGETHER + 2):
            async with made.another(address=f"198.51.100.{number}") as other:
                codes.append((await sign_in(other, "wrong")).status_code)
        assert codes == [401] * TOGETHER + [429] * 2
        assert (await made.visitor.get("/page")).status_code == 200
        made.clock.at += 61.0
        async with made.another() as other:
            assert (await sign_in(other)).status_code == 303

    asked(work, **with_password())


def test_guesses_of_tokens_are_slowed_too(asked: Callable[..., Any]) -> None:
    """A program that guesses is as slow as a person; it keeps neither others' programs out nor people."""

    async def work(made: Surface) -> None:
        wrong, right = {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {TOKEN}"}
        codes = [(await made.visitor.get("/metrics", headers=wrong)).status_code for _ in range(FREE + 2)]
        assert codes == [401] * (FREE + 1) + [429]
        assert (await made.visitor.get("/metrics", headers=right)).status_code == 429
        for number in range(2 * TOGETHER):
            async with made.another(address=f"198.51.100.{number}") as other:
                assert (await other.get("/metrics", headers=wrong)).status_code == 401
        async with made.another() as monitor:
            assert (await monitor.get("/metrics", headers=right)).status_code == 200
        assert (await sign_in(made.visitor)).status_code == 303

    asked(work, **with_password())


def test_the_wait_doubles_and_the_memory_is_bounded() -> None:
    """1, 2, 4 ... up to 300 seconds; however many addresses guess, a thousand are kept; a /64 is one address."""
    slow, now, waits = Slowdown(), 0.0, []
    for _ in range(FREE + 11):
        slow.failed("203.0.113.9", now)
        waits.append(slow.wait("203.0.113.9", now))
        now += max(61.0, waits[-1])
    assert waits == [0.0] * FREE + [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    for number in range(FREE + 1):
        slow.failed(f"2001:db8::{number}", now)
    assert slow.wait("2001:db8::ffff", now) == 1.0
    for number in range(3 * MOST_ADDRESSES):
        slow.failed(f"10.0.{number // 256}.{number % 256}", now)
    assert len(slow._by_address) == MOST_ADDRESSES


# -- other sites -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "sent", "code"),
    [
        ({}, "right", 200),
        ({"origin": HOST}, "right", 200),
        ({"origin": HOST, "sec-fetch-site": "same-origin"}, "right", 200),
        ({}, "none", 403),
        ({}, "wrong", 403),
        ({"origin": HOST, "sec-fetch-site": "same-origin"}, "none", 403),
        ({"origin": "https://evil.example.com"}, "right", 403),
        ({"origin": "http://127.0.0.1:9999"}, "right", 403),
        ({"origin": "null"}, "right", 403),
        ({"sec-fetch-site": "cross-site"}, "right", 403),
        ({"sec-fetch-site": "same-site"}, "right", 403),
        ({"sec-fetch-site": "none"}, "right", 403),
    ],
)
@pytest.mark.parametrize("protected", [True, False])
def test_nothing_changes_unless_our_own_page_asks(
    asked: Callable[..., Any], headers: dict[str, str], sent: str, code: int, protected: bool
) -> None:
    """A change needs the form's token, and comes from this origin as far as the browser tells, password or not."""

    async def work(made: Surface) -> int:
        if protected:
            await sign_in(made.visitor)
        page = await made.visitor.get("/page")
        csrf = {"right": csrf_of(page), "wrong": "0" * 64, "none": ""}[sent]
        answer = await made.visitor.post("/page", data={"word": "yes", "csrf": csrf}, headers=headers)
        return answer.status_code

    assert asked(work, **(with_password() if protected else {})) == code
    assert (["yes"] if code == 200 else []) == CHANGED


def test_a_forms_token_is_worth_nothing_in_another_session(asked: Callable[..., Any]) -> None:
    """What an attacker's own visit was given does not help against another visitor."""

    async def work(made: Surface) -> list[int]:
        async with made.another() as other:
            theirs = csrf_of(await other.get("/page"))
        mine = csrf_of(await made.visitor.get("/page"))
        answers = [
            await made.visitor.post("/page", data={"csrf": theirs}),
            await made.visitor.post("/page", headers={"x-csrf-token": theirs}),
            await made.visitor.post("/page", headers={"x-csrf-token": mine}),
            await made.visitor.post("/page", files={"csrf": (None, mine)}),
            await made.visitor.post("/page", data={"csrf": mine, "more": "x" * LARGEST_FORM}),
        ]
        return [answer.status_code for answer in answers]

    assert asked(work) == [403, 403, 200, 403, 413]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
    ],
)
def test_other_sites_may_link_to_us_and_no_more(asked: Callable[..., Any], headers: dict[str, str], code: int) -> None:
    """No page elsewhere can embed ours, or make a browser fetch it behind its owner's back."""

    async def work(made: Surface) -> int:
        return (await made.visitor.get("/page", headers=headers)).status_code

    assert asked(work) == code


@pytest.mark.parametrize(
    ("host", "here", "elsewhere"),
    [
        ("127.0.0.1:8700", 200, 200),
        ("localhost:9000", 200, 200),
        ("[::1]:8700", 200, 200),
        ("LOCALHOST", 200, 200),
        ("status.example.com", 200, 200),
        ("status.example.com.:443", 200, 200),
        ("192.0.2.80:8700", 400, 200),
        ("evil.example.com", 400, 400),
        ("127.0.0.1.evil.example.com", 400, 400),
        ("localhost.evil.example.com", 400, 400),
        ("", 400, 400),
    ],
)
def test_only_our_own_names_are_answered(asked: Callable[..., Any], host: str, here: int, elsewhere: int) -> None:
    """A name that was turned to our address (DNS rebinding) is refused; health answers under any."""

    async def work(made: Surface) -> list[int]:
        return [(await made.visitor.get(path, headers={"host": host})).status_code for path in ("/login", "/healthz")]

    ours = with_password(allowed_hosts=("status.example.com",))
    assert asked(work, **ours) == [here, 200]
    assert asked(work, **ours, listen="0.0.0.0:8700") == [elsewhere, 200]


def test_a_zero_byte_is_refused_before_a_database_sees_it(asked: Callable[..., Any]) -> None:
    """PostgreSQL takes no text that holds one."""

    async def work(made: Surface) -> list[int]:
        paths = ("/contacts?q=%00", "/contacts/a/%00", "/contacts?q=%2500")
        return [(await made.visitor.get(path)).status_code for path in paths]

    assert asked(work) == [400, 400, 200]


def test_every_answer_says_what_a_browser_may_do_with_it(asked: Callable[..., Any]) -> None:
    """The strict policy, no sniffing, nothing kept, nothing told to other sites: also on errors and redirections."""

    async def work(made: Surface) -> None:
        paths = ["/login", "/page", "/metrics", "/healthz", "/nothing"]
        answers = [await made.visitor.get(path) for path in paths]
        answers.append(await made.visitor.post("/page"))
        answers.append(await made.visitor.get("/login", headers={"host": "evil.example.com"}))
        for answer in answers:
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["referrer-policy"] == "same-origin"
            assert answer.headers["x-frame-options"] == "DENY"
            assert "server" not in answer.headers
            assert "access-control-allow-origin" not in answer.headers

    asked(work, **with_password())
    for part in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
        assert part in POLICY
    assert "unsafe" not in POLICY


def test_a_page_that_breaks_tells_the_visitor_nothing(asked: Callable[..., Any]) -> None:
    """A defect is a plain 500 with the same headers; its story is in the log, without the path that was asked for."""

    async def broken(request: Request) -> HTMLResponse:
        raise KeyError("a detail")

    async def work(made: Surface) -> httpx.Response:
        made.web.router.routes.append(Route("/broken/{word}", broken))
        return await made.visitor.get("/broken/jane@example.com")

    with structlog.testing.capture_logs() as events:
        answer = asked(work)
    assert answer.status_code == 500
    assert "detail" not in answer.text
    assert answer.headers["content-security-policy"] == POLICY
    assert [event["event"] for event in events] == ["http.crashed"]
    assert "jane@example.com" not in str(events)
