"""How things look in a terminal: tables, ages, one contact. Nothing here reads the store."""

import json
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from rankr_sync.logs import colored
from rankr_sync.pacing import RESERVES
from rankr_sync.spans import ago, span
from rankr_sync.store.look import Quota, State, StreamStatus
from rankr_sync.streams import STREAMS, Timeline


def as_json(value: Any) -> None:
    """Print JSON with times in ISO form."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=_plain)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not JSON")


def former(rows: Mapping[str, int]) -> str:
    """Rows by stream that a former mapping made, and what to type."""
    counts = ", ".join(f"{count:,} {name}" for name, count in rows.items())
    return f"mapping changed: {counts} are of the former rules\n  -> rankr-sync mapping apply"


def size(count: float) -> str:
    """Bytes, in the largest sensible unit: `84 MB`, `1.2 GB`."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            shown = f"{count / unit:.1f}".removesuffix(".0") if count < 10 * unit else f"{count // unit:,.0f}"
            return f"{shown} {name}"
    return f"{count:.0f} bytes"


def percent(share: float) -> str:
    """`0.7 %`, `63 %`."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %" if share < 0.1 else f"{100 * share:,.0f} %"


def _styles() -> tuple[str, str, str]:
    """What makes words strong, what makes them faint, and what ends both; nothing where that is not wanted."""
    return ("\033[1m", "\033[2m", "\033[0m") if colored(sys.stdout) else ("", "", "")


def _room() -> int | None:
    """Columns of the terminal that standard output is; None where it is none and lines may be of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def folded(words: str) -> None:
    """Print a line, folded between words where the terminal is narrower."""
    room = _room()
    if room is not None:
        words = textwrap.fill(words, room, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
    print(words)


def columns(words: str) -> int:
    """How many columns of a terminal they take: Chinese, Japanese and emoji two each, marks on other letters none."""
    if words.isascii():
        return len(words)
    marks = ("Mn", "Me", "Cf")
    return sum(
        0 if unicodedata.category(sign) in marks else 1 + (unicodedata.east_asian_width(sign) in "WF") for sign in words
    )


def fitting(widths: Sequence[int], expendable: Sequence[int], room: int | None) -> list[int]:
    """The columns to show: all, or without the first of `expendable` until two spaces between the rest fit `room`."""
    shown, droppable = list(range(len(widths))), list(expendable)
    while room is not None and droppable and sum(widths[i] + 2 for i in shown) - 2 > room:
        shown.remove(droppable.pop(0))
    return shown


def table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[int] = (),
    expendable: Sequence[int] = (),
) -> None:
    """A table on standard output; plain text with aligned columns when that is not a terminal.

    `right`: columns aligned to the right. `expendable`: columns that a narrow terminal does without, the least
    important first; which were left out is said below.
    """
    widths = [max([columns(header[i]), *(columns(row[i]) for row in rows)]) for i in range(len(header))]
    shown = fitting(widths, expendable, _room())

    def line(cells: Sequence[str]) -> str:
        padded = [(cells[i], " " * (widths[i] - columns(cells[i])), i in right) for i in shown]
        return "  ".join(space + cell if rightward else cell + space for cell, space, rightward in padded).rstrip()

    strong, faint, end = _styles()
    if title:
        print(f"{strong}{title}{end}")
    print(f"{faint}{line(header)}{end}")
    for row in rows:
        print(line(row))
    if left_out := [header[i] for i in range(len(header)) if i not in shown]:
        print(f"{faint}a wider terminal shows: {', '.join(left_out)}{end}")


_PHASES = {"walking": "copying", "complete": "complete", "broken": "broke off"}


def status(state: State, now: datetime) -> None:
    """The state of every location: its streams, its quota, what went wrong, what waits for a person."""
    for location_id in state.location_ids:
        mine = [one for one in state.streams if one.location_id == location_id]
        rows = [
            (
                one.stream,
                f"{one.rows:,}",
                f"{one.deleted:,}",
                f"{one.rejects:,}",
                _PHASES.get(one.phase or "", "-"),
                ago(one.last_success_at, now),
                one.watermark.strftime("%Y-%m-%d %H:%M:%S") if one.watermark else "-",
                _due(one, now),
            )
            for one in mine
        ]
        header = ("stream", "rows", "deleted", "rejects", "full pass", "last success", "watermark (UTC)", "due next")
        table(f"location {location_id}", header, rows, right=(1, 2, 3), expendable=(6, 2, 4, 5))
        for quota in state.quotas:
            if quota.location_id == location_id:
                folded(f"quota: {_quota(quota, now)}")
                if words := _waiting(quota, now):
                    folded(f"quota is short: {words}")
        for one in mine:
            if one.last_error and (one.last_success_at is None or (one.last_error_at or now) > one.last_success_at):
                folded(f"last error of {one.stream}, {ago(one.last_error_at, now)}: {one.last_error}")
        _freshness([one for one in mine if one.freshness is not None])
        if held := state.held.get(location_id):
            folded(f"held: {held['suspects']:,} of {held['of']:,} contacts seem to be gone, too many to remove unasked")
            if held["confirmed_at"]:
                print(
                    f"  confirmed {ago(datetime.fromisoformat(held['confirmed_at']), now)}: the next pass looks at each"
                )
            else:
                print(f"  -> rankr-sync backfill --location {location_id} --confirm-deletions")
        print()


def _freshness(known: Sequence[StreamStatus]) -> None:
    """What is achieved: how old the last looks are, how long changes waited, and what audits prove."""
    if not known:
        return
    rows = []
    for one in known:
        fresh = one.freshness
        assert fresh is not None
        ages = (fresh.age_p50_seconds, fresh.age_p95_seconds, fresh.oldest_seconds)
        delays = (fresh.delay_p50_seconds, fresh.delay_p95_seconds)
        looks, waits = (["-" if value is None else span(value) for value in values] for values in (ages, delays))
        rows.append(
            (one.stream, f"{fresh.contacts:,}" if fresh.contacts else "-", *looks, f"{fresh.changes:,}", *waits)
        )
    header = ("", "visited", "last look p50", "p95", "oldest", "dated changes", "delay p50", "p95")
    table("freshness (delays of the last 7 days)", header, rows, right=range(1, len(header)), expendable=(5, 1, 3, 6))
    for one in known:
        if one.freshness is not None and one.freshness.audit is not None:
            folded(f"audit of {one.stream}: {one.freshness.audit} ({one.freshness.audited_rows:,} rows read again)")


def _due(one: StreamStatus, now: datetime) -> str:
    if one.next_due_at is None:
        return "by turns" if one.freshness is not None and one.freshness.contacts else "with the schedule"
    return f"{one.due_now:,} contacts now" if one.due_now else ago(one.next_due_at, now)


def _quota(quota: Quota, now: datetime) -> str:
    words = f"{quota.requests:,} requests on {quota.day}"
    if quota.daily_remaining is not None:
        of = f" of {quota.daily_limit:,}" if quota.daily_limit else ""
        words += f", {quota.daily_remaining:,}{of} left"
    if quota.daily_reset_at is not None:
        words += f", resets {ago(quota.daily_reset_at, now)}"
    return words + f", throttled {quota.throttled:,} times"


def _waiting(quota: Quota, now: datetime) -> str | None:
    """Which work waits for the daily reset, and until when; None when none does."""
    if quota.daily_remaining is None or quota.daily_reset_at is None or quota.daily_reset_at <= now:
        return None
    listings, visits = (int(share * (quota.daily_limit or 0)) for share in RESERVES[1:])
    if quota.daily_remaining > visits:
        return None
    who = "all work waits" if quota.daily_remaining <= listings else "visits wait"
    return f"{who} until {_value(quota.daily_reset_at)}"


def contact(view: dict[str, Any], now: datetime) -> None:
    """One contact with everything that belongs to it."""
    strong, faint, end = _styles()
    fields = dict(view["contact"])
    name = fields.pop("name") or "(no name)"
    gone = f"  (deleted at the source, noticed {ago(fields['deleted_at'], now)})" if fields["deleted_at"] else ""
    print(f"{strong}{name}{end}{gone}")
    extra = fields.pop("extra") or {}
    if view.get("gone_because"):
        print(f"  {faint}{'gone because':<16}{end}{view['gone_because']}")
    for key, value in {**fields, **extra}.items():
        if value not in (None, "", False):
            print(f"  {faint}{key:<16}{end}{_value(value)}")
    if view["tags"]:
        print(f"  {faint}{'tags':<16}{end}{', '.join(view['tags'])}")
    for field in view["custom_fields"]:
        print(f"  {faint}{'field':<16}{end}{field['name'] or field['field_id']}: {_value(field['value'])}")
    for name, timeline in _TIMELINES.items():
        items, looked_at = view.get(name, []), view["last_looked_at"].get(name)
        looked = f"  {faint}looked at {ago(looked_at, now)}{end}" if looked_at else ""
        print(f"{strong}{name} ({len(items)}){end}{looked}")
        for item in items:
            print("  " + _child(timeline, item))


_TIMELINES = {name: stream.timeline for name, stream in STREAMS.items() if stream.timeline is not None}


def _child(timeline: Timeline, item: dict[str, Any]) -> str:
    at = _value(item[timeline.at]) if item[timeline.at] else "-"
    title, detail = _short(item[timeline.title]), _short(item[timeline.detail])
    return f"{at:<20}  {title}  ({detail})" if title else f"{at:<20}  {detail}"


def _value(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return str(value)


def _short(words: str | None, width: int = 72) -> str:
    line = " ".join((words or "").split())
    return line if len(line) <= width else line[: width - 3] + "..."


def record(stream: str, row: dict[str, Any]) -> None:
    """One record, a line a column that has a value."""
    print(f"{stream} {row['id']}")
    extra = row.get("extra") or {}
    for key, value in {**row, **extra}.items():
        if key not in ("id", "location_id", "extra") and value not in (None, ""):
            print(f"  {key:<16}{_value(value)}")
