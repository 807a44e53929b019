"""The pure daily summary: days that follow each other, hours that come, and words that nobody can misuse."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankr_sync import summary as pure
from rankr_sync.summary import Entry, Failure, Listed, Summary, Trouble, day_of, days_to_make

ZONES = (
    *("UTC", "America/New_York", "Europe/Zurich", "Asia/Kathmandu", "Australia/Lord_Howe", "Asia/Beirut"),
    *("America/Sao_Paulo", "Atlantic/Azores", "Africa/Cairo", "Pacific/Apia", "America/Santiago"),
)
DATES = st.dates(date(2005, 1, 1), date(2035, 1, 1))
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@given(DATES, st.sampled_from(ZONES))
def test_days_follow_each_other(date_: date, zone: str) -> None:
    """Each moment is of one day: a day ends when the next one begins, whatever the clocks do."""
    day, next_ = day_of(date_, zone), day_of(date_ + timedelta(days=1), zone)
    assert day.end == next_.start
    assert timedelta(hours=0) <= day.end - day.start <= timedelta(hours=25)
    assert day.has(day.start) is (day.start < day.end)
    assert not day.has(day.end)


@given(st.datetimes(datetime(2005, 1, 1), datetime(2035, 1, 1)), st.sampled_from(ZONES))
def test_a_moment_is_of_the_day_that_its_clock_shows(naive: datetime, zone: str) -> None:
    """The day that holds a moment has the date that people there saw on their clocks."""
    moment = naive.replace(tzinfo=UTC)
    shown = moment.astimezone(ZoneInfo(zone)).date()
    assert pure.today(moment, zone) == shown
    holding = [near for d in (-1, 0, 1) if (near := day_of(shown + timedelta(days=d), zone)).has(moment)]
    if moment.astimezone(ZoneInfo(zone)).hour != 23:  # an hour that midnight repeats is of the day that it ends
        assert [day.date for day in holding] == [shown]
    assert len(holding) == 1


@pytest.mark.parametrize(
    ("date_", "zone", "hours"),
    [
        (date(2026, 3, 8), "America/New_York", 23),
        (date(2026, 11, 1), "America/New_York", 25),
        (date(2026, 11, 2), "America/New_York", 24),
        (date(2018, 11, 4), "America/Sao_Paulo", 23),  # midnight itself was skipped
        (date(2026, 10, 25), "Atlantic/Azores", 25),
        (date(2011, 12, 30), "Pacific/Apia", 0),  # a day that never was
    ],
)
def test_days_are_as_long_as_the_clocks_make_them(date_: date, zone: str, hours: float) -> None:
    """23 and 25 hours where they are set, none where a day is left out."""
    day = day_of(date_, zone)
    assert day.end - day.start == timedelta(hours=hours)


def made(now: datetime, zone: str = "America/New_York", **changes: object) -> list[date]:
    """The dates of the days that are to be made."""
    wanted: dict[str, object] = {"at": time(7), "since": LONG_AGO, "made": set()} | changes
    return [day.date for day in days_to_make(now, zone, **wanted)]  # type: ignore[arg-type]


def test_a_summary_is_due_when_its_hour_has_come_at_its_place() -> None:
    """Yesterday's at seven by the location's clock, not before, in summer time and after it."""
    three = [date(2026, 10, 29), date(2026, 10, 30), date(2026, 10, 31)]
    assert made(datetime(2026, 11, 1, 11, 59, tzinfo=UTC)) == three[:2]  # 06:59 after the clocks went back
    assert made(datetime(2026, 11, 1, 12, 0, tzinfo=UTC)) == three
    assert made(datetime(2026, 10, 31, 11, 0, tzinfo=UTC))[-1] == date(2026, 10, 30)


def test_missed_summaries_are_made_for_a_few_days_only() -> None:
    """After a downtime the last days are caught up, the earliest first, and none twice."""
    now = datetime(2026, 11, 20, 20, tzinfo=UTC)
    assert made(now) == [date(2026, 11, 17), date(2026, 11, 18), date(2026, 11, 19)]
    assert made(now, made={date(2026, 11, 18)}) == [date(2026, 11, 17), date(2026, 11, 19)]


def test_no_summary_of_days_before_there_was_anything() -> None:
    """The first one is of the day on which the first run began."""
    now = datetime(2026, 11, 20, 20, tzinfo=UTC)
    assert made(now, since=datetime(2026, 11, 19, 4, 59, tzinfo=UTC)) == [date(2026, 11, 18), date(2026, 11, 19)]
    assert made(now, since=datetime(2026, 11, 19, 5, 0, tzinfo=UTC)) == [date(2026, 11, 19)]
    assert made(now, since=now) == []


def test_a_delivery_rests_longer_after_each_failure_and_is_given_up() -> None:
    """Five minutes, doubled up to six hours, for three days."""
    at = datetime(2026, 11, 20, tzinfo=UTC)
    waits = [pure.next_attempt(at, at, attempts) for attempts in (1, 2, 3, 9, 10_000)]
    assert [wait - at for wait in waits if wait] == [
        *(timedelta(minutes=minutes) for minutes in (5, 10, 20)),
        *[timedelta(hours=6)] * 2,
    ]
    assert pure.next_attempt(at + timedelta(days=3), at, 1) is None


def example(**changes: object) -> Summary:
    """A summary of a day in New York."""
    day = day_of(date(2026, 11, 27), "America/New_York")
    values: dict[str, object] = {"until": day.end, "made_at": day.end, **changes}
    return Summary("loc", "Acme & Sons", day, **values)  # type: ignore[arg-type]


def entry(name: str, **changes: object) -> Entry:
    """An entry of a contact of this name."""
    return Entry("1", "c1", name, at=datetime(2026, 11, 27, 14, 30, tzinfo=UTC), **changes)  # type: ignore[arg-type]


def test_a_summary_reads_in_the_time_of_its_place() -> None:
    """Times, counts, what is listed and how much more there is."""
    many = Listed(51, tuple(entry(f"Person {n}") for n in range(20)))
    words = pure.text(example(contacts_new=many, tasks_overdue=Listed(1, (entry("Jane", title="Call back"),))))
    assert words.startswith("Acme & Sons: Friday 27 November 2026\nthe whole day in America/New_York\n")
    assert "Contacts: 51 new, 0 changed, 0 gone\n  new\n    09:30  Person 0\n" in words
    assert "    and 31 more\n" in words
    assert "  overdue\n    2026-11-27  Call back, Jane\n" in words
    assert words.endswith("Sync: no trouble\n")


def test_a_day_that_lasts_says_so() -> None:
    """Today's summary is of what came so far."""
    words = pure.text(example(until=datetime(2026, 11, 27, 15, 5, tzinfo=UTC)))
    assert words.startswith("Acme & Sons: Friday 27 November 2026, so far\nuntil 10:05 in America/New_York\n")


def test_trouble_is_told() -> None:
    """Every kind of it, in words that say what to type."""
    trouble = Trouble(
        failures=(Failure("notes", 2, "the API answered 502"),),
        rejects=(("tasks", 1),),
        throttled=3,
        held=40,
        behind=("contacts",),
        copying=("notes", "appointments"),
    )
    assert pure.text(example(trouble=trouble)).splitlines()[-1] == (
        "Sync: 2 runs of notes failed (the last: the API answered 502);"
        " 1 record of tasks could not be mapped in full (rankr-sync rejects list); throttled 3 times;"
        " deletions of 40 contacts wait for your word (rankr-sync status);"
        " behind: no run of contacts succeeded in the last 24 hours;"
        " the first copy of notes, appointments was not complete"
    )


def test_names_cannot_act() -> None:
    """A name is words: no link, tag or call to everyone in markdown, nothing that a terminal would obey."""
    name = "<img src=x>\x1b[2J [gift](http://evil.example) @everyone\n# *you*"
    summary = example(contacts_new=Listed(1, (entry(name),)))
    assert "\x1b" not in pure.text(summary)
    words = pure.markdown(summary)
    assert "<img" not in words
    assert "[gift]" not in words.replace("\\[gift\\]", "")
    assert "@everyone" not in words
    assert "\n#" not in words.split("**new**")[1].split("## Tasks")[0].removesuffix("\n")


@given(st.text(max_size=200))
def test_whatever_a_name_holds_it_is_one_short_line(name: str) -> None:
    """Neither lines nor lengths of others' making."""
    without = pure.text(example(contacts_new=Listed(1, (entry("x"),)))).count("\n")
    words = pure.text(example(contacts_new=Listed(1, (entry(name),))))
    assert words.count("\n") == without
    assert all(len(line) <= 120 for line in words.splitlines())


def test_a_summary_is_kept_whole() -> None:
    """What is stored as JSON comes back equal."""
    summary = example(
        contacts_new=Listed(1, (entry("Jane", status="x"),)),
        appointments_by_status={"confirmed": 2},
        trouble=Trouble((Failure("notes", 1, None),), (("tasks", 2),), 1, 2, ("tasks",), ("notes",)),
    )
    assert pure.from_document(pure.as_document(summary)) == summary
