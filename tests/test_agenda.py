"""The agenda on both databases: what is visited next, what looks and signals leave behind, what is learned."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, text

from rankr_sync import rates, schema, visits
from rankr_sync.engine.agenda import Agenda, Find, histories
from rankr_sync.engine.context import Settings, compile_rules
from rankr_sync.model import LocationFacts, Look, Page, Plan, Record, Visit
from rankr_sync.pacing import DayBudget
from rankr_sync.plan import plan_page
from rankr_sync.rates import Evidence
from rankr_sync.store import SqlStore, Transaction
from rankr_sync.streams import STREAMS
from rankr_sync.visits import Bounds, Sent

NOW = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOTES, TASKS = STREAMS["notes"], STREAMS["tasks"]
BOUNDS = Bounds(15 * MINUTE, 7 * DAY)


class Clock:
    """A clock that is set by hand."""

    at = NOW

    def __call__(self) -> datetime:
        """The time."""
        return self.at


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    """An empty store of this release."""
    made = SqlStore(database_url)
    made.upgrade()
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def agenda_of(clock: Clock, *, day: DayBudget = DayBudget(), bounds: Bounds = BOUNDS, share: float = 0.9) -> Agenda:
    """The agenda of location `loc`."""
    return Agenda("loc", bounds=bounds, share=share, day=lambda: day, now=clock)


def visit(contact_id: str, stream: str = "notes", **fields: Any) -> Visit:
    """A visit of a contact that was looked at a day ago, unless told otherwise."""
    usual = {"due_at": NOW, "reason": visits.BY_INDEX, "last_visited_at": NOW - DAY, "rate": rates.step_of(0.05)}
    return Visit(stream, contact_id, **{**usual, **fields})


def signalled(contact_id: str, at: datetime, what: str = visits.CHANGED_CONTACT, **fields: Any) -> Visit:
    """A visit that a signal made due."""
    return visit(contact_id, due_at=at, reason=what, signal=what, signalled_at=at, **fields)


def put(store: SqlStore, *some: Visit, location: str = "loc") -> None:
    """Save visits."""
    with store.transaction() as tx:
        tx.put_visits(location, some)


def kept(store: SqlStore, stream: str = "notes") -> dict[str, Visit]:
    """Every visit of a stream at location `loc`, by contact."""
    table = schema.child_visits
    with store.reading() as tx:
        ids = tx.connection.execute(select(table.c.contact_id).where(table.c.stream == stream)).scalars().all()
        return tx.visits_of("loc", stream, ids)


def write_contacts(store: SqlStore, *ids: str, **fields: Any) -> None:
    """Write contacts at location `loc`."""
    rules = compile_rules(LocationFacts("loc"), Settings())["contacts"]
    plan = plan_page(Page(tuple(Record(id_, {"id": id_, **fields}, "list") for id_ in ids)), {}, rules)
    with store.transaction() as tx:
        tx.apply(STREAMS["contacts"], "loc", plan, NOW)


def write_task(store: SqlStore, contact_id: str, due_at: datetime, *, completed: bool = False) -> None:
    """Write a task of a contact."""
    rules = compile_rules(LocationFacts("loc"), Settings())["tasks"]
    raw = {"id": f"task-{contact_id}", "title": "x", "dueDate": due_at.isoformat(), "completed": completed}
    with store.transaction() as tx:
        tx.apply(TASKS, "loc", plan_page(Page((Record(raw["id"], raw, "list", contact_id),)), {}, rules), NOW)


def look(contact_id: str, at: datetime = NOW, **fields: Any) -> Look:
    """A look at a contact that found a whole list."""
    return Look("notes", contact_id, at, **{"page": Page(whole=True), **fields})


def settle(store: SqlStore, agenda: Agenda, *looks: Look, finds: dict[str, Find] | None = None) -> None:
    """Store what looks taught."""
    with store.transaction() as tx:
        known = tx.visits_of("loc", "notes", [one.contact_id for one in looks])
        agenda.settle(tx, NOTES, looks, known, finds or {})


def learn(store: SqlStore, agenda: Agenda) -> None:
    """Learn from all visits together, if it is time."""
    with store.reading() as tx:
        lesson = agenda.study(tx, ["notes"], ["notes"])
    if lesson is not None:
        with store.transaction() as tx:
            agenda.learn(tx, lesson)


def due(store: SqlStore, agenda: Agenda, **options: Any) -> list[str]:
    """Whom the agenda would visit now, as contact ids."""
    with store.reading() as tx:
        options = {"begun": {}, "in_hand": (), **options}
        return [one.contact_id for one in agenda.due(tx, ["notes"], **options)]


# -- what the store keeps -----------------------------------------------------------------------------


def test_a_visit_comes_back_as_it_was_saved(store: SqlStore) -> None:
    """Every field of a visit is kept, at its own location."""
    whole = Visit(
        *("notes", "a", NOW, "contact changed", NOW - DAY, NOW - 2 * DAY, 7, 3),
        *(0.25, 2.5, 9.75, "contact changed", NOW - HOUR, 0.125),
    )
    put(store, whole)
    put(store, visit("a"), location="other")
    assert kept(store) == {"a": whole}
    with store.transaction() as tx:
        tx.save_visits("loc", [visit("a", visits=8), visit("never met")])
    assert kept(store) == {"a": visit("a", visits=8)}


def test_signalled_visits_come_in_the_order_they_are_due(store: SqlStore) -> None:
    """The earliest first, over all streams; what is due later, by its turn only, or elsewhere, does not come."""
    put(store, signalled("c", NOW), replace(signalled("b", NOW + MINUTE), stream="appointments"))
    put(store, signalled("a", NOW + 2 * MINUTE), signalled("later", NOW + HOUR), visit("its turn"))
    put(store, signalled("x", NOW), location="other")
    with store.reading() as tx:
        found = tx.signalled_visits("loc", ["notes", "appointments"], NOW + 3 * MINUTE, 10)
        assert [one.contact_id for one in found] == ["c", "b", "a"]
        assert len(tx.signalled_visits("loc", ["notes", "appointments"], NOW + 3 * MINUTE, 2)) == 2
        assert [one.contact_id for one in tx.signalled_visits("loc", ["notes"], NOW + HOUR, 9)] == ["c", "a", "later"]


def test_missing_visits_are_added_for_the_living(store: SqlStore, clock: Clock) -> None:
    """Every living contact without a visit of the stream becomes due; those that have one keep it."""
    write_contacts(store, "a", "b", "gone")
    put(store, visit("a"))
    agenda = agenda_of(clock)
    with store.transaction() as tx:
        tx.tombstone(STREAMS["contacts"], "loc", ["gone"], NOW)
        for _ in range(2):
            agenda.add_missing(tx, "notes")
    found = kept(store)
    assert found["a"] == visit("a")
    assert (found["b"].signal, found["b"].due_at, found["b"].last_visited_at) == (visits.NEW_CONTACT, NOW, None)
    assert found["b"].rate == rates.gamma().rate(Evidence())
    assert found.keys() == {"a", "b"}


def test_visits_of_contacts_that_are_gone_are_forgotten(store: SqlStore) -> None:
    """Only those, and only at their location."""
    put(store, visit("a"), visit("b"))
    put(store, visit("a"), location="other")
    with store.transaction() as tx:
        tx.drop_visits("loc", ["a"])
        assert tx.visits_of("other", "notes", ["a"]).keys() == {"a"}
    assert kept(store).keys() == {"b"}


def test_what_is_left_of_a_pass(store: SqlStore) -> None:
    """Whoever was not looked at since the pass began, new contacts first; what could not be read rests."""
    began = NOW - HOUR
    put(store, visit("done", last_visited_at=began), visit("quiet"), visit("lively", rate=rates.step_of(2.0)))
    put(store, signalled("new", NOW, visits.NEW_CONTACT, last_visited_at=None))
    put(store, signalled("changed later", NOW + DAY), signalled("changed and done", NOW, last_visited_at=NOW))
    put(store, signalled("odd", NOW + HOUR, visits.POSTPONED))
    with store.reading() as tx:
        left = [one.contact_id for one in tx.unvisited("loc", "notes", began, NOW, 10)]
        assert left == ["new", "changed later", "lively", "quiet"]
        assert len(tx.unvisited("loc", "notes", began, NOW, 3)) == 3
        assert "odd" in [one.contact_id for one in tx.unvisited("loc", "notes", began, NOW + HOUR, 10)]


def test_a_draw_finds_a_living_contact(store: SqlStore) -> None:
    """The next id after the one drawn, round the alphabet; None where there is nobody."""
    with store.transaction() as tx:
        assert tx.drawn("loc", "m") is None
    write_contacts(store, "b", "n", "z")
    with store.transaction() as tx:
        tx.tombstone(STREAMS["contacts"], "loc", ["n"], NOW)
        assert [tx.drawn("loc", at) for at in ("a", "b", "c", "zz")] == ["b", "b", "z", "b"]


# -- whose turn it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_highest_index_has_its_turn(store: SqlStore, clock: Clock, seed: int) -> None:
    """Of hundreds of contacts, those whose visit is worth most are chosen, whatever their rates and ages."""
    draw = random.Random(seed)
    some = [
        visit(f"c{n}", rate=rates.step_of(10 ** draw.uniform(-3, 1)), last_visited_at=NOW - draw.uniform(0, 9) * DAY)
        for n in range(400)
    ]
    put(store, *some, *(signalled(f"s{n}", NOW + DAY) for n in range(5)))
    agenda = agenda_of(clock)
    chosen = due(store, agenda, rolling=["notes"])

    def worth(one: Visit) -> tuple[timedelta, float]:
        age = clock.at - (one.last_visited_at or NOW)
        return max(age - BOUNDS.max_age, timedelta(0)), visits.index(one.rate, age, 0.0)

    old_enough = [one for one in some if clock.at - (one.last_visited_at or NOW) >= BOUNDS.min_age]
    best = sorted(old_enough, key=worth, reverse=True)[: len(chosen)]
    assert len(chosen) > 100
    assert chosen == [one.contact_id for one in best]


def test_the_budget_is_what_time_brings(store: SqlStore, clock: Clock) -> None:
    """Visits by turn come at the pace that spends the day's quota evenly; no more is saved up than a minute's."""
    put(store, *(visit(f"c{n}") for n in range(500)))
    # 86,400 requests for visits in 86,400 seconds: one a second.
    agenda = agenda_of(clock, day=DayBudget(96_000, 96_000, 86_400.0))
    assert len(due(store, agenda, rolling=["notes"])) == 60  # at the start
    assert due(store, agenda, rolling=["notes"]) == []
    clock.at += 10 * timedelta(seconds=1)
    assert len(due(store, agenda, rolling=["notes"])) == 10
    clock.at += HOUR
    assert len(due(store, agenda, rolling=["notes"])) == 60
    clock.at -= DAY
    assert due(store, agenda, rolling=["notes"]) == []


def test_a_restart_is_owed_nothing(sqlite_url: str) -> None:
    """A daemon that is started again and again visits whom and when one that never ends does, at the same price."""
    with contextlib.closing(SqlStore(sqlite_url)) as store:
        store.upgrade()
        moments = st.lists(st.tuples(st.integers(1, 400), st.booleans()), min_size=1, max_size=20)

        @given(moments, st.integers(1, 40_000))
        @settings(max_examples=12)
        def check(moments: list[tuple[int, bool]], visits_a_day: int) -> None:
            through = visited(store, moments, visits_a_day, restarts=False)
            assert visited(store, moments, visits_a_day, restarts=True) == through
            seconds = sum(seconds for seconds, _ in moments)
            assert sum(map(len, through[0])) <= visits_a_day / 86_400 * (seconds + 60) + 1

        check()


def visited(
    store: SqlStore, moments: list[tuple[int, bool]], visits_a_day: int, *, restarts: bool
) -> tuple[list[list[str]], dict[str, datetime]]:
    """Whom one daemon visits, asked at these moments, and when each has its next turn. True: there it is restarted."""
    with store.transaction() as tx:
        for table in (schema.child_visits, schema.sync_settings):
            tx.connection.execute(delete(table))
    put(store, *(visit(f"c{n}", rate=rates.step_of(0.01 * (1 + n % 9))) for n in range(50)))
    clock, day = Clock(), DayBudget(visits_a_day, visits_a_day)
    agenda, bought = agenda_of(clock, day=day, share=1.0), []
    for seconds, restart in moments:
        clock.at += timedelta(seconds=seconds)
        if restart and restarts:
            agenda = agenda_of(clock, day=day, share=1.0)
        bought.append(due(store, agenda, rolling=["notes"]))
        settle(store, agenda, *(look(id_, clock.at) for id_ in bought[-1]))
    return bought, {id_: one.due_at for id_, one in kept(store).items()}


def test_visits_in_hand_are_not_given_out_again(store: SqlStore, clock: Clock) -> None:
    """Neither signalled ones, nor those of a pass, nor those whose turn it is."""
    put(store, signalled("s", NOW), visit("t", rate=4.0), visit("u", rate=0.05))
    hand = {("notes", "s"), ("notes", "t")}
    assert due(store, agenda_of(clock), rolling=["notes"], in_hand=hand) == ["u"]
    assert due(store, agenda_of(clock), begun={"notes": NOW}, in_hand=hand) == ["u"]


def test_signals_leave_what_the_bound_on_age_needs(store: SqlStore, clock: Clock) -> None:
    """A flood of signals does not spend the visits that keep every contact younger than `max_age`."""
    write_contacts(store, *(f"c{n}" for n in range(70)))
    put(store, *(signalled(f"c{n}", NOW) for n in range(60)), *(visit(f"c{n}") for n in range(60, 70)))
    # 70 contacts in 7 days are 10 visits a day; 25 are left for visits today.
    agenda = agenda_of(clock, day=DayBudget(1000, 125, 86_400.0))
    learn(store, agenda)
    assert len(due(store, agenda, rolling=["notes"])) <= 15 + 1
    nothing_left = agenda_of(clock, day=DayBudget(1000, 100, 86_400.0))
    learn(store, nothing_left)
    clock.at += HOUR
    assert due(store, nothing_left, rolling=["notes"]) == []


def test_what_is_bought_is_not_put_off_by_signals(store: SqlStore, clock: Clock) -> None:
    """However many signals wait, whoever has his turn by index is handed out with them: his visit is paid for."""
    put(store, *(signalled(f"s{n}", NOW - MINUTE) for n in range(1100)))
    put(store, *(visit(f"c{n}", last_visited_at=NOW - 3 * DAY) for n in range(100)))
    handed = due(store, agenda_of(clock), rolling=["notes"])
    assert len(handed) == 1000
    assert sum(id_.startswith("c") for id_ in handed) == 100


def test_the_last_moment_of_a_day_buys_no_more_than_is_left(store: SqlStore, clock: Clock) -> None:
    """Three visits are left, and a second until the reset: three are made, not what a minute at that pace would buy."""
    put(store, *(visit(f"c{n}") for n in range(100)))
    assert len(due(store, agenda_of(clock, day=DayBudget(1000, 103, 1.0)), rolling=["notes"])) == 3


def test_those_that_arrive_are_visited_where_a_pass_of_all_does_not_fit(store: SqlStore, clock: Clock) -> None:
    """Ten contacts were visited, two hundred arrive, eighteen visits a day: most of these go to those that arrived."""
    put(store, *(signalled(f"n{n}", NOW, visits.NEW_CONTACT, last_visited_at=None) for n in range(200)))
    put(store, *(visit(f"c{n}") for n in range(10)))
    agenda = agenda_of(clock, day=DayBudget(20, 20, 86_400.0))
    learn(store, agenda)
    assert sum(id_.startswith("n") for id_ in due(store, agenda, rolling=["notes"])) > 10


# -- signals and looks --------------------------------------------------------------------------------


def test_a_new_contact_is_due_at_once(store: SqlStore, clock: Clock) -> None:
    """Also when it is then seen to change before its first visit."""
    agenda = agenda_of(clock)
    with store.transaction() as tx:
        agenda.signal(tx, ["notes", "appointments"], {"a": visits.NEW_CONTACT})
        agenda.signal(tx, ["notes"], {"a": visits.CHANGED_CONTACT})
    assert kept(store)["a"].reason == visits.NEW_CONTACT
    assert kept(store, "appointments")["a"].due_at == NOW
    assert due(store, agenda) == ["a"]


def test_a_signal_is_weighed_against_the_price(store: SqlStore, clock: Clock) -> None:
    """One that comes long after the last visit is worth it at once; one that comes right after it waits a little."""
    put(store, *(visit(f"c{n}", last_visited_at=NOW - 5 * DAY) for n in range(300)))
    put(store, visit("long ago", last_visited_at=NOW - 5 * DAY), visit("just now", last_visited_at=NOW - MINUTE))
    agenda = agenda_of(clock)
    due(store, agenda, rolling=["notes"])  # the market opens: visits have a price
    with store.transaction() as tx:
        agenda.signal(tx, ["notes"], {"long ago": visits.CHANGED_CONTACT, "just now": visits.CHANGED_CONTACT})
    found = kept(store)
    assert found["long ago"].due_at == NOW
    assert NOW < found["just now"].due_at < NOW + 5 * DAY
    for _ in range(40):
        with store.transaction() as tx:
            agenda.signal(tx, ["notes"], {"just now": visits.CHANGED_CONTACT})
        clock.at += MINUTE
    assert kept(store)["just now"].due_at < found["just now"].due_at


def test_who_is_signalled_again_and_again_keeps_the_turn(store: SqlStore, clock: Clock) -> None:
    """A contact that is touched every minute does not move to the end of the queue each time."""
    agenda = agenda_of(clock)
    put(store, visit("busy", last_visited_at=NOW - DAY), visit("other", last_visited_at=NOW - DAY))
    for minute, ids in enumerate((["busy"], ["busy", "other"], ["busy"], ["busy"])):
        clock.at = NOW + minute * MINUTE
        with store.transaction() as tx:
            agenda.signal(tx, ["notes"], dict.fromkeys(ids, visits.CHANGED_CONTACT))
    assert due(store, agenda) == ["busy", "other"]


def test_a_weaker_signal_does_not_put_off_what_must_be_looked_at(store: SqlStore, clock: Clock) -> None:
    """A record that a pass missed is looked at now, whatever else is heard of its contact meanwhile."""
    agenda = agenda_of(clock)
    put(store, visit("a", last_visited_at=NOW - 20 * MINUTE, rate=0.001))
    with store.transaction() as tx:
        agenda.signal(tx, ["notes"], {"a": visits.MISSED})
        agenda.signal(tx, ["notes"], {"a": visits.TOUCHED_CONTACT})
    assert due(store, agenda) == ["a"]
    assert kept(store)["a"].signal == visits.MISSED


def test_visits_in_hand_are_part_of_what_signals_may_spend(store: SqlStore, clock: Clock) -> None:
    """However often it is asked, no more signalled visits are handed out than the day has left for them."""
    day = DayBudget(1_000, 130, 43_200)
    agenda = agenda_of(clock, day=day)
    put(store, *(signalled(f"s{n:03}", NOW - MINUTE, last_visited_at=NOW - DAY) for n in range(200)))
    in_hand: set[tuple[str, str]] = {("notes", f"r{n}") for n in range(10)}
    for _ in range(4):
        in_hand |= {("notes", id_) for id_ in due(store, agenda, in_hand=in_hand, rolling=["notes"])}
    assert len(in_hand) == 30


def test_a_look_settles_what_was_due(store: SqlStore, clock: Clock) -> None:
    """Afterwards the contact waits for its turn, with what the look found counted."""
    put(store, signalled("a", NOW - HOUR, announced=0.5), visit("b"))
    settle(store, agenda_of(clock), look("a"), look("b"), finds={"a": Find(2)})
    found = kept(store)
    assert (found["a"].signal, found["a"].signalled_at, found["a"].announced) == (None, None, 0.0)
    assert (found["a"].last_visited_at, found["a"].last_changed_at) == (NOW, NOW)
    assert (found["a"].visits, found["a"].changes, found["a"].seen_changes) == (1, 2, 2.0)
    assert (found["b"].last_visited_at, found["b"].last_changed_at, found["b"].changes) == (NOW, None, 0)
    assert found["a"].rate > found["b"].rate
    assert found["a"].due_at >= NOW + BOUNDS.min_age


def test_a_signal_during_a_look_keeps_the_contact_due(store: SqlStore, clock: Clock) -> None:
    """News that came while a contact was being looked at are not lost: the look was older than they."""
    put(store, signalled("a", NOW))
    asked_at = clock.at
    clock.at += MINUTE
    agenda = agenda_of(clock)
    with store.transaction() as tx:
        agenda.signal(tx, ["notes"], {"a": visits.CHANGED_CONTACT})
    settle(store, agenda, look("a", asked_at))
    assert kept(store)["a"].signal == visits.CHANGED_CONTACT
    assert kept(store)["a"].last_visited_at == asked_at
    assert due(store, agenda) == ["a"]


def test_a_signal_of_a_clock_that_was_ahead_is_settled(store: SqlStore, clock: Clock) -> None:
    """What is dated in the future does not keep a contact due until then."""
    put(store, signalled("a", NOW + 9 * DAY))
    settle(store, agenda_of(clock), look("a"))
    assert kept(store)["a"].signal is None


def test_what_could_not_be_read_is_due_again_in_an_hour(store: SqlStore, clock: Clock) -> None:
    """It keeps the time of its last look, and learns nothing."""
    put(store, visit("a"))
    agenda = agenda_of(clock)
    settle(store, agenda, look("a", page=None, failure="broken"))
    assert kept(store)["a"].last_visited_at == NOW - DAY
    assert due(store, agenda, rolling=["notes"]) == []
    clock.at += HOUR
    assert due(store, agenda) == ["a"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12))
@settings(max_examples=25)
def test_no_signal_is_ever_lost(script: list[tuple[str, bool]]) -> None:
    """Whatever signals and looks come in whatever order: a contact signalled after a look began stays due."""
    store = SqlStore(f"sqlite:///{_folder()}/x.db")
    store.upgrade()
    clock = Clock()
    agenda = agenda_of(clock)
    began: dict[str, datetime] = {}
    news: dict[str, datetime] = {}
    put(store, *(visit(contact) for contact in "abc"))
    for contact, signals in script:
        clock.at += MINUTE
        if signals:
            with store.transaction() as tx:
                agenda.signal(tx, ["notes"], {contact: visits.CHANGED_CONTACT})
            news[contact] = clock.at
        elif contact in began:
            settle(store, agenda, look(contact, began.pop(contact)))
        else:
            began[contact] = clock.at
    for contact, visited in kept(store).items():
        noticed = news.get(contact)
        if noticed is not None and visited.last_visited_at is not None and visited.last_visited_at < noticed:
            assert visited.signal == visits.CHANGED_CONTACT
    store.close()


def _folder() -> str:
    import tempfile

    return tempfile.mkdtemp()


def test_a_deadline_is_a_signal_once(store: SqlStore, clock: Clock) -> None:
    """An open task that fell due since the last look makes its contact due; a done one, or an older one, does not."""
    for contact in ("due", "done", "tomorrow", "long due"):
        put(store, replace(visit(contact), stream="tasks"))
    write_task(store, "due", NOW - HOUR)
    write_task(store, "done", NOW - HOUR, completed=True)
    write_task(store, "tomorrow", NOW + DAY)
    write_task(store, "long due", NOW - 2 * DAY)
    agenda = agenda_of(clock)
    for _ in range(2):
        with store.transaction() as tx:
            agenda.deadlines(tx, [TASKS, NOTES])
    found = {id_: one.signal for id_, one in kept(store, "tasks").items()}
    assert found == {"due": visits.DEADLINE, "done": None, "tomorrow": None, "long due": None}
    assert kept(store, "tasks")["due"].announced == pytest.approx(0.5)


# -- what is learned ----------------------------------------------------------------------------------


def test_the_first_look_learns_from_dates(store: SqlStore, clock: Clock) -> None:
    """Records with a recent date tell a lively contact from a quiet one at once, and count as no changes."""
    put(store, *(signalled(id_, NOW, visits.NEW_CONTACT, last_visited_at=None) for id_ in ("lively", "quiet", "young")))
    finds = {"lively": Find(9, 9, 90.0), "quiet": Find(0, 0, 90.0), "young": Find(2, 2, 1.0)}
    settle(store, agenda_of(clock), look("lively"), look("quiet"), look("young"), finds=finds)
    found = kept(store)
    assert found["young"].rate > found["lively"].rate > found["quiet"].rate
    assert {one.changes for one in found.values()} == {0}


def sent(store: SqlStore) -> dict[str, Sent]:
    """What was counted of the reasons for visits."""
    with store.reading() as tx:
        return tx.sent("loc", "notes")


def test_signals_are_judged_by_what_visits_find(store: SqlStore, clock: Clock) -> None:
    """Each source by itself; visits by turn say what no signal had announced; first visits judge nobody."""
    put(store, signalled("a", NOW), signalled("b", NOW), signalled("c", NOW, visits.TOUCHED_CONTACT))
    put(store, visit("d"), visit("e"), signalled("f", NOW, visits.NEW_CONTACT, last_visited_at=None))
    agenda = agenda_of(clock)
    found = {"a": Find(1), "d": Find(3), "f": Find(5)}
    settle(store, agenda, *(look(id_) for id_ in "abcdef"), finds=found)
    counted = {
        visits.CHANGED_CONTACT: Sent(2, 1),
        visits.TOUCHED_CONTACT: Sent(1, 0),
        visits.BY_INDEX: Sent(2, 1),
    }
    assert sent(store) == counted
    again = agenda_of(clock)
    learn(store, again)
    assert again.trust("notes").by_reason == agenda.trust("notes").by_reason == counted


def test_rates_are_fitted_once_a_day_and_kept(store: SqlStore, clock: Clock) -> None:
    """A location's own mixture of quiet and lively contacts is learned, and a restart takes it up."""
    put(store, *(visit(f"q{n}", seen_days=60.0) for n in range(300)))
    put(store, *(visit(f"l{n}", seen_days=60.0, seen_changes=120.0) for n in range(30)))
    first = agenda_of(clock)
    learn(store, first)
    assert first.prior("notes").mean() == pytest.approx(30 * 2 / 330, rel=0.3)
    put(store, *(visit(f"q{n}", seen_days=60.0, seen_changes=60.0) for n in range(300)))
    clock.at += HOUR
    second = agenda_of(clock)
    learn(store, second)
    assert second.prior("notes") == first.prior("notes")
    clock.at += DAY
    learn(store, second)
    assert second.prior("notes").mean() > 2 * first.prior("notes").mean()
    with store.transaction() as tx:
        tx.connection.execute(text("DELETE FROM child_visits"))
    third = agenda_of(clock)
    learn(store, third)
    assert third.prior("notes") == second.prior("notes")


def test_the_first_fit_waits_for_the_first_visits_only(store: SqlStore, clock: Clock) -> None:
    """Right after the first pass a location is planned as its own; from then on it is studied once an hour."""
    agenda = agenda_of(clock)
    learn(store, agenda)
    assert agenda.prior("notes") == rates.gamma()
    put(store, *(visit(f"c{n}", seen_days=60.0, seen_changes=120.0) for n in range(300)))
    clock.at += MINUTE
    learn(store, agenda)
    assert agenda.prior("notes").mean() == pytest.approx(2, rel=0.3)
    clock.at += MINUTE
    with store.reading() as tx:
        assert agenda.study(tx, ["notes"], ["notes"]) is None


def test_what_comes_with_a_contact_is_no_change() -> None:
    """A note made at an import does not make a lively contact; what was made later does. A new contact is unknown."""
    made_at = {"new": NOW - MINUTE, "young": NOW - 10 * DAY - HOUR}
    dates = {"new": [0 * MINUTE, MINUTE], "young": [10 * DAY, 9 * DAY, -DAY], "old": [20 * DAY, 89 * DAY, 91 * DAY]}
    dates["young"].append(10 * DAY + HOUR)
    rows = [{"contact_id": id_, "created_at": NOW - age} for id_, ages in dates.items() for age in ages]
    rows += [{"contact_id": "old", "created_at": None}, {"contact_id": "stranger", "created_at": NOW}]
    found = histories(NOTES, Plan(inserts=tuple(rows)), made_at, ["new", "young", "old"], NOW)
    assert found == {"new": Find(0, 0, 0.0), "young": Find(0, 2, 10.0), "old": Find(0, 2, 90.0)}


def test_evidence_of_hours_is_told_in_parts_of_days(store: SqlStore) -> None:
    """Three changes in a few hours are not three changes in no time; what is much the same is one group."""
    seen = [(3.0, 0.304), (3.0, 0.296), (0.0, 0.001), (1.0, 2.04), (5.0, 44.7), (5.2, 45.3), (0.0, 0.0)]
    put(store, *(visit(f"c{n}", seen_changes=changes, seen_days=days) for n, (changes, days) in enumerate(seen)))
    with store.reading() as tx:
        found = {(one.changes, round(one.days, 6)): count for one, count in tx.evidence("loc", "notes")}
    assert found == {(3.0, 0.3): 2, (0.0, 0.01): 1, (1.0, 2.0): 1, (5.0, 45.0): 2}


def test_counts_of_delays_and_audits_add_up(store: SqlStore) -> None:
    """By day, stream and class."""

    def add(tx: Transaction) -> None:
        tx.add_delays("loc", "notes", NOW.date(), {8: 2, 16: 1})
        tx.add_audit("loc", "notes", NOW.date(), 5, 40, 1)

    with store.transaction() as tx:
        add(tx)
        add(tx)
        tx.connection.execute(
            insert(schema.sync_delays).values(
                location_id="loc", stream="notes", day=NOW.date() - DAY, within_seconds=8, changes=1
            )
        )
        delays = schema.sync_delays
        found = tx.connection.execute(select(delays.c.within_seconds, delays.c.changes).order_by(*delays.c)).all()
        assert [tuple(row) for row in found] == [(8, 1), (8, 4), (16, 2)]
        audit = tx.connection.execute(select(schema.sync_audits)).one()
        assert tuple(audit)[3:] == (10, 80, 2)
