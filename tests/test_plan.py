"""Promises people can read: what `plan` expects, and what `status` and `sync_freshness` say was achieved."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, update

from mirror import LOCATION, account, backfill, configuration, query
from rankr_sync import schema
from rankr_sync.cli import app, common
from rankr_sync.cli.plan import rounded_up, typed
from rankr_sync.config import parse_duration
from rankr_sync.store import SqlStore
from test_cli import Result

CONTACTS = 30
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

Cli = Callable[..., Result]


@pytest.fixture
def cli(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    """Run a command on the test's database, where no API can be reached."""
    for name in [name for name in os.environ if name.startswith("RANKR_SYNC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RANKR_SYNC_API__BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RANKR_SYNC_LOCATIONS", LOCATION)
    monkeypatch.setenv("RANKR_SYNC_DATABASE__URL", database_url)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    command = typer.main.get_command(app)

    def run(*arguments: str, **variables: str) -> Result:
        for name, value in variables.items():
            monkeypatch.setenv(f"RANKR_SYNC_{name}", value)
        monkeypatch.setattr(sys, "argv", ["rankr-sync", *arguments])
        capfd.readouterr()
        code = common._code_of(lambda: command(list(arguments), standalone_mode=False))
        said = capfd.readouterr()
        return Result(code, said.out, said.err)

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def copied(database_url: str, request: pytest.FixtureRequest) -> Cli:
    """The command line over a mirror of thirty contacts."""
    backfill(account(CONTACTS), configuration(database_url))
    return request.getfixturevalue("cli")  # afterwards: its variables are no configuration of a copy


def write(database_url: str, *statements: Any) -> None:
    """Change the store behind the program's back."""
    with closing(SqlStore(database_url)) as store, store.transaction() as tx:
        for statement in statements:
            tx.connection.execute(statement)


def the_plan(result: Result) -> dict[str, Any]:
    """The only location of `plan --json`, its rows by stream and way."""
    assert result.code == 0, result
    (location,) = result.json["locations"]
    location["rows"] = {(row["stream"], row["how"]): row for row in location["streams"]}
    return location


VISITS = schema.child_visits
USAGE = insert(schema.api_usage).values(
    location_id=LOCATION,
    day=date(2126, 1, 1),
    requests=0,
    throttled=0,
    daily_limit=10_000,
    updated_at=datetime(2126, 1, 1, tzinfo=UTC),
)

# -- plan -------------------------------------------------------------------------------------------------


def test_without_anything_stored_it_says_how_to_get_there(cli: Cli) -> None:
    """Before the first copy nobody knows how many contacts there are."""
    cli("plan").failed(2, "no contact of this location is stored", "rankr-sync backfill", "--contacts 100000")
    cli("plan", "--json", LOCATIONS="a,b").failed(2, "no contact of this location is stored")


def test_of_a_part_tasks_are_visited(cli: Cli) -> None:
    """A walk would show everybody's: with `[only]`, tasks cost a request a contact."""
    rows = the_plan(cli("plan", "--contacts", "1000", "--json", ONLY__TAGS="vip"))["rows"]
    assert ("tasks", "visits") in rows
    assert ("tasks", "walk") not in rows


def test_a_number_of_contacts_is_enough(cli: Cli) -> None:
    """Before anything runs, even before a location is known: the usual rates, and the quota of the documentation."""
    one = the_plan(cli("plan", "--contacts", "100000", "--json", LOCATIONS=""))
    assert (one["id"], one["contacts"], one["daily_limit"], one["learned"]) == ("any", 100_000, 200_000, False)
    rows = one["rows"]
    assert rows.keys() == {
        *(("contacts", "poll"), ("contacts", "full pass"), ("tasks", "walk")),
        *(("notes", "visits"), ("appointments", "visits")),
    }
    assert rows["contacts", "poll"]["requests_a_day"] == 1440
    assert rows["contacts", "full pass"]["requests_a_day"] == 1003
    assert rows["tasks", "walk"]["requests_a_day"] == pytest.approx(10_000)
    assert one["requests_a_day"] == pytest.approx(180_000)
    assert one["requests_a_day"] == pytest.approx(sum(row["requests_a_day"] for row in rows.values()))
    notes = rows["notes", "visits"]
    assert 0 < notes["delay_mean_seconds"] < notes["delay_p95_seconds"] < notes["longest_seconds"] <= 7 * 86_400
    # Round robin of 200,000 visits would take 28.6 hours, and half of that on average.
    assert notes["delay_mean_seconds"] < 0.8 * 14.3 * 3600


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            ("--max-age", "6h"),
            "6h for all 100,000 contacts takes 800,000 requests a day, 4.0 times the quota, and 167,557 are left for"
            " visits: it does not fit; 29h is the shortest that does.",
        ),
        (
            ("--max-age", "29h"),
            "29h for all 100,000 contacts takes 165,518 requests a day, 83 % of the quota: it fits; 29h is the"
            " shortest that does.",
        ),
        (
            ("--max-age", "2d", "--share", "60%"),
            "2d for all 100,000 contacts takes 100,000 requests a day, 50 % of the quota: it fits; 45h is the shortest"
            " that does.",
        ),
        (
            ("--share", "5"),
            "7d for all 100,000 contacts takes 28,572 requests a day, 14 % of the quota, but listings take all of the"
            " 5 % that may be spent: it does not fit.",
        ),
    ],
)
def test_a_wish_is_answered_in_a_sentence(cli: Cli, arguments: tuple[str, ...], answer: str) -> None:
    """Does it fit, what does it cost, and what would: for people on the last line, for programs in JSON."""
    found = cli("plan", "--contacts", "100000", *arguments)
    assert found.code == 0
    assert found.out.strip().splitlines()[-1] == answer
    one = the_plan(cli("plan", "--contacts", "100000", *arguments, "--json"))
    assert one["answer"] == answer
    assert one["max_age"]["fits"] == ("it fits" in answer)


def test_nothing_is_sold_that_was_not_asked_for(cli: Cli) -> None:
    """Where only contacts are mirrored, nothing is visited and no wish is needed."""
    one = the_plan(cli("plan", "--contacts", "1000", "--json", STREAMS="contacts"))
    assert {row["how"] for row in one["streams"]} == {"poll", "full pass"}
    assert one["answer"] == "nothing is visited contact by contact: 1,453 requests a day are all that is spent."


@pytest.mark.parametrize("share", ["60%", "60", " 60 % ", "60.0"])
def test_a_share_is_written_with_or_without_its_sign(cli: Cli, share: str) -> None:
    """What people type."""
    one = the_plan(cli("plan", "--contacts", "100000", "--share", share, "--json"))
    assert one["share_percent"] == pytest.approx(60)
    assert one["requests_a_day"] == pytest.approx(120_000)


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--share", share) for share in ("0", "100%", "-5", "half", "nan", "inf", "")),
        *(("--max-age", age) for age in ("soon", "0", "-5h", "")),
        *(("--contacts", number) for number in ("0", "-1", "many")),
    ],
)
def test_a_wish_that_cannot_be_is_wrong_usage(cli: Cli, arguments: tuple[str, str]) -> None:
    """Exit code 2, the option that is meant, and how it is written."""
    cli("plan", *arguments).failed(2, arguments[0])


def test_after_a_copy_the_stores_own_figures_are_used(copied: Cli, database_url: str) -> None:
    """Thirty contacts of four changes a day, 10,000 requests a day, a fifth of them: figures that a hand can check."""
    write(database_url, update(VISITS).values(rate=4.0), USAGE)
    one = the_plan(copied("plan", "--share", "20%", "--json", STREAMS="contacts,notes"))
    assert (one["contacts"], one["daily_limit"], one["learned"]) == (CONTACTS, 10_000, True)
    assert one["requests_a_day"] == pytest.approx(2000)
    assert one["requests_percent"] == pytest.approx(20)
    notes = one["rows"]["notes", "visits"]
    visits = 2000 - 1440 - 4
    assert notes["changes_a_day"] == pytest.approx(120)
    assert notes["requests_a_day"] == pytest.approx(visits)
    assert notes["every_seconds"] == notes["longest_seconds"] == pytest.approx(CONTACTS / visits * 86_400, rel=1e-3)
    assert notes["delay_mean_seconds"] == pytest.approx(CONTACTS / visits * 43_200, rel=1e-3)
    assert notes["delay_p95_seconds"] == pytest.approx(0.95 * CONTACTS / visits * 86_400, rel=1e-3)
    assert one["max_age"]["shortest_seconds"] == pytest.approx(CONTACTS / visits * 86_400)


def test_a_plan_for_growth_keeps_what_was_learned(copied: Cli, database_url: str) -> None:
    """`--contacts` over a store: as many more of the same contacts."""
    write(database_url, update(VISITS).values(rate=4.0))
    one = the_plan(copied("plan", "--contacts", str(100 * CONTACTS), "--json"))
    assert one["learned"]
    assert one["rows"]["notes", "visits"]["contacts"] == 100 * CONTACTS
    assert one["rows"]["notes", "visits"]["changes_a_day"] == pytest.approx(100 * CONTACTS * 4)


def test_signals_that_were_right_make_delays_shorter(copied: Cli, database_url: str) -> None:
    """Nine in ten changes are announced: they wait for the poll, and the visits for the others."""
    wishes = ("plan", "--contacts", "100000", "--json")
    before = the_plan(copied(*wishes))["rows"]["notes", "visits"]
    learned = {"contact changed": (1000.0, 900.0), "its turn": (5000.0, 80.0)}
    for signal, (visits, found) in learned.items():
        values = {"location_id": LOCATION, "stream": "notes", "signal": signal, "visits": visits, "found": found}
        write(database_url, insert(schema.visit_signals).values(values))
    after = the_plan(copied(*wishes))["rows"]["notes", "visits"]
    assert after["delay_mean_seconds"] < before["delay_mean_seconds"] / 3


def test_what_is_walked_is_visited_only_where_its_walk_is_closed(copied: Cli, database_url: str) -> None:
    """A few contacts of which a walk missed a task make no stream of visits; all contacts do."""
    rows = query(database_url, "SELECT contact_id FROM child_visits WHERE stream = 'notes'")
    now = datetime.now(UTC)

    def visit(contact_id: str) -> Any:
        values = {"location_id": LOCATION, "stream": "tasks", "contact_id": contact_id, "rate": 0.1}
        return insert(VISITS).values(**values, due_at=now, reason="record missed", signal="record missed")

    write(database_url, *(visit(row["contact_id"]) for row in rows[:3]))
    assert ("tasks", "walk") in the_plan(copied("plan", "--json"))["rows"]
    write(database_url, *(visit(row["contact_id"]) for row in rows[3:]))
    found = the_plan(copied("plan", "--json"))["rows"]
    assert ("tasks", "walk") not in found
    assert found["tasks", "visits"]["changes_a_day"] == pytest.approx(3)


def test_changes_of_what_is_polled_are_counted(copied: Cli, database_url: str) -> None:
    """Polls of the last two days found 400 changes: 200 a day, and two more requests for their pages."""
    now = datetime.now(UTC)
    found = ((2 * DAY, 300), (DAY, 100), (8 * DAY, 5000))
    for ago, updated in found:
        times = {"started_at": now - ago, "finished_at": now - ago}
        run = {"location_id": LOCATION, "stream": "contacts", "kind": "poll", "status": "succeeded", **times}
        write(database_url, insert(schema.sync_runs).values(**run, updated=updated))
    poll = the_plan(copied("plan", "--json"))["rows"]["contacts", "poll"]
    assert poll["changes_a_day"] == pytest.approx(200, rel=0.01)
    assert poll["requests_a_day"] == pytest.approx(1442, rel=0.001)


def test_a_location_that_is_not_copied_yet_does_not_hide_the_others(copied: Cli) -> None:
    """It says so where it stands, and how to get there."""
    result = copied("plan", LOCATIONS=f"{LOCATION},elsewhere")
    assert result.code == 0
    assert f"location {LOCATION}\n" in result.out
    assert "location elsewhere: no contact of this location is stored\n  -> rankr-sync backfill" in result.out
    found = copied("plan", "--json").json["locations"]
    assert [(one["id"], bool(one["streams"])) for one in found] == [(LOCATION, True), ("elsewhere", False)]
    assert len(copied("plan", "--location", LOCATION, "--json").json["locations"]) == 1


def test_locations_that_oauth_found_are_planned(copied: Cli) -> None:
    """Where none is configured, those of the store."""
    found = copied("plan", "--json", LOCATIONS="", OAUTH__CLIENT_ID="client")
    assert [one["id"] for one in found.json["locations"]] == [LOCATION]


def test_a_plan_for_people(copied: Cli) -> None:
    """One row for each stream and way, the sum, and its share of the quota."""
    result = copied("plan")
    title, header, *rows, total, spent, answer = result.out.strip().splitlines()
    assert (title, header.split()[0], total.split()[0]) == (f"location {LOCATION}", "stream", "all")
    ways = [
        ["contacts", "poll"],
        ["contacts", "full"],
        ["tasks", "walk"],
        ["notes", "visits"],
        ["appointments", "visits"],
    ]
    assert [row.split()[:2] for row in rows] == ways
    assert spent.endswith("of 200,000 requests a day; at most 90 % may be used.")
    assert "it fits" in answer
    assert "Nothing was learned" not in result.out
    assert "Nothing was learned" in copied("plan", "--contacts", "5", LOCATIONS="elsewhere").out


def test_a_plan_writes_nothing(copied: Cli, database_url: str) -> None:
    """Nor does it ask the API, which cannot be reached here."""
    tables = [table.name for table in schema.metadata.sorted_tables]
    before = {table: query(database_url, f"SELECT * FROM {table}") for table in tables}
    assert copied("plan", "--max-age", "6h").code == 0
    assert {table: query(database_url, f"SELECT * FROM {table}") for table in tables} == before


@given(st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=5000)))
def test_the_shortest_that_fits_can_be_typed(span: timedelta) -> None:
    """What is told is never shorter than what was calculated, and reads back as itself."""
    told = rounded_up(span)
    assert span <= told <= max(span * 2, timedelta(minutes=1))
    assert parse_duration(typed(told)) == told


# -- the view -----------------------------------------------------------------------------------------------


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    """An empty store with its views."""
    with closing(SqlStore(database_url)) as empty:
        empty.upgrade()
        empty.make_views({}, datetime.now(UTC))
        yield empty


def visited(stream: str, contact: str, looked_at: datetime | None, **values: Any) -> Any:
    """A row of `child_visits`."""
    defaults = {"due_at": datetime.now(UTC) + DAY, "reason": "its turn", "last_visited_at": looked_at}
    return insert(VISITS).values(location_id="L", stream=stream, contact_id=contact, **(defaults | values))


def delay(day: date, within: int, changes: int, stream: str = "notes") -> Any:
    """A row of `sync_delays`."""
    key = {"location_id": "L", "stream": stream, "day": day, "within_seconds": within}
    return insert(schema.sync_delays).values(**key, changes=changes)


def audited(day: date, rows: int, stale: int, stream: str = "notes") -> Any:
    """A row of `sync_audits`."""
    key = {"location_id": "L", "stream": stream, "day": day}
    return insert(schema.sync_audits).values(**key, contacts=1, rows=rows, stale=stale)


def test_freshness_of_nothing_is_no_row(store: SqlStore, database_url: str) -> None:
    """An empty store has nothing to say."""
    assert query(database_url, "SELECT * FROM sync_freshness") == []


def test_freshness_is_that_of_the_rows(store: SqlStore, database_url: str) -> None:
    """Ages by place in the order, delays of seven days, audits of thirty; what is older does not count."""
    now = datetime.now(UTC)
    today = now.date()
    write(
        database_url,
        *(visited("notes", f"c{hours}", now - hours * HOUR) for hours in (*range(11, 21), *range(1, 11))),
        visited("notes", "never", None, signal="new contact", signalled_at=now),
        *(visited("appointments", f"c{hours}", now - hours * HOUR) for hours in (5, 7)),
        delay(today, 10, 40),
        delay(today - 3 * DAY, 10, 9),
        delay(today - 6 * DAY, 100, 46),
        delay(today, 1000, 5),
        delay(today - 7 * DAY, 5, 10_000),
        audited(today, 5000, 1),
        audited(today - 29 * DAY, 5000, 2),
        audited(today - 30 * DAY, 5000, 5000),
        audited(today, 0, 0, "appointments"),
    )
    by_stream = {row["stream"]: row for row in query(database_url, "SELECT * FROM sync_freshness")}
    assert by_stream.keys() == {"notes", "appointments"}
    notes = by_stream["notes"]
    ages = [notes[name] / 3600 for name in ("age_p50_seconds", "age_p95_seconds", "oldest_seconds")]
    assert ages == pytest.approx([10, 19, 20], abs=0.01)
    assert {name: notes[name] for name in notes if "age" not in name and "oldest" not in name} == {
        "location_id": "L",
        "stream": "notes",
        "contacts": 21,
        "delay_p50_seconds": 100,
        "delay_p95_seconds": 100,
        "changes": 100,
        "audited_rows": 10_000,
        "stale_rows": 3,
        "current_percent": pytest.approx(99.97),
    }
    other = by_stream["appointments"]
    assert [other[name] / 3600 for name in ("age_p50_seconds", "age_p95_seconds")] == pytest.approx([5, 7], abs=0.01)
    assert (other["contacts"], other["changes"], other["audited_rows"]) == (2, 0, 0)
    assert (other["delay_p50_seconds"], other["current_percent"]) == (None, None)


def test_freshness_of_what_is_not_visited(store: SqlStore, database_url: str) -> None:
    """A stream that is walked has delays and audits, and no age of looks."""
    today = datetime.now(UTC).date()
    write(database_url, delay(today, 60, 1, "contacts"), audited(today, 100, 0, "tasks"))
    found = {row["stream"]: row for row in query(database_url, "SELECT * FROM sync_freshness")}
    assert (found["contacts"]["contacts"], found["contacts"]["delay_p95_seconds"]) == (0, 60)
    assert (found["tasks"]["audited_rows"], found["tasks"]["current_percent"]) == (100, 100.0)
    assert found["contacts"]["age_p50_seconds"] is None


# -- status -------------------------------------------------------------------------------------------------


def test_status_tells_what_is_achieved(copied: Cli, database_url: str) -> None:
    """Ages and delays for people and programs, and the audit with its interval; every earlier key is still there."""
    today = datetime.now(UTC).date()
    rows = [
        (schema.sync_delays, {"within_seconds": 3600, "changes": 10}),
        (schema.sync_audits, {"contacts": 100, "rows": 10_000, "stale": 3}),
    ]
    for table, values in rows:
        write(database_url, insert(table).values(location_id=LOCATION, stream="notes", day=today, **values))
    result = copied("status")
    assert (
        "audit of notes: 99.97 % of rows current, 95 % interval 99.91 to 99.99 % (10,000 rows read again)" in result.out
    )
    assert any(
        line.split()[:2] == ["notes", "30"] and line.endswith("60 min  60 min") for line in result.out.splitlines()
    )
    streams = {one["stream"]: one for one in copied("status", "--json").json["locations"][0]["streams"]}
    assert streams["notes"].keys() == {
        *("stream", "phase", "last_success_at", "watermark", "lag_seconds", "rows", "deleted", "rejects"),
        *("due_now", "next_due_at", "last_error", "last_error_at", "freshness"),
    }
    fresh = streams["notes"]["freshness"]
    assert (fresh["contacts"], fresh["changes"], fresh["delay_p95_seconds"]) == (CONTACTS, 10, 3600)
    assert 0 <= fresh["age_p50_seconds"] <= fresh["age_p95_seconds"] <= fresh["oldest_seconds"] < 3600
    assert (fresh["audited_rows"], fresh["stale_rows"]) == (10_000, 3)
    assert fresh["current_percent_low"] == pytest.approx(99.912, abs=0.001)
    assert fresh["current_percent_high"] == pytest.approx(99.990, abs=0.001)
    assert streams["appointments"]["freshness"]["current_percent_low"] is None
    assert streams["tasks"]["freshness"] is None


def test_only_what_a_signal_announced_is_due(copied: Cli, database_url: str) -> None:
    """The others have their turn by index; their due time is an estimate and nobody waits for it."""
    now = datetime.now(UTC)
    write(database_url, update(VISITS).values(due_at=now - HOUR))
    assert "by turns" in copied("status").out

    def notes() -> dict[str, Any]:
        (location,) = copied("status", "--json").json["locations"]
        return next(one for one in location["streams"] if one["stream"] == "notes")

    assert (notes()["due_now"], notes()["next_due_at"]) == (0, None)
    ids = [
        row["contact_id"] for row in query(database_url, "SELECT contact_id FROM child_visits WHERE stream = 'notes'")
    ]

    def announce(contact_id: str, due_at: datetime) -> Any:
        mine = (VISITS.c.stream == "notes") & (VISITS.c.contact_id == contact_id)
        return update(VISITS).where(mine).values(signal="contact changed", due_at=due_at)

    write(database_url, announce(ids[0], now - HOUR), announce(ids[1], now - 2 * HOUR), announce(ids[2], now + HOUR))
    assert notes()["due_now"] == 2
    assert datetime.fromisoformat(notes()["next_due_at"]) == now - 2 * HOUR
    assert "2 contacts now" in copied("status").out
