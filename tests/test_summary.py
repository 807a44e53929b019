"""The daily summary of a real mirror: what it counts, when it is made, and how it reaches people."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from mirror import LOCATION, backfill, configuration, connected, query, rows, run
from rankr_sync import daily, schema
from rankr_sync import summary as pure
from rankr_sync.app import open_store
from rankr_sync.config import Config, Location, Summary
from rankr_sync.daemon import Summaries
from rankr_sync.engine import LocationSync
from rankr_sync.errors import BadAnswer, BadConfiguration
from rankr_sync.sandbox import Sandbox, SandboxOptions
from rankr_sync.store import SqlStore, summaries
from rankr_sync.store.upkeep import purge

START = datetime(2026, 11, 26, 17, 0, tzinfo=UTC)
"""Thursday noon in New York, where the account is."""
FRIDAY, SATURDAY = date(2026, 11, 27), date(2026, 11, 28)


class Clock:
    """The one clock of account and program."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """What it shows."""
        return self.now

    def to(self, day: int, hour: int, minute: int = 0) -> None:
        """An hour of November in New York."""
        self.now = datetime(2026, 11, day, hour, minute, tzinfo=UTC) + timedelta(hours=5)


@pytest.fixture
def clock() -> Clock:
    """Thursday noon."""
    return Clock()


@pytest.fixture
def sandbox(clock: Clock) -> Sandbox:
    """A small account that lives by that clock."""
    return Sandbox(SandboxOptions(contacts=6, rate_limit=None), now=lambda: clock().timestamp())


def iso(moment: datetime) -> str:
    """As the API writes moments."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def told(database_url: str, day: date, clock: Clock, config: Config | None = None) -> pure.Summary:
    """The summary of a day as the store has it."""
    with contextlib.closing(SqlStore(database_url)) as store:
        config = config or configuration(database_url)
        return daily.summarise(store, config, daily.place_of(store, config, LOCATION), day, clock.now)


def counts(summary: pure.Summary) -> dict[str, int]:
    """Name of a list to its count, where there is anything."""
    lists = {name: getattr(summary, name) for name in summary.__slots__}
    return {name: one.count for name, one in lists.items() if isinstance(one, pure.Listed) and one.count}


def test_a_summary_tells_what_the_day_brought(database_url: str, sandbox: Sandbox, clock: Clock) -> None:
    """New, changed and gone contacts, tasks created, completed and due, notes, appointments; and each day by itself."""
    config = configuration(database_url)
    everyone = list(sandbox.truth()["contacts"])
    old_task = sandbox.create_task(everyone[0], title="Old", dueDate=iso(clock.now + timedelta(hours=2)))["id"]
    for task_id in set(sandbox.truth()["tasks"]) - {old_task}:
        sandbox.delete_task(task_id)
    for event_id in list(sandbox.truth()["appointments"]):
        sandbox.delete_appointment(event_id)
    backfill(sandbox, config, now=clock)
    clock.to(27, 9)
    jane = sandbox.create_contact(firstName="Jane", lastName="Doe")["id"]
    sandbox.update_contact(everyone[1], city="Bern")
    sandbox.create_note(jane, body="Called <b>twice</b>")
    sandbox.create_task(jane, title="Call back", dueDate=iso(clock.now + timedelta(hours=3)))
    sandbox.create_task(jane, title="Send offer", dueDate=iso(clock.now + timedelta(days=1)))
    sandbox.update_task(old_task, completed=True)
    start = clock.now + timedelta(hours=1)
    sandbox.create_appointment(
        jane,
        title="Visit",
        startTime=iso(start),
        endTime=iso(start + timedelta(hours=1)),
        appointmentStatus="confirmed",
    )
    clock.to(27, 10)
    backfill(sandbox, config, now=clock)
    sandbox.delete_contact(everyone[2])
    clock.to(27, 23, 30)
    backfill(sandbox, config, now=clock)
    clock.to(28, 7)
    friday = told(database_url, FRIDAY, clock)
    assert counts(friday) == {
        "contacts_new": 1,
        "contacts_changed": 1,
        "contacts_gone": 1,
        "tasks_created": 2,
        "tasks_completed": 1,
        "tasks_due": 1,
        "tasks_overdue": 1,
        "tasks_due_next": 1,
        "notes_added": 1,
        "appointments": 1,
    }
    assert friday.whole
    assert friday.location == "Sandbox 00001"
    assert [entry.contact for entry in friday.contacts_new.entries] == ["Jane Doe"]
    assert [entry.id for entry in friday.contacts_changed.entries] == [everyone[1]]
    assert [(entry.title, entry.contact) for entry in friday.tasks_due.entries] == [("Call back", "Jane Doe")]
    assert [entry.title for entry in friday.tasks_completed.entries] == ["Old"]
    assert friday.appointments_by_status == {"confirmed": 1}
    assert friday.trouble == pure.Trouble()
    assert counts(told(database_url, SATURDAY, clock)) == {"tasks_due": 1, "tasks_overdue": 1}
    # What the first copy brought did not come on that day; "Old" was due then, and open until Friday.
    thursday = counts(told(database_url, date(2026, 11, 26), clock))
    assert {name: count for name, count in thursday.items() if name.startswith("tasks")} == {
        "tasks_due": 1,
        "tasks_overdue": 1,
    }


def test_a_task_that_is_opened_again_was_not_completed(database_url: str, sandbox: Sandbox, clock: Clock) -> None:
    """`completed_at` is of the last time it was completed, stays while it is, and goes when it is open again."""
    config = configuration(database_url, streams=("contacts", "tasks"))
    (contact_id, *_) = sandbox.truth()["contacts"]
    seen: list[tuple[datetime, datetime | None]] = []

    async def work(sync: LocationSync) -> None:
        await sync.backfill(config.streams)
        task_id = sandbox.create_task(contact_id, title="x", dueDate=iso(clock.now))["id"]
        for hour, change in ((13, {}), (14, {"completed": True}), (15, {"title": "y"}), (16, {"completed": False})):
            clock.to(26, hour)
            if change:
                sandbox.update_task(task_id, **change)
            await sync.full_pass("tasks", "poll")
            row = rows(database_url, "tasks")[task_id]
            seen.append((row["first_seen_at"], row["completed_at"]))

    run(sandbox, config, work, now=clock)
    one, two = (START + timedelta(hours=hours) for hours in (1, 2))
    assert seen == [(one, None), (one, two), (one, two), (one, None)]


def test_trouble_of_the_day_is_told(database_url: str, sandbox: Sandbox, clock: Clock) -> None:
    """Runs that failed, records that could not be mapped, streams without a success, a copy that never ended."""
    config = configuration(database_url, api={"attempts": 1})
    sandbox.corrupt("notes", next(iter(sandbox.truth()["notes"])), lambda raw: {**raw, "dateAdded": "soon"})
    backfill(sandbox, config, now=clock)
    clock.to(27, 9)
    sandbox.faults.next("502-html", "/contacts/search")
    with pytest.raises(BadAnswer):
        run(sandbox, config, lambda sync: sync.poll("contacts"), now=clock)
    with contextlib.closing(SqlStore(database_url)) as store, store.transaction() as tx:
        tx.save_setting(f"held:{LOCATION}", {"suspects": 4, "of": 6, "at": clock.now.isoformat()}, clock.now)
        tx.connection.execute(
            schema.usage_slots.insert(),
            [
                {"location_id": LOCATION, "at": at, "requests": 9, "throttled": 2}
                for at in (clock.now + timedelta(hours=hours) for hours in (1, -25, 25))
            ],
        )
    clock.to(29, 7)
    thursday, friday, saturday = (told(database_url, date(2026, 11, day), clock).trouble for day in (26, 27, 28))
    assert thursday.rejects == (("notes", 1),)
    assert thursday.behind == thursday.copying == ()
    assert friday.failures == (pure.Failure("contacts", 1, "the API answered 502, not in JSON"),)
    assert (friday.held, friday.throttled, friday.rejects) == (4, 2, ())
    assert saturday.behind == config.streams


def test_a_first_copy_that_is_under_way_is_told(database_url: str, clock: Clock) -> None:
    """Until it is complete nothing is known of what came."""
    with contextlib.closing(open_store(configuration(database_url))):
        pass
    assert told(database_url, date(2026, 11, 26), clock).trouble.copying == configuration(database_url).streams


def test_days_are_of_the_zone_that_is_configured(database_url: str, clock: Clock) -> None:
    """The configuration's time zone wins over the API's, and UTC is what is left."""
    with contextlib.closing(open_store(configuration(database_url))) as store:
        zones = (None, "Asia/Kathmandu")
        places = [
            daily.place_of(
                store, configuration(database_url, locations=(Location(id=LOCATION, timezone=zone),)), LOCATION
            )
            for zone in zones
        ]
        assert [place.zone for place in places] == ["UTC", "Asia/Kathmandu"]


def test_the_daemon_makes_each_summary_once_and_those_it_missed(
    database_url: str, sandbox: Sandbox, clock: Clock
) -> None:
    """At the hour, not before; after a downtime those of the last days; and no second one, whoever else is at work."""
    config = configuration(database_url)
    backfill(sandbox, config, now=clock)

    async def work() -> list[list[str]]:
        found = []
        async with connected(sandbox, config, now=clock) as app:
            sync = app.locations[LOCATION]
            ours, others = Summaries(app, sync), Summaries(app, sync)
            for day, hour, minute in ((27, 6, 59), (27, 7, 0), (27, 7, 1), (30, 12, 0), (30, 12, 5)):
                clock.to(day, hour, minute)
                with capture_logs() as logs:
                    await asyncio.gather(ours.work(), others.work())
                found.append(sorted(line["day"] for line in logs if line["event"] == "summary.made"))
        return found

    assert asyncio.run(work()) == [[], ["2026-11-26"], [], ["2026-11-27", "2026-11-28", "2026-11-29"], []]
    made = query(database_url, "SELECT day, delivered_at, due_at FROM daily_summaries ORDER BY day")
    assert len(made) == 4
    assert all(row["delivered_at"] is None and row["due_at"] is None for row in made)


def test_a_summary_goes_with_the_tombstones(database_url: str, clock: Clock) -> None:
    """It names contacts: it is kept no longer than those that are gone."""
    made_on_friday(database_url, clock)
    with contextlib.closing(SqlStore(database_url)) as store:
        keep = timedelta(days=90)
        assert purge(store, keep, keep, clock.now + timedelta(days=89))["daily_summaries"] == 0
        assert purge(store, keep, keep, clock.now + timedelta(days=91))["daily_summaries"] == 1


# -- delivery ------------------------------------------------------------------------------------------


class Receiver:
    """What apprise's json:// targets speak to: keeps what it was sent, and answers as it is told."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, list[int]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                planned = outer.answers.get(self.path)
                status = planned.pop(0) if planned else 200
                if status == 200:
                    outer.taken.append((self.path, body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, path: str) -> str:
        """An apprise URL with a secret in it."""
        return f"json://me:geheim@127.0.0.1:{self._server.server_port}/{path}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A place to send to."""
    made = Receiver()
    yield made
    made.close()


def made_on_friday(database_url: str, clock: Clock, *urls: str) -> Config:
    """A store with a summary that waits to be delivered to these."""
    config = configuration(database_url, summary=Summary(urls=tuple(SecretStr(url) for url in urls)))
    with contextlib.closing(open_store(config)) as store:
        with store.transaction() as tx:
            tx.start_run(LOCATION, "contacts", "backfill", clock.now)
            tx.save_location({"id": LOCATION, "name": "Acme", "timezone": "America/New_York"}, clock.now)
        clock.to(27, 8)
        assert daily.make_missing(store, config, LOCATION, clock.now) == [date(2026, 11, 26)]
    return config


def deliver(database_url: str, config: Config, clock: Clock) -> list[str]:
    """One round of delivery; what was logged."""
    with contextlib.closing(SqlStore(database_url)) as store, capture_logs() as logs:
        daily.deliver_due(store, LOCATION, partial(daily.targets_of, config.summary), clock)
    return [line["event"] for line in logs]


def kept(database_url: str) -> dict[str, Any]:
    """The row of the summary."""
    with contextlib.closing(SqlStore(database_url)) as store, store.reading() as tx:
        row = summaries.stored(tx.connection, LOCATION, date(2026, 11, 26))
        assert row is not None
        return row


def test_each_target_gets_a_summary_once(
    database_url: str, clock: Clock, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """One that fails is tried again later, alone; the failure is kept, without the URL; then never again."""
    config = made_on_friday(database_url, clock, receiver.url("good"), receiver.url("bad"))
    receiver.answers["/bad"] = [503, 404]
    assert deliver(database_url, config, clock) == ["summary.undelivered"]
    assert [path for path, _ in receiver.taken] == ["/good"]
    row = kept(database_url)
    assert row["delivery_error"] == "JSON 2 did not take it (status 503)"
    assert (row["delivered_at"], row["due_at"]) == (None, clock.now + timedelta(minutes=5))
    assert deliver(database_url, config, clock) == []  # it rests
    clock.now += timedelta(minutes=5)
    assert deliver(database_url, config, clock) == ["summary.undelivered"]
    clock.now += timedelta(minutes=10)
    assert deliver(database_url, config, clock) == ["summary.delivered"]
    row = kept(database_url)
    assert (row["delivered_at"], row["due_at"], row["delivery_error"]) == (clock.now, None, None)
    clock.now += timedelta(days=1)
    assert deliver(database_url, config, clock) == []
    assert [path for path, _ in receiver.taken] == ["/good", "/bad"]
    message = receiver.taken[0][1]
    assert message["title"] == "Acme: Thursday 26 November 2026"
    assert "Contacts" in message["message"]
    assert "geheim" not in caplog.text + str(row)


def test_a_delivery_that_died_is_made_by_the_next(database_url: str, clock: Clock, receiver: Receiver) -> None:
    """Whoever delivers claims the summary first; the claim of a process that died lapses, and what it sent is known."""
    config = made_on_friday(database_url, clock, receiver.url("one"), receiver.url("two"))
    (first, _) = daily.targets_of(config.summary)
    with contextlib.closing(SqlStore(database_url)) as store, store.transaction() as tx:
        claimed = summaries.claim(tx.connection, LOCATION, clock.now, clock.now + daily.CLAIMED_FOR)
        assert claimed is not None
        summaries.note_delivered_to(tx.connection, claimed, [first.id])
    assert deliver(database_url, config, clock) == []
    clock.now += daily.CLAIMED_FOR
    assert deliver(database_url, config, clock) == ["summary.delivered"]
    assert [path for path, _ in receiver.taken] == ["/two"]


def test_a_url_that_is_none_fails_alone_and_is_not_told(
    sqlite_url: str,
    clock: Clock,
    receiver: Receiver,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The others get it; what is said is its place. The file with the URLs is read anew each time."""
    file = tmp_path / "urls"
    file.write_text(f"# ours\n\nnonsense://geheim\n{receiver.url('good')}\n")
    config = made_on_friday(sqlite_url, clock, "slack://geheim")
    config = configuration(sqlite_url, summary=Summary(urls_file=file))
    assert deliver(sqlite_url, config, clock) == ["summary.undelivered"]
    assert kept(sqlite_url)["delivery_error"] == "target 1 is no URL that apprise knows"
    file.write_text(receiver.url("good"))
    clock.now += timedelta(hours=1)
    assert deliver(sqlite_url, config, clock) == ["summary.delivered"]
    assert len(receiver.taken) == 1
    assert "geheim" not in "".join(capfd.readouterr())
    with pytest.raises(BadConfiguration, match="cannot be read"):
        daily.targets_of(Summary(urls_file=tmp_path / "none"))


def test_nothing_is_sent_that_is_days_old(sqlite_url: str, clock: Clock, receiver: Receiver) -> None:
    """Targets that stay away for three days miss the summary; the last failure stays written down."""
    config = made_on_friday(sqlite_url, clock, receiver.url("bad"))
    receiver.answers["/bad"] = [500] * 9
    clock.now += timedelta(days=2, hours=22)
    for _ in range(9):
        deliver(sqlite_url, config, clock)
        row = kept(sqlite_url)
        if row["due_at"] is None:
            break
        clock.now = row["due_at"]
    assert clock.now - row["made_at"] <= timedelta(days=3)
    assert row["delivered_at"] is None
    assert row["delivery_error"]
    assert receiver.taken == []


def test_an_hour_that_is_none_is_refused() -> None:
    """`summary.at` is a time of day."""
    for wrong in ("7", "24:00", "07:60", "7 am"):
        with pytest.raises(ValueError, match="write a time of day"):
            Summary(at=wrong)
