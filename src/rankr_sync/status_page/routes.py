"""The routes of the status page, and the page on which people sign in.

What a request carries by the time it gets here; `service.access` has checked it:

- `request.app.state.app`: the `App`: configuration, store, engines (`app.locations[id].refresh(contact_id)`).
- `request.app.state.reading`: the `Reading`: `await reading.now(look)` for what must be of this moment, and
  `await reading.lately(key, look)` for figures that may be some seconds old; `look` takes a connection (`store.look`).
- `request.app.state.health`: `await health.readiness()` tells what `/readyz` tells.
- `request.state.csrf`: goes into each form that changes something, as the hidden field `csrf`; a script sends it as the
  header `X-CSRF-Token`. Forms are `application/x-www-form-urlencoded`, at most 64 KiB.
- `request.state.signed_in`: whether a password is set and the visitor has given it: offer a form that posts to
  `/logout`.

What is below `/static/` needs no sign-in. Scripts, styles and images come from there only, never inline
(`style="..."` too): the Content-Security-Policy refuses all else.

What people search for is in the URL of `/contacts`, so that a search can be linked to; no log holds it: the server
writes no access log, and nothing here logs more than ids.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from rankr_sync.app import App, stored_rules
from rankr_sync.engine.sweep import confirm_held
from rankr_sync.model import Row
from rankr_sync.status_page import contact as shown
from rankr_sync.status_page import overview as sums
from rankr_sync.status_page.pulls import Pulls
from rankr_sync.status_page.render import HERE, render
from rankr_sync.status_page.words import many
from rankr_sync.store import look
from rankr_sync.store.contacts import MOST_COUNTED, Wanted, count_contacts, list_contacts
from rankr_sync.store.upkeep import retry_rejects
from rankr_sync.streams import STREAMS

PAGE = 50
"""Contacts on one page."""

RUNS = 20
MOST_REJECTS = 200

LIVE = "x-live"
"""The header by which live.js says that nobody waits: such a look pulls nothing from the API."""


def routes() -> list[BaseRoute]:
    """Every route of the status page, static files included."""
    pulls = Pulls()
    return [
        Route("/", overview),
        Route("/contacts", contacts),
        Route("/contacts/{location}/{contact}", partial(contact, pulls)),
        Route("/contacts/{location}/{contact}/pull", partial(pull, pulls), methods=["POST"]),
        Route("/rejects", rejects),
        Route("/rejects/retry", retry, methods=["POST"]),
        Route("/rejects/{reject:int}/retry", retry, methods=["POST"]),
        Route("/locations/{location}/deletions/confirm", confirm, methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]


def login_page(request: Request, *, next_path: str, problem: str | None = None, status_code: int = 200) -> Response:
    """Asks for the password and posts it, as `password`, to `/login`, with `next` and `csrf`; `problem` is what went
    wrong with the last try.
    """
    return render(request, "login.html", status_code=status_code, next_path=next_path, problem=problem)


def _see(path: str) -> Response:
    return RedirectResponse(path, status_code=303)


def _missing(request: Request, text: str) -> Response:
    return render(request, "message.html", status_code=404, heading="Not found", text=text)


def _names(app: App, stored: Mapping[str, str | None]) -> dict[str, str]:
    """The locations that are mirrored here, by id: as the configuration calls them, else as HighLevel does."""
    configured = {one.id: one.name for one in app.config.locations}
    return {id_: configured.get(id_) or stored.get(id_) or id_ for id_ in app.locations}


# -- the first page --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Moment:
    """What is read anew each time."""

    quotas: list[look.Quota]
    held: dict[str, dict[str, Any]]
    runs: list[Row]
    names: dict[str, str | None]


def _moment(connection: Connection) -> _Moment:
    return _Moment(
        look.quotas(connection),
        look.held_deletions(connection),
        look.last_runs(connection, RUNS),
        look.location_names(connection),
    )


async def overview(request: Request) -> Response:
    """Locations and streams, quota, freshness, runs, and one sentence: all is well, or what is wrong."""
    app: App = request.app.state.app
    reading = request.app.state.reading
    now = datetime.now(UTC)
    read: _Moment = await reading.now(_moment)
    streams = await reading.lately("streams", lambda connection: look.stream_statuses(connection, now))
    state = look.State(streams, read.quotas, read.held)
    names = _names(app, read.names)
    readiness = await request.app.state.health.readiness()
    found = sums.matters(names, state, app.stopped, readiness.problems, now)
    return render(
        request,
        "status.html",
        now=now,
        headline=sums.headline(found),
        matters=found,
        well=sums.well(streams, now),
        names=names,
        places=[await _place(request, id_, name, state, read, now) for id_, name in names.items()],
        runs=read.runs,
    )


async def _place(
    request: Request, location_id: str, name: str, state: look.State, read: _Moment, now: datetime
) -> dict[str, Any]:
    app: App = request.app.state.app
    budget = app.sources[location_id].pacer.budget
    quota = next((one for one in read.quotas if one.location_id == location_id), None)
    gauges = [sums.burst_gauge(budget.limit, app.sources[location_id].pacer.used()), sums.day_gauge(quota, now)]
    mine = [one for one in state.streams if one.location_id == location_id]
    held = read.held.get(location_id)
    slots = await request.app.state.reading.now(
        lambda connection: look.usage_curve(connection, location_id, now - timedelta(days=1), now)
    )
    return {
        "id": location_id,
        "name": name,
        "held": held,
        "held_at": datetime.fromisoformat(held["at"]) if held else None,
        "streams": [{"status": one, "phase": sums.phase(one), "due": sums.due(one, now)} for one in mine],
        "gauges": [gauge for gauge in gauges if gauge is not None],
        "curve": sums.day_curve([slot.requests for slot in slots]),
        "ages": [
            await _ages(request, one, now) for one in mine if one.freshness is not None and one.freshness.contacts
        ],
    }


async def _ages(request: Request, one: look.StreamStatus, now: datetime) -> dict[str, Any]:
    def count(connection: Connection) -> tuple[int, list[int]]:
        return look.count_looks(connection, one.location_id, one.stream, sums.age_bounds(now))

    total, before = await request.app.state.reading.lately(("ages", one.location_id, one.stream), count)
    audit = one.freshness.audit if one.freshness is not None else None
    return {"stream": one.stream, "bars": sums.age_bars(total, before), "proven": str(audit) if audit else None}


async def confirm(request: Request) -> Response:
    """Let held deletions through, as many as the person saw; the daemon's next pass begins at once."""
    app: App = request.app.state.app
    location_id = request.path_params["location"]
    seen = str((await request.form()).get("suspects", ""))
    sync = app.locations.get(location_id)
    if sync is None or not seen.isdecimal():
        return _missing(request, "Nothing is held there.")

    def note() -> None:
        with app.store.transaction() as tx:
            confirm_held(tx, location_id, int(seen), sync.context.now())

    await sync.context.in_store(note)
    return _see("/")


# -- contacts ----------------------------------------------------------------------------------------------


async def contacts(request: Request) -> Response:
    """Search by name, e-mail address, phone number, tag and business, a page at a time."""
    app: App = request.app.state.app
    asked = {key: request.query_params.get(key, "").strip() for key in ("q", "tag", "business", "location", "after")}
    wanted = Wanted(asked["q"][:200], asked["tag"] or None, asked["business"] or None)
    names = _names(app, await request.app.state.reading.lately("names", look.location_names))
    chosen = asked["location"] if asked["location"] in names else ""
    lists = [
        await _list(request, id_, wanted, asked["after"] if chosen else "", asked)
        for id_ in names
        if chosen in ("", id_)
    ]
    return render(request, "contacts.html", wanted=wanted, names=names, chosen=chosen, lists=lists, page=PAGE)


async def _list(
    request: Request, location_id: str, wanted: Wanted, after: str, asked: Mapping[str, str]
) -> dict[str, Any]:
    def find(connection: Connection) -> tuple[list[Row], int, str]:
        rows = list_contacts(connection, location_id, wanted, limit=PAGE + 1, after=after or None)
        count = count_contacts(connection, location_id, wanted)
        return rows, count, look.location_zone(connection, location_id)

    def href(**changes: str) -> str:
        query = {key: value for key, value in {**asked, "after": "", **changes}.items() if value}
        return "/contacts?" + urlencode(query)

    rows, count, zone = await request.app.state.reading.now(find)
    return {
        "location_id": location_id,
        "rows": [{**row, "label": shown.label_of(row)} for row in rows[:PAGE]],
        "count": f"{count:,} or more contacts" if count >= MOST_COUNTED else many(count, "contact"),
        "more": href(location=location_id, after=rows[PAGE - 1]["id"]) if len(rows) > PAGE else None,
        "href": href,
        "zone": zone,
    }


async def contact(pulls: Pulls, request: Request) -> Response:
    """The unified view; pulled fresh on opening when the last look is older than a minute."""
    app: App = request.app.state.app
    location_id, contact_id = request.path_params["location"], request.path_params["contact"]
    now = datetime.now(UTC)
    view = await _view(request, location_id, contact_id)
    if view is None:
        return _missing(request, "No such contact is stored.")
    looked_at = shown.last_look(view)
    if LIVE not in request.headers and pulls.is_due(location_id, contact_id, looked_at, now):
        await pulls.pull(app, location_id, contact_id)
        view = await _view(request, location_id, contact_id) or view
        now = datetime.now(UTC)
    last = pulls.last(location_id, contact_id)
    brought = last.at if last is not None and last.problem is None else None
    looks = [moment for moment in (shown.last_look(view), brought) if moment is not None]
    events = shown.timeline(view, now)
    zone = await request.app.state.reading.now(lambda connection: look.location_zone(connection, location_id))
    names = _names(app, {})
    return render(
        request,
        "contact.html",
        now=now,
        view=view,
        label=shown.label_of(view["contact"]),
        facts=shown.facts(view),
        events=events,
        coming=[event for event in reversed(events) if event.coming],
        counts=shown.counts(events),
        looked_at=max(looks, default=None),
        problem=last.problem if last is not None else None,
        zone=app.locations[location_id].context.settings.timezone or zone,
        place_name=names[location_id] if len(names) > 1 else None,
    )


async def _view(request: Request, location_id: str, contact_id: str) -> dict[str, Any] | None:
    if location_id not in request.app.state.app.locations:
        return None

    def read(connection: Connection) -> dict[str, Any] | None:
        row = look.contact_row(connection, location_id, contact_id)
        return None if row is None else look.unified_view(connection, row)

    found: dict[str, Any] | None = await request.app.state.reading.now(read)
    return found


async def pull(pulls: Pulls, request: Request) -> Response:
    """Pull one contact now, or one task or note of it alone, and show it."""
    app: App = request.app.state.app
    location_id, contact_id = request.path_params["location"], request.path_params["contact"]
    if await _view(request, location_id, contact_id) is None:
        return _missing(request, "No such contact is stored.")
    form = await request.form()
    stream, id_ = (str(form.get(key, "")) for key in ("stream", "record"))
    alone = id_ != "" and stream in STREAMS and STREAMS[stream].single is not None
    await pulls.pull(app, location_id, contact_id, (stream, id_) if alone else None)
    return _see(f"/contacts/{quote(location_id, safe='')}/{quote(contact_id, safe='')}")


# -- rejects -----------------------------------------------------------------------------------------------


async def rejects(request: Request) -> Response:
    """What could not be mapped, with the reason and the payload as it was kept."""
    app: App = request.app.state.app
    found, total = await request.app.state.reading.now(
        lambda connection: (look.rejects_with_payload(connection, MOST_REJECTS), look.count_rejects(connection))
    )
    tried, settled = (request.query_params.get(key, "") for key in ("tried", "settled"))
    said = f"{many(int(tried), 'record')} tried, {int(settled):,} mapped." if (tried + settled).isdecimal() else None
    return render(
        request,
        "rejects.html",
        rejects=[_reject(app, row) for row in found],
        more=f"{total - len(found):,}" if total > len(found) else None,
        said=said if tried and settled else None,
    )


def _reject(app: App, row: Row) -> dict[str, Any]:
    contact_id = row["external_id"] if row["stream"] == "contacts" else row["contact_id"]
    known = contact_id and row["location_id"] in app.locations
    return {
        **row,
        "payload": json.dumps(row["raw"], indent=2, ensure_ascii=False, default=str),
        "contact_href": f"/contacts/{quote(row['location_id'], safe='')}/{quote(contact_id, safe='')}"
        if known
        else None,
    }


async def retry(request: Request) -> Response:
    """Map a reject, or all, again from the kept payload; costs no request."""
    app: App = request.app.state.app
    reject_id = request.path_params.get("reject")
    tried, settled = await asyncio.to_thread(
        retry_rejects,
        app.store,
        partial(stored_rules, app.store, app.config),
        datetime.now(UTC),
        reject_id,
        locations=list(app.locations),
    )
    return _see(f"/rejects?tried={tried}&settled={settled}")
