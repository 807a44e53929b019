"""The status page: what it says, what it finds, what it pulls, and what its buttons do; nothing in it runs."""

import asyncio
import contextlib
import html
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, update
from starlette.applications import Starlette
from starlette.middleware import Middleware

from mirror import LOCATION, account, calls, configuration, connected, rows
from rankr_sync import schema
from rankr_sync.app import App
from rankr_sync.daemon import jobs
from rankr_sync.engine.sweep import held_key
from rankr_sync.errors import AskOwner
from rankr_sync.readiness import Problem
from rankr_sync.reading import Reading
from rankr_sync.sandbox import Sandbox
from rankr_sync.service.health import Health, Pulse
from rankr_sync.status_page import contact as shown
from rankr_sync.status_page import overview, words
from rankr_sync.status_page.pulls import Pulls
from rankr_sync.status_page.render import note_html
from rankr_sync.status_page.routes import routes
from rankr_sync.store.look import Quota, State, StreamStatus

NOW = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)


class _SignedIn:
    """What `service.access` has put into a request by the time that it gets to the page."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {}).update(csrf="the-token", signed_in=True)
        await self._app(scope, receive, send)


@dataclass
class Page:
    """A page over an account that was copied once."""

    sandbox: Sandbox
    app: App
    client: httpx.AsyncClient

    async def get(self, path: str, **options: Any) -> str:
        """What a page says."""
        answer = await self.client.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def post(self, path: str, **form: Any) -> str:
        """Where a button leads."""
        answer = await self.client.post(path, data={"csrf": "the-token", **form})
        assert answer.status_code == 303
        return answer.headers["location"]

    async def store(self, *statements: Any) -> None:
        """Change the store behind the page's back."""
        with self.app.store.transaction() as tx:
            for statement in statements:
                tx.connection.execute(statement)

    def ids(self) -> list[str]:
        """All contacts of the account."""
        return sorted(self.sandbox.truth(LOCATION)["contacts"])


@contextlib.asynccontextmanager
async def opened(database_url: str, contacts: int = 30) -> AsyncIterator[Page]:
    """The page over an account of so many contacts, in the daemon's process."""
    sandbox, config = account(contacts), configuration(database_url)
    async with connected(sandbox, config) as app:
        for job in jobs(app, app.locations[LOCATION], timedelta(0)):
            await job.ring()
        served = Starlette(routes=routes(), middleware=[Middleware(_SignedIn)])
        served.state.app, served.state.reading = app, Reading(app.store)
        served.state.health = Health(app, served.state.reading, Pulse())
        transport = httpx.ASGITransport(served)
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            yield Page(sandbox, app, client)
        served.state.reading.close()
        for lease in app.leases.values():
            await lease.give_back()


def on(database_url: str, work: Callable[[Page], Coroutine[Any, Any, None]], contacts: int = 30) -> None:
    """Do this with an open page."""

    async def open_it() -> None:
        async with opened(database_url, contacts) as page:
            await work(page)

    asyncio.run(open_it())


def test_the_pages_say_how_it_is(database_url: str) -> None:
    """State, curve, search, one contact: on both databases, with the contact's own time zone and nothing inline."""

    async def work(page: Page) -> None:
        await page.store(update(schema.usage_slots).values(requests=321))
        first = await page.get("/")
        assert "All is well." in first
        assert "Appointments: last look" in first
        assert "at most 321 in one" in first
        id_ = page.ids()[0]
        row = rows(database_url, "contacts")[id_]
        reached = next(one for one in rows(database_url, "contacts").values() if one["email"] and one["phone"])
        card = await page.get(f"/contacts/{LOCATION}/{reached['id']}")
        assert f'href="mailto:{reached["email"]}"' in card
        assert "+00:00</span>" not in card, "who has it read aloud hears a moment as all others see it"
        assert f'href="tel:{reached["phone"]}"' in card, "a telephone knows no %2B"
        found = await page.get("/contacts", params={"q": row["email"] or row["phone"]})
        assert f"/contacts/{LOCATION}/{id_}" in found
        assert "30 contacts" in await page.get("/contacts")
        assert "Nobody begins like that" in await page.get("/contacts", params={"q": "zzzzzz"})
        one = await page.get(f"/contacts/{LOCATION}/{id_}")
        assert shown.label_of(row) in html.unescape(one)
        assert "Times are of" in one
        assert "Nothing was rejected" in await page.get("/rejects")
        for content in (first, found, one):
            assert not re.search(r"<script(?! src=)|style=|\son\w+=", content), "the policy refuses what is inline"
            assert content.count("<h1") == 1
        assert (await page.client.get("/contacts/elsewhere/x")).status_code == 404
        assert (await page.client.get(f"/contacts/{LOCATION}/x")).status_code == 404
        assert (await page.client.get("/static/page.css")).headers["content-type"].startswith("text/css")

    on(database_url, work)


EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def test_nothing_that_a_contact_brings_runs(sqlite_url: str) -> None:
    """Names, tags, fields, titles and payloads are text; of a note's HTML only what is harmless is left."""

    async def work(page: Page) -> None:
        id_ = page.ids()[0]
        mine = schema.contacts.c.id == id_
        evil = {
            "name": EVIL,
            "company_name": EVIL,
            "email": 'x"onx=1@example.com',
            "tags": [EVIL],
            "extra": {"x": EVIL},
        }
        note = {
            "location_id": LOCATION,
            "id": "n1",
            "contact_id": id_,
            "title": EVIL,
            "author_id": EVIL,
            "pinned": True,
        }
        note |= {"content": EVIL, "extra": {}, "raw": {}, "digest": "", "synced_at": NOW, "created_at": NOW}
        note["content_html"] = (
            f'{EVIL}<b style="position:fixed">bold</b><a href="javascript:alert(1)">no</a>'
            '<a href="https://example.com" target="_blank" onclick="x()">yes</a><h1>big</h1>'
        )
        reject = {"location_id": LOCATION, "stream": "contacts", "reject_key": "k", "external_id": id_, "shape": "list"}
        reject |= {"reason": EVIL, "raw": {"x": EVIL}, "first_seen_at": NOW, "last_seen_at": NOW}
        await page.store(
            update(schema.contacts).where(mine).values(evil),
            insert(schema.notes).values(note),
            insert(schema.sync_rejects).values(reject),
        )
        one = await page.get(f"/contacts/{LOCATION}/{id_}", headers={"X-Live": "1"})
        for content in (one, await page.get("/contacts", params={"q": EVIL}), await page.get("/rejects")):
            assert "<script>" not in content
            assert "<img src=x" not in content
            assert "javascript:" not in content
            assert "&lt;script&gt;" in content
        assert '<b>bold</b><a rel="noopener nofollow noreferrer">no</a>' in one
        assert '<a href="https://example.com" rel="noopener nofollow noreferrer">yes</a>big' in one
        assert one.count("<h1") == 1

    on(sqlite_url, work)


def test_opening_a_contact_pulls_it_when_the_last_look_is_old(database_url: str) -> None:
    """Older than a minute: pulled, once; not by the script that keeps the page fresh; the button always pulls."""

    async def work(page: Page) -> None:
        id_ = page.ids()[3]
        path, route = f"/contacts/{LOCATION}/{id_}", "GET /contacts/{contactId}"
        before = calls(page.sandbox, route)
        await page.get(path)
        assert calls(page.sandbox, route) == before, "just copied"
        page.sandbox.update_contact(id_, firstName="Zebedee")
        old = datetime.now(UTC) - timedelta(minutes=2)
        await page.store(update(schema.child_visits).values(last_visited_at=old))
        assert "Zebedee" not in await page.get(path, headers={"X-Live": "1"})
        assert "Zebedee" in await page.get(path)
        await page.store(update(schema.child_visits).values(last_visited_at=old))
        await page.get(path)
        assert calls(page.sandbox, route) == before + 1
        assert await page.post(f"{path}/pull") == path
        assert calls(page.sandbox, route) == before + 2
        assert page.app.locations[LOCATION].context.holder is not None, "the daemon's lease is still the daemon's"

    on(database_url, work)


def test_one_note_is_pulled_alone(database_url: str) -> None:
    """By its button: one request, and what it brings is on the page."""

    async def work(page: Page) -> None:
        id_ = page.ids()[0]
        note = page.sandbox.create_note(id_, body="as it was")
        await page.post(f"/contacts/{LOCATION}/{id_}/pull")
        page.sandbox.update_note(note["id"], body="as it is now")
        assert "Pull this note alone" in await page.get(f"/contacts/{LOCATION}/{id_}")
        before = page.sandbox.requests
        path = await page.post(f"/contacts/{LOCATION}/{id_}/pull", stream="notes", record=note["id"])
        assert page.sandbox.requests == before + 1
        assert "as it is now" in await page.get(path)
        assert page.sandbox.requests == before + 1

    on(database_url, work)


def test_who_waits_too_long_sees_what_is_stored(sqlite_url: str) -> None:
    """An API that does not answer: the stored state with a remark, after the patience and no later."""

    async def work(page: Page) -> None:
        page.sandbox.options = replace(page.sandbox.options, latency_ms=5_000)
        pulled = await Pulls(patience=0.1).pull(page.app, LOCATION, page.ids()[0])
        assert pulled.problem == "HighLevel did not answer within 0 seconds."

    on(sqlite_url, work)


def test_a_contact_that_is_gone_is_told(sqlite_url: str) -> None:
    """The page says that HighLevel does not know it any more, and shows what was stored."""

    async def work(page: Page) -> None:
        id_ = page.ids()[0]
        page.sandbox.delete_contact(id_)
        path = await page.post(f"/contacts/{LOCATION}/{id_}/pull")
        assert "does not know this contact any more" in await page.get(path)

    on(sqlite_url, work)


def test_confirmed_deletions_go_at_once_and_only_once(database_url: str) -> None:
    """The button makes the daemon's next pass due, which looks at each suspect and removes them; then it is over."""

    async def work(page: Page) -> None:
        location = page.app.locations[LOCATION]
        ring = {job.name: job.ring for job in jobs(page.app, location, timedelta(0))}
        for id_ in page.ids()[:6]:
            page.sandbox.delete_contact(id_)
        await location.full_pass("contacts", "sweep", restart=True)
        first = await page.get("/")
        assert "6 of 30 contacts seem to be gone" in first
        assert 'name="suspects" value="6"' in first
        assert 'name="csrf" value="the-token"' in first
        await ring["contacts"]()
        await ring["sweep"]()
        assert rows(database_url, "contacts", deleted=True) == {}
        assert await page.post(f"/locations/{LOCATION}/deletions/confirm", suspects=6) == "/"
        assert "deletions are confirmed" in await page.get("/")
        looks = calls(page.sandbox, "GET /contacts/{contactId}")
        await ring["sweep"]()
        assert len(rows(database_url, "contacts", deleted=True)) == 6
        assert calls(page.sandbox, "GET /contacts/{contactId}") == looks + 6
        with page.app.store.reading() as tx:
            assert tx.setting(f"confirmed:{LOCATION}") is None
            assert tx.setting(held_key(LOCATION)) is None
        lists = calls(page.sandbox, "GET /contacts/")
        await ring["sweep"]()
        assert calls(page.sandbox, "GET /contacts/") == lists, "no pass is due any more"
        assert (await page.client.post("/locations/elsewhere/deletions/confirm")).status_code == 404

    on(database_url, work)


def test_rejects_can_be_retried(sqlite_url: str) -> None:
    """The button maps them again from their payloads; what is mapped by then is gone from the list."""

    async def work(page: Page) -> None:
        id_ = page.ids()[0]
        raw = rows(sqlite_url, "contacts")[id_]["raw"]
        reject = {"location_id": LOCATION, "stream": "contacts", "reject_key": id_, "external_id": id_, "raw": raw}
        reject |= {"shape": "get", "reason": "was unreadable", "first_seen_at": NOW, "last_seen_at": NOW}
        foreign = {**reject, "location_id": "elsewhere"}
        await page.store(insert(schema.sync_rejects).values([reject, foreign]))
        assert "was unreadable" in await page.get("/rejects")
        path = await page.post("/rejects/retry")
        assert "1 record tried, 1 mapped" in await page.get(path)

    on(sqlite_url, work)


# -- what is pure ------------------------------------------------------------------------------------------


def stream(**changes: Any) -> StreamStatus:
    """A stream that is well."""
    well: dict[str, Any] = {
        **{"location_id": "a", "stream": "contacts", "phase": "complete", "last_success_at": NOW, "watermark": NOW},
        **{"lag_seconds": 0, "rows": 5, "deleted": 0, "rejects": 0, "due_now": 0, "next_due_at": None},
        **{"last_error": None, "last_error_at": None, "freshness": None},
    }
    return StreamStatus(**(well | changes))


def said(
    streams: list[StreamStatus],
    *stopped: AskOwner,
    quota: Quota | None = None,
    held: Any = None,
    problems: Sequence[Problem] = (),
) -> list[str]:
    """The sentences, each with its level, the headline first."""
    state = State(streams, [quota] if quota else [], {"a": held} if held else {})
    found = overview.matters(
        {"a": "Main"}, state, {("a", str(n)): error for n, error in enumerate(stopped)}, problems, NOW
    )
    return [f"{one.level}: {one.text}" for one in (overview.headline(found), *found)]


def test_the_sentence_at_the_top() -> None:
    """All is well, or the one thing that is wrong, or how many are; the worst first; the same said once."""
    assert said([stream()]) == ["well: All is well."]
    assert said([])[0] == "well: All is well."
    assert "first copy" in said([])[1]
    refused = AskOwner("the token is refused", hint="make a new one")
    assert said([stream()], refused, refused)[0] == "bad: Main: the token is refused."
    late = stream(last_success_at=NOW - timedelta(hours=2), last_error="no answer", last_error_at=NOW)
    assert said([late])[0] == "attention: Main: contacts failed 0 s ago: no answer."
    problems = [Problem(where, "contacts", "late", 7200, 600) for where in ("a", "elsewhere")]
    assert said([stream()], problems=problems)[0] == "attention: Main: nothing of contacts was read for 2 h."
    assert said([stream()], problems=problems[1:])[0] == "well: All is well."
    spent = Quota("a", "2026-09-01", 9, 0, 1000, 5, NOW + timedelta(hours=3))
    assert said([stream()], quota=spent)[0].startswith(
        "bad: Main: the day's quota is spent, all work waits until 15:00"
    )
    nearly = replace(spent, daily_remaining=40)
    assert said([stream(rejects=2)], quota=nearly)[0] == "attention: 2 things need a look."
    held = {"suspects": 9, "of": 100, "confirmed_at": None}
    assert said([stream()], held=held)[0].startswith("bad: Main: 9 of 100 contacts seem to be gone")
    assert said([stream()], held={**held, "confirmed_at": "x"})[0] == "well: All is well."


def test_figures_as_they_are_drawn() -> None:
    """The curve has a point for each quarter of an hour; the classes of ages add up to all contacts."""
    assert overview.day_curve([0, 0]) is None
    curve = overview.day_curve([5, *[0] * 95, 10])
    assert curve is not None
    assert (curve.width, curve.highest, curve.total) == (96, 10, 15)
    assert curve.points.startswith("0,52.0 1,100.0")
    assert curve.points.endswith("96,4.0")
    bars = overview.age_bars(100, [90, 70, 50, 20, 5, 1])
    assert [bar.count for bar in bars] == [20, 20, 30, 15, 4, 1, 10]
    assert [bar.label for bar in bars][-3:] == ["up to 7 d", "over 7 d", "never"]
    assert len(overview.age_bounds(NOW)) == len(bars) - 1
    quota = Quota("a", "2026-09-01", 9, 0, 1000, 960, NOW + timedelta(hours=3))
    gauge = overview.day_gauge(quota, NOW)
    assert gauge is not None
    assert (round(gauge.percent), gauge.said, gauge.tight) == (4, "40 of 1,000 requests spent, resets in 3 h", False)


def test_the_order_of_the_timeline() -> None:
    """The latest first, what has no time last; an open task in the past is overdue."""
    task = {
        "id": "t",
        "title": "Call",
        "status": "open",
        "due_at": NOW - timedelta(1),
        "body": None,
        "assigned_to": None,
    }
    note = {"id": "n", "title": None, "content": "x", "content_html": None, "author_id": None, "pinned": True}
    note["created_at"] = NOW - timedelta(2)
    visit = {"id": "v", "title": "Visit", "status": "confirmed", "starts_at": NOW + timedelta(1), "ends_at": None}
    visit |= {"notes": None, "address": None, "assigned_to": None}
    view = {"tasks": [task, {**task, "id": "u", "due_at": None}], "notes": [note], "appointments": [visit]}
    events = shown.timeline(view, NOW)
    assert [(one.anchor, one.state, one.coming) for one in events] == [
        ("appointment-v", "confirmed", True),
        ("task-t", "overdue", True),
        ("note-n", "pinned", False),
        ("task-u", "open", True),
    ]
    assert shown.counts(events) == "1 appointment, 2 tasks, 1 note"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"),
        (None, ""),
        (["a", 1], "a, 1"),
        ({"a": 1}, '{"a": 1}'),
        (datetime(2026, 1, 2, 15, 4, tzinfo=UTC), "Fri 2 Jan 2026, 10:04"),
    ],
)
def test_values_are_said_as_people_say_them(value: Any, text: str) -> None:
    """No braces, no zones, no None."""
    assert words.value(value, "America/New_York") == text


def test_a_note_keeps_its_words() -> None:
    """Lists, links and emphasis stay; pictures, scripts and headings of the page's own rank do not."""
    assert note_html("<ul><li>roof</li></ul><p>a &lt; b</p>") == "<ul><li>roof</li></ul><p>a &lt; b</p>"
    assert note_html('<img src="https://tracker.example/x.gif">x') == "x"
