"""The agenda of one location: which visits to make next, and what each look teaches.

The arithmetic is in `visits`, `rates` and `pacing`; here the store is asked and told. Everything is kept in tables, so
a restart forgets nothing and is owed nothing.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rankr_sync import rates, visits
from rankr_sync.freshness import within_seconds
from rankr_sync.model import JsonObject, Known, Look, Plan, Row, Visit
from rankr_sync.pacing import Allowance, DayBudget, signalled_visits, visits_a_second
from rankr_sync.rates import Evidence, Prior
from rankr_sync.streams import Stream
from rankr_sync.visits import DAY, Bounds, Sent, Trust

if TYPE_CHECKING:
    from rankr_sync.engine.context import Transaction

AT_ONCE = 1000
"""So many visits are handed out in one go."""

BOUGHT_EVERY = timedelta(seconds=5)
"""So often the budget buys visits: the fewer purchases, the less work, and changes wait for hours anyway."""

LEARNED_EVERY = timedelta(hours=1)

FADING = 0.5 ** (1 / 30)
"""What signals were worth counts half after thirty days."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What all visits of a location together say; see `Agenda.study`."""

    at: datetime
    contacts: int
    """How many have their turn by index, times the streams for which they are visited."""
    kept: float
    """Visits a day that are kept for the bound on age."""
    older: Mapping[timedelta, int]
    """How many contacts were last visited longer ago than each of these ages."""
    priors: Mapping[str, Prior]
    fitted: Mapping[str, bool]
    """The streams whose prior is new, and whether there was one before."""
    complete: bool
    """Whether all that is visited in turn has been seen, so that each prior is fitted."""


class Agenda:
    """What is to be visited at one location. Used in the store's thread only, but for `study`."""

    def __init__(
        self,
        location_id: str,
        *,
        bounds: Bounds,
        share: float,
        day: Callable[[], DayBudget],
        now: Callable[[], datetime],
    ) -> None:
        self._location_id = location_id
        self._bounds = bounds
        self._share = share
        self._day = day
        self._now = now
        self._priors: dict[str, Prior] = {}
        self._trust: dict[str, Trust] = {}
        self._price = 0.0
        self._allowance = Allowance()
        self._kept_turns: JsonObject | None = None
        self._kept = self._a_pass = 0.0
        self._older: Mapping[timedelta, int] = {}
        self._learned_at: datetime | None = None
        self._learned_all = False

    # -- what was learned ------------------------------------------------------------------------------

    def study(self, tx: "Transaction", streams: Sequence[str], rolling: Sequence[str] = ()) -> Lesson | None:
        """Count who comes near the bound on age, once an hour; once a day, fit anew how many contacts change how often.
        The first fit waits for nothing but the first visits: until then a location is planned like any other.

        Reads every visit, which takes seconds where there are a million, and changes nothing: to be called beside
        the store's thread, in a transaction of its own. None: it is too early.
        """
        now = self._now()
        lately = self._learned_at is not None and timedelta(0) <= now - self._learned_at < LEARNED_EVERY
        if lately and self._learned_all:
            return None
        priors, fitted, complete = {}, {}, True
        for stream in streams:
            stored = tx.setting(self._prior_key(stream))
            fitted_at = datetime.fromisoformat(stored["fitted_at"]) if stored else None
            priors[stream] = Prior(tuple(stored["shares"])) if stored else rates.gamma()
            if fitted_at is None or not timedelta(0) <= now - fitted_at < DAY:
                seen = tx.evidence(self._location_id, stream)
                if seen:
                    priors[stream] = rates.fit(seen, rates.gamma())
                    fitted[stream] = fitted_at is not None
                complete = complete and (bool(seen) or fitted_at is not None or stream not in rolling)
        total = tx.count_rolling(self._location_id, rolling)
        kept = visits.kept_a_day(total, self._share * self._day().limit, self._bounds)
        ages = visits.ages_to_count(total, kept, self._bounds)
        _, older = tx.count_visits(self._location_id, rolling, [now - age for age in ages])
        return Lesson(now, total, kept, dict(zip(ages, older, strict=True)), priors, fitted, complete)

    def learn(self, tx: "Transaction", lesson: Lesson) -> None:
        """Plan with what a lesson says from now on, and keep it."""
        self._learned_at, self._learned_all = lesson.at, lesson.complete
        self._kept, self._a_pass = lesson.kept, lesson.contacts / (self._bounds.max_age / DAY)
        self._older = lesson.older
        for stream, prior in lesson.priors.items():
            if stream in lesson.fitted:
                kept = {"shares": prior.shares, "fitted_at": lesson.at.isoformat()}
                tx.save_setting(self._prior_key(stream), kept, lesson.at)
                if lesson.fitted[stream]:
                    tx.fade_sent(self._location_id, stream, FADING)
            self._priors[stream] = prior
            self._trust[stream] = Trust(tx.sent(self._location_id, stream))

    def _prior_key(self, stream: str) -> str:
        return f"rates:{self._location_id}:{stream}"

    def prior(self, stream: str) -> Prior:
        """How many of the location's contacts change how often, as far as it was learned."""
        return self._priors.get(stream) or rates.gamma()

    def trust(self, stream: str) -> Trust:
        """How well signals foretold changes of this stream so far."""
        return self._trust.get(stream) or Trust()

    # -- what to visit ---------------------------------------------------------------------------------

    def due(
        self,
        tx: "Transaction",
        streams: Sequence[str],
        begun: Mapping[str, datetime],
        in_hand: Collection[tuple[str, str]],
        *,
        rolling: Sequence[str] = (),
    ) -> list[Visit]:
        """What to visit now: what a signal made due, what is left of the passes that have `begun`, and of the
        `rolling` streams as much as the day's budget buys, the highest index first. Nothing that is `in_hand`.
        """
        now = self._now()
        self._recall_turns(tx)
        room, bounds = AT_ONCE, self._hurried()
        if rolling:
            kept_a_day = self._a_pass if bounds.max_age == self._bounds.max_age else self._kept
            # What is in hand was not yet sent, so the day does not know of it.
            room = max(0, min(room, signalled_visits(self._day(), self._share, kept_a_day) - len(in_hand)))
        waiting = tx.signalled_visits(self._location_id, streams, now, room + len(in_hand))
        found = [one for one in waiting if (one.stream, one.contact_id) not in in_hand][:room]
        for stream, since in begun.items():
            found += tx.unvisited(self._location_id, stream, since, now, AT_ONCE + len(in_hand))
        fresh = {(one.stream, one.contact_id): one for one in found if (one.stream, one.contact_id) not in in_hand}
        bought = self._bought(tx, rolling, now, bounds, fresh.keys() | set(in_hand)) if rolling else []
        # What is bought is paid for: however many signals wait, it is not put off.
        return [*list(fresh.values())[: max(0, AT_ONCE - len(bought))], *bought]

    def _hurried(self) -> Bounds:
        """The bounds to plan with now: if too many would come too late, the oldest go first in time."""
        if not self._older:
            return self._bounds
        pace = visits_a_second(self._day(), self._share) * 86_400
        return visits.in_time(self._older, self._kept, pace, self._bounds)

    def _bought(
        self,
        tx: "Transaction",
        streams: Sequence[str],
        now: datetime,
        bounds: Bounds,
        taken: Collection[tuple[str, str]],
    ) -> list[Visit]:
        """As many visits as the budget allows by now, those that are worth most."""
        bought_at = self._allowance.at
        if bought_at is not None and timedelta(0) <= now - bought_at < BOUGHT_EVERY:
            return []
        self._allowance = self._allowance.grown(now, visits_a_second(self._day(), self._share))
        # Shortly before the reset the pace of a minute is more than what is left; what is taken was not yet sent.
        count = min(int(self._allowance.visits), signalled_visits(self._day(), self._share, 0.0) - len(taken))
        if count < 1:
            return []
        room = count + len(taken)
        picked, price = visits.pick(
            tx.visit_heads(self._location_id, streams),
            lambda before: tx.waiting_visits(self._location_id, before, room),
            now,
            room,
            self._price,
            {stream: self.trust(stream).recall for stream in streams},
            bounds,
        )
        fresh = [one for one in picked if (one.stream, one.contact_id) not in taken][:count]
        self._allowance = replace(self._allowance, visits=self._allowance.visits - len(fresh))
        # With more budget than work a visit costs nothing, and signals are followed at once.
        self._price = price if len(fresh) == count else visits.LOWEST_PRICE
        return [Visit(one.stream, one.contact_id, now, visits.BY_INDEX, one.last_visited_at) for one in fresh]

    # Price and allowance go with what the visits found, in one transaction: a restart goes on where this process was.

    def _recall_turns(self, tx: "Transaction") -> None:
        if self._kept_turns is not None:
            return
        self._kept_turns = tx.setting(self._turns_key) or {}
        if self._kept_turns:
            self._price = self._kept_turns["price"]
            self._allowance = Allowance(self._kept_turns["visits"], datetime.fromisoformat(self._kept_turns["at"]))

    def _save_turns(self, tx: "Transaction", now: datetime) -> None:
        if self._allowance.at is None:
            return  # this process bought nothing
        turns = {"price": self._price, "visits": self._allowance.visits, "at": self._allowance.at.isoformat()}
        if turns != self._kept_turns:
            tx.save_setting(self._turns_key, turns, now)
            self._kept_turns = turns

    @property
    def _turns_key(self) -> str:
        return f"turns:{self._location_id}"

    # -- what signals and looks say --------------------------------------------------------------------

    def signal(self, tx: "Transaction", streams: Sequence[str], signals: Mapping[str, str]) -> None:
        """Note what was noticed of contacts (id -> what), so that their children are looked at in time.

        A look that was asked for before this does not settle it.
        """
        now = self._now()
        if not signals:
            return
        self._recall_turns(tx)
        for stream in streams:
            known = tx.visits_of(self._location_id, stream, list(signals))
            changed = [self._noticed(stream, id_, what, known.get(id_), now) for id_, what in signals.items()]
            tx.put_visits(self._location_id, changed)

    def add_missing(self, tx: "Transaction", stream: str) -> None:
        """Make the living contacts due that were never visited for this stream."""
        tx.add_missing_visits(self._location_id, stream, self._now(), self.prior(stream).rate(Evidence()))

    def _noticed(self, stream: str, contact_id: str, what: str, old: Visit | None, now: datetime) -> Visit:
        if old is None:
            old = Visit(stream, contact_id, now, what, rate=self.prior(stream).rate(Evidence()))
        if old.last_visited_at is None and what in visits.LEARNED_FROM:
            what = visits.NEW_CONTACT
        if old.last_visited_at is None or what not in visits.LEARNED_FROM:
            return _beside(old, replace(old, due_at=now, reason=what, signal=what, signalled_at=now))
        precision = self.trust(stream).precision(what)
        announced = old.announced + visits.worth_of_signal(now - old.last_visited_at, precision)
        due_at = visits.due_after_signal(
            now,
            old.last_visited_at,
            self._price,
            old.rate,
            self.trust(stream).recall,
            announced,
            self._bounds.max_age,
        )
        new = replace(old, due_at=due_at, reason=what, signal=what, signalled_at=now, announced=announced)
        return _beside(old, new)

    def deadlines(self, tx: "Transaction", streams: Sequence[Stream]) -> None:
        """Notice the records whose time came since their contact's last visit: they are likely to be changed."""
        now = self._now()
        for stream in streams:
            passed = tx.passed_deadlines(stream, self._location_id, now - DAY, now)
            self.signal(tx, [stream.name], dict.fromkeys(passed, visits.DEADLINE))

    def settle(
        self,
        tx: "Transaction",
        stream: Stream,
        looks: Sequence[Look],
        known: Mapping[str, Visit],
        finds: Mapping[str, "Find"],
    ) -> None:
        """After looks at contacts of one stream: what they taught, and when each contact has its turn again.

        `known` are their visits as read in this transaction, by contact.
        """
        now = self._now()
        self._recall_turns(tx)
        counted: dict[str, Sent] = {}
        settled = []
        for look in looks:
            visit = known.get(look.contact_id)
            if visit is None:
                continue  # the contact is gone
            if look.failure is not None:
                due_at = look.asked_at + visits.POSTPONED_FOR
                settled.append(replace(visit, due_at=due_at, reason=visits.POSTPONED, signal=visits.POSTPONED))
                continue
            find = finds.get(look.contact_id, Find())
            # A signal dated in the future is of a clock that was set back since, and older than this look.
            newer = visit.signalled_at is not None and look.asked_at < visit.signalled_at <= now
            settled.append(self._looked(stream.name, visit, look.asked_at, find, newer))
            if visit.last_visited_at is not None and (newer or visit.signal in (None, *visits.LEARNED_FROM)):
                reason = visits.BY_INDEX if newer or visit.signal is None else visit.signal
                sent = counted.get(reason, Sent())
                counted[reason] = Sent(sent.visits + 1, sent.found + (find.changes > 0))
        tx.save_visits(self._location_id, settled)
        self._count(tx, stream.name, counted)
        self._save_turns(tx, now)

    def _looked(self, stream: str, visit: Visit, asked_at: datetime, find: "Find", newer: bool) -> Visit:
        last = visit.last_visited_at
        if last is None:
            evidence = rates.from_history(find.dated, find.days) if find.days else Evidence()
        else:
            days = max((asked_at - last) / DAY, 0.0)
            evidence = Evidence(visit.seen_changes, visit.seen_days).after(days, find.changes)
        rate = self.prior(stream).rate(evidence)
        due_at, reason = visits.due_after_visit(asked_at, self._price, rate, self.trust(stream).recall, self._bounds)
        changed = last is not None and find.changes > 0
        seen = replace(
            visit,
            last_visited_at=asked_at,
            last_changed_at=asked_at if changed else visit.last_changed_at,
            visits=visit.visits + 1,
            changes=visit.changes + (find.changes if changed else 0),
            rate=rate,
            seen_changes=evidence.changes,
            seen_days=evidence.days,
        )
        if newer:
            return seen
        return replace(seen, due_at=due_at, reason=reason, signal=None, signalled_at=None, announced=0.0)

    def _count(self, tx: "Transaction", stream: str, counted: Mapping[str, Sent]) -> None:
        tx.add_sent(self._location_id, stream, counted)
        trust = dict(self.trust(stream).by_reason)
        for reason, sent in counted.items():
            before = trust.get(reason, Sent())
            trust[reason] = Sent(before.visits + sent.visits, before.found + sent.found)
        self._trust[stream] = Trust(trust)


@dataclass(frozen=True, slots=True)
class Find:
    """What a look at a contact found: records that changed since the last look; and, at the first one, records that
    carry a date of the last so many `days`.
    """

    changes: int = 0
    dated: int = 0
    days: float = 0.0


def found_in(plan: Plan, known: Mapping[str, Known]) -> Counter[str]:
    """How many records of each contact the plan changes."""
    owners = [row.get("contact_id") for row in (*plan.inserts, *plan.updates)]
    owners += [known[id_].contact_id for id_ in plan.tombstones if id_ in known]
    return Counter(owner for owner in owners if owner is not None)


def delays(stream: Stream, plan: Plan, looked: Callable[[Row], tuple[datetime | None, datetime]]) -> Counter[int]:
    """The detection delays of what the plan changes: of each record that carries the time of its own change.

    `looked` tells of a row when the store was last known to have it as it was, and when it was asked for now;
    a change before that is none that this look has found.
    """
    counted: Counter[int] = Counter()
    for column, rows in ((stream.changed_at or stream.made_at, plan.inserts), (stream.changed_at, plan.updates)):
        for row in rows if column else ():
            at, (since, asked_at) = row.get(column or ""), looked(row)
            if isinstance(at, datetime) and since is not None and since < at:
                counted[within_seconds(asked_at - at)] += 1
    return counted


def histories(
    stream: Stream, plan: Plan, made_at: Mapping[str, datetime], contact_ids: Sequence[str], now: datetime
) -> dict[str, Find]:
    """What first looks at these contacts tell of the time before them: records by the date they were made.

    `made_at`: when the contacts were made, so that a new one is not taken for a quiet one, nor what came with it
    for the first of many changes.
    """
    if stream.made_at is None:
        return {}
    earliest, arrival = now - timedelta(days=rates.HISTORY_DAYS), timedelta(days=rates.ARRIVAL_DAYS)
    since = {id_: max(earliest, made_at[id_] + arrival) if id_ in made_at else earliest for id_ in contact_ids}
    dated = Counter(
        owner
        for row in plan.inserts
        if (owner := row.get("contact_id")) in since
        and isinstance(at := row.get(stream.made_at), datetime)
        and since[owner] <= at <= now
    )
    return {id_: Find(0, dated[id_], max((now - since[id_]) / DAY, 0.0)) for id_ in contact_ids}


def _beside(old: Visit, new: Visit) -> Visit:
    """A signal beside one that waits: the earlier due time stays, or who is signalled again and again would never have
    his turn; and so does a signal that must be followed, when one comes that only may.
    """
    if old.signal is None:
        return new
    must = old.signal not in visits.LEARNED_FROM and new.signal in visits.LEARNED_FROM
    kept = old if must else new
    return replace(new, due_at=min(old.due_at, new.due_at), signal=kept.signal, reason=kept.reason)
