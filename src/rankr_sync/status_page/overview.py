"""What the first page says: one sentence, the matters behind it, and figures as they are drawn. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from rankr_sync.errors import AskOwner
from rankr_sync.pacing import RESERVES, RateLimit
from rankr_sync.readiness import Problem
from rankr_sync.spans import ago, lasting
from rankr_sync.status_page.words import clock, many
from rankr_sync.store.look import Quota, State, StreamStatus
from rankr_sync.streams import OWNER

BAD, ATTENTION, NOTE = "bad", "attention", "note"
"""How much a matter matters: a person must act, a person may want to, good to know."""

AGES = {
    "1 h": timedelta(hours=1),
    "6 h": timedelta(hours=6),
    "24 h": timedelta(1),
    "3 d": timedelta(3),
    "7 d": timedelta(7),
}
"""The bounds of the histogram's classes."""


@dataclass(frozen=True, slots=True)
class Matter:
    """Something a person should know: one sentence, what to do about it, and where on the page that is done."""

    level: str
    text: str
    todo: str | None = None
    href: str | None = None


def matters(
    names: Mapping[str, str],
    state: State,
    stopped: Mapping[tuple[str, str], AskOwner],
    problems: Sequence[Problem],
    now: datetime,
) -> list[Matter]:
    """Everything that is not as it should be, the worst first.

    `names`: locations to mirror, id to name. `stopped`: location and kind of work that waits for its owner.
    `problems`: what `/readyz` says.
    """
    found: list[Matter] = []
    for location_id, name in names.items():
        mine = [one for one in state.streams if one.location_id == location_id]
        own = [error for (where, _), error in stopped.items() if where == location_id]
        waits = [said for one in state.quotas if one.location_id == location_id and (said := _waits(name, one, now))]
        held = state.held.get(location_id)
        found += _told(name, own) + waits + _held(name, held)
        if not own and not waits and not held:
            found += _late(name, mine, [one for one in problems if one.location == location_id], now)
        if not any(one.last_success_at for one in mine) and not own:
            found.append(Matter(NOTE, f"{name}: the first copy is under way or has yet to begin."))
    if rejects := sum(one.rejects for one in state.streams):
        todo = "See why, mend the rule or update the program, then retry."
        found.append(
            Matter(ATTENTION, f"{many(rejects, 'record')} could not be mapped, or only in part.", todo, "/rejects")
        )
    order = (BAD, ATTENTION, NOTE)
    return sorted(found, key=lambda matter: order.index(matter.level))


def headline(found: Sequence[Matter]) -> Matter:
    """The one sentence at the top."""
    serious = [one for one in found if one.level != NOTE]
    if not serious:
        return Matter("well", "All is well.")
    if len(serious) == 1:
        return serious[0]
    return Matter(serious[0].level, f"{len(serious)} things need a look.")


def well(streams: Sequence[StreamStatus], now: datetime) -> str:
    """What stands below "All is well": how much there is, and how fresh."""
    contacts = [one for one in streams if one.stream == OWNER.name]
    latest = min((one.last_success_at for one in contacts if one.last_success_at is not None), default=None)
    return f"{many(sum(one.rows for one in contacts), 'contact')}, compared with HighLevel {ago(latest, now)}."


def _told(name: str, errors: Sequence[AskOwner]) -> list[Matter]:
    """What only the owner can mend. The same words of several kinds of work are one matter."""
    return [Matter(BAD, f"{name}: {error.message}.", error.hint) for error in {e.message: e for e in errors}.values()]


def _waits(name: str, quota: Quota, now: datetime) -> Matter | None:
    if quota.daily_remaining is None or quota.daily_reset_at is None or quota.daily_reset_at <= now:
        return None
    listings, visits = (int(share * (quota.daily_limit or 0)) for share in RESERVES[1:])
    until = f"until {clock(quota.daily_reset_at)} ({ago(quota.daily_reset_at, now)})"
    if quota.daily_remaining <= listings:
        return Matter(BAD, f"{name}: the day's quota is spent, all work waits {until}.", "Nothing is lost meanwhile.")
    if quota.daily_remaining <= visits:
        return Matter(ATTENTION, f"{name}: the day's quota is nearly spent, visits wait {until}.")
    return None


def _held(name: str, held: Mapping[str, object] | None) -> list[Matter]:
    if held is None:
        return []
    if held["confirmed_at"]:
        return [Matter(NOTE, f"{name}: deletions are confirmed; the next pass looks at each of them.")]
    text = f"{name}: {held['suspects']:,} of {held['of']:,} contacts seem to be gone, too many to remove unasked."
    return [Matter(BAD, text, "Look whether they were deleted on purpose, then confirm.", "#held")]


def _late(name: str, streams: Sequence[StreamStatus], problems: Sequence[Problem], now: datetime) -> list[Matter]:
    quiet = {one.stream: one.seconds for one in problems if one.seconds is not None}
    found = []
    for one in streams:
        if one.last_error_at is not None and (one.last_success_at is None or one.last_error_at > one.last_success_at):
            said = f"{name}: {one.stream} failed {ago(one.last_error_at, now)}: {one.last_error}."
            found.append(Matter(ATTENTION, said, "It is tried again by itself."))
        elif seconds := quiet.get(one.stream):
            said = f"{name}: nothing of {one.stream} was read for {lasting(seconds)}."
            found.append(Matter(ATTENTION, said, "Type: rankr-sync check"))
    return found


# -- how streams are said --------------------------------------------------------------------------------

_PHASES = {"walking": "copying", "complete": "complete", "broken": "broke off"}


def phase(one: StreamStatus) -> str:
    """How far the last full pass came."""
    return _PHASES.get(one.phase or "", "not begun")


def due(one: StreamStatus, now: datetime) -> str:
    """What is next."""
    if one.next_due_at is None:
        return "by turns" if one.freshness is not None and one.freshness.contacts else "on schedule"
    return f"{one.due_now:,} now" if one.due_now else ago(one.next_due_at, now)


# -- gauges ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gauge:
    """A bar: how full, in percent, how that is said, and whether that is much."""

    label: str
    percent: float
    said: str
    tight: bool = False


def day_gauge(quota: Quota | None, now: datetime) -> Gauge | None:
    """What is spent of the day's quota; None before any answer told."""
    if quota is None or quota.daily_remaining is None or not quota.daily_limit:
        return None
    spent = max(0, quota.daily_limit - quota.daily_remaining)
    said = f"{spent:,} of {quota.daily_limit:,} requests spent"
    if quota.daily_reset_at is not None and quota.daily_reset_at > now:
        said += f", resets {ago(quota.daily_reset_at, now)}"
    percent = 100 * spent / quota.daily_limit
    return Gauge("Day", percent, said, percent >= 100 * (1 - RESERVES[2]))


def burst_gauge(limit: RateLimit | None, used: int) -> Gauge | None:
    """What is spent of the burst limit at this moment; None without a limit."""
    if limit is None:
        return None
    percent = min(100.0, 100 * used / limit.requests)
    return Gauge("Burst", percent, f"{used:,} of {limit.requests:,} requests in the last {lasting(limit.seconds)}")


@dataclass(frozen=True, slots=True)
class Curve:
    """Requests by quarters of an hour, as the points of a line in a box of `width` by 100, and the highest of them."""

    points: str
    area: str
    width: int
    highest: int
    total: int


def day_curve(counts: Sequence[int]) -> Curve | None:
    """The requests of one quarter of an hour after the other; None where there were none."""
    if len(counts) < 2:
        return None
    highest = max(counts)
    if not highest:
        return None
    points = " ".join(f"{x},{100 - 96 * count / highest:.1f}" for x, count in enumerate(counts))
    width = len(counts) - 1
    return Curve(points, f"0,100 {points} {width},100", width, highest, sum(counts))


@dataclass(frozen=True, slots=True)
class Bar:
    """One class of a histogram: how it is called, how many, and the bar's length in percent of the longest."""

    label: str
    count: int
    percent: float


def age_bounds(now: datetime) -> list[datetime]:
    """The moments that divide the classes, the latest first; whatever was ever looked at is before the first."""
    return [now + timedelta(days=1), *(now - age for age in AGES.values())]


def age_bars(total: int, before: Sequence[int]) -> list[Bar]:
    """The classes: of `total` contacts, so many were last looked at `before` each of `age_bounds`."""
    said = [*(f"up to {age}" for age in AGES), f"over {list(AGES)[-1]}"]
    counts = [younger - older for younger, older in pairwise([*before, 0])] + [total - before[0]]
    longest = max([1, *counts])
    return [Bar(label, n, 100 * n / longest) for label, n in zip([*said, "never"], counts, strict=True)]
