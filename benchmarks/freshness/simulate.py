"""Keeps a simulated account fresh in virtual time, with the product's own planner: nothing of it is copied here.

What the engine and the store do around the planner is done here in memory: visits that a signal announced first,
as far as `signalled_visits` allows, then the rolling visits, at the pace of `visits_a_second`, that `pick` chooses.
"""

import heapq
import random
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Literal

from scenarios import World

from rankr_sync import pacing, rates, visits

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SHARE = 0.45
"""Of the day's quota for visits, so that 200,000 requests buy 90,000."""


@dataclass(frozen=True)
class Policy:
    """What is believed of the contacts, and which signals come."""

    name: str
    knows: Literal["nothing", "learns", "dates", "rates"] = "nothing"
    """Nothing: all are alike, so that the longest waiting is next. Learns from visits; from these and the dates of
    the records found at the first one; or is told the true rates."""
    recall: float = 0.0
    false_a_month: float = 0.0
    """Signals without a change, a contact and month."""


ROUND_ROBIN = Policy("round robin")
SIGNALS_ONLY = Policy("signals 0.9, else round robin", recall=0.9)
FROM_VISITS = Policy("rates learned from visits alone", "learns")
LEARNED = Policy("rates learned, with dates of records", "dates")
HALF = Policy("learned, signals with recall 0.5", "dates", recall=0.5)
MOST = Policy("learned, signals with recall 0.9", "dates", recall=0.9)
NOISY = Policy("the same, a false signal a contact a month", "dates", recall=0.9, false_a_month=1.0)
KNOWN = Policy("rates known (bound)", "rates")

POLICIES = (ROUND_ROBIN, SIGNALS_ONLY, FROM_VISITS, LEARNED, HALF, MOST, NOISY, KNOWN)


@dataclass
class Result:
    """What a policy achieved: delays from change to visit in days, and what was spent."""

    policy: Policy
    delays: list[float]
    special: list[float]
    """Delays of a campaign's or an import's changes; `delays` has them too."""
    first_looks: list[float]
    """How long contacts that arrived waited for their first visit."""
    oldest: float
    """Days since the last look, the longest that any contact ever waited after the warm-up."""
    used: float
    """Visits made, of those that the quota buys."""
    recall: float
    prior: rates.Prior

    @property
    def mean(self) -> float:
        """The score: mean delay in hours."""
        return 24 * sum(self.delays) / len(self.delays)

    def quantile(self, share: float) -> float:
        """The delay in hours that so many changes do not exceed."""
        ordered = sorted(self.delays)
        return 24 * ordered[min(int(share * len(ordered)), len(ordered) - 1)]


@dataclass
class Simulation:
    """One policy in one world. `run` it once."""

    world: World
    policy: Policy
    tick: float = 60.0
    bounds: visits.Bounds = field(default_factory=visits.Bounds)
    first_prior: rates.Prior = field(default_factory=rates.gamma)
    seed: int = 1

    def __post_init__(self) -> None:
        total = len(self.world.rates)
        self.chance = random.Random(self.seed)
        self.now = START
        self.counted_from = START + self.world.warm_up * DAY
        self.true_rates = list(self.world.rates)
        self.prior = self.first_prior
        self.evidence = [rates.Evidence()] * total
        self.rates = [0.0] * total
        self.unseen: list[list[float]] = [[] for _ in range(total)]
        self.arrived = {who: at for at, who in self.world.arrivals}
        self.to_see = sum(self._counts(moment) for moment, _ in self.world.changes)
        self.sent: dict[str, visits.Sent] = {}
        self.trust = visits.Trust(self.sent)
        self.announced: dict[int, float] = {}
        self.signalled: list[tuple[datetime, int]] = []
        self.price = 0.01
        self.bought = self.made = 0.0
        self.result = Result(self.policy, [], [], [], 0.0, 0.0, 0.0, self.prior)
        self.hurried, self.hurried_at = self.bounds, START
        self.older: dict[timedelta, int] = {}
        self._first_pass()

    def _counts(self, moment: float) -> bool:
        return self.world.warm_up <= moment < self.world.days

    def _counted_now(self) -> bool:
        return self._counts((self.now - START) / DAY)

    # -- the account ---------------------------------------------------------------------------------

    def _first_pass(self) -> None:
        """The backfill, just over, has seen every contact once, in an order of its own."""
        contacts = self.world.contacts
        a_pass = contacts / self.world.visits_a_day[0][1]
        seen = sorted(((START - DAY * a_pass * self.chance.random()), who) for who in range(contacts))
        if self.policy.knows == "dates":
            for who in range(contacts):
                self.evidence[who] = rates.from_history(self.world.dated[who], self.world.history)
            self._fit()
        self.last_visit: dict[int, datetime] = {who: at for at, who in seen}
        self.steps: dict[visits.Step, OrderedDict[int, datetime]] = {}
        for at, who in seen:
            self._wait(who, at)

    def _believe(self, who: int) -> float:
        if self.policy.knows == "nothing":
            return rates.step_of(rates.USUAL)
        if self.policy.knows == "rates":
            return rates.step_of(self.true_rates[who])
        return self.prior.rate(self.evidence[who])

    def _fit(self) -> None:
        seen = Counter(rates.rounded(one) for one in self.evidence if one.days)
        self.prior = rates.fit(seen.items(), self.first_prior)

    def _wait(self, who: int, since: datetime) -> None:
        self.rates[who] = self._believe(who)
        self.steps.setdefault(("notes", self.rates[who]), OrderedDict())[who] = since

    # -- one day after the other -----------------------------------------------------------------------

    def run(self) -> Result:
        """All days that count, and on until every change in them was seen."""
        changes, arrivals, shifts = iter(self.world.changes), iter(self.world.arrivals), iter(self.world.shifts)
        change, arrival, shift = next(changes, None), next(arrivals, None), next(shifts, None)
        left, fraction, reset_at = 0.0, 0.0, START
        seconds = timedelta(seconds=self.tick)
        others = self.world.others_a_day * self.tick / 86_400
        while self.to_see or self.now < START + self.world.days * DAY:
            if self.now >= reset_at:
                limit = [many for since, many in self.world.visits_a_day if START + since * DAY <= self.now][-1] / SHARE
                left, reset_at = limit, reset_at + DAY
                if self.policy.knows in {"learns", "dates"} and self.now > START:
                    self._fit()
            until_reset = (reset_at - self.now).total_seconds()
            self.now += seconds
            left -= others
            if self._counted_now():
                self.bought += limit * SHARE * self.tick / 86_400
            today = (self.now - START) / DAY
            while shift and shift[0] <= today:
                self.true_rates[shift[1]] = shift[2]
                shift = next(shifts, None)
            while arrival and arrival[0] <= today:
                heapq.heappush(self.signalled, (START + arrival[0] * DAY, arrival[1]))
                arrival = next(arrivals, None)
            while change and change[0] <= today:
                self._change(*change)
                change = next(changes, None)
            for _ in range(self._false_signals()):
                self._signal(self.chance.choice(list(self.last_visit)), self.now)
            if any(since <= today < until for since, until in self.world.outages):
                continue
            burst = max(1, int(10 * self.tick * self.world.contacts / 100_000)) if self.world.contacts > 2000 else 600
            day = pacing.DayBudget(int(limit), int(left), until_reset)
            kept = visits.kept_a_day(len(self.last_visit), limit * SHARE, self.bounds)
            in_time = self.hurried.max_age == self.bounds.max_age
            a_pass = len(self.last_visit) / (self.bounds.max_age / DAY)
            count = min(burst, pacing.signalled_visits(day, SHARE, a_pass if in_time else kept))
            done = self._visit_signalled(count)
            left, burst = left - done, burst - done
            pace = pacing.visits_a_second(pacing.DayBudget(int(limit), int(left), until_reset), SHARE)
            if self.now >= self.hurried_at + timedelta(hours=1) or self.now - seconds == START:
                self.older, self.hurried_at = self._count_older(kept), self.now
            self.hurried = visits.in_time(self.older, kept, pace * 86_400, self.bounds)
            fraction += pace * self.tick
            count = min(burst, int(fraction))
            fraction -= int(fraction)
            if count > 0:
                left -= self._visit_by_index(count)
        ages = [(self.now - at) / DAY for at in self.last_visit.values()]
        self.result.oldest = max(self.result.oldest, *ages)
        self.result.used = self.made / self.bought
        self.result.recall, self.result.prior = self.trust.recall, self.prior
        return self.result

    def _change(self, moment: float, who: int) -> None:
        self.unseen[who].append(moment)
        if self.policy.recall and self.chance.random() < self.policy.recall:
            self._signal(who, START + moment * DAY)

    def _signal(self, who: int, at: datetime) -> None:
        if who not in self.last_visit:
            return  # a new contact, which is due already
        last = self.last_visit[who]
        worth = visits.worth_of_signal(at - last, self.trust.precision(visits.CHANGED_CONTACT))
        self.announced[who] = self.announced.get(who, 0.0) + worth
        due_at = self.now
        if self.policy.knows != "nothing":
            due_at = visits.due_after_signal(
                self.now, last, self.price, self.rates[who], self.trust.recall, self.announced[who]
            )
        heapq.heappush(self.signalled, (due_at, who))

    def _false_signals(self) -> int:
        if not self.policy.false_a_month:
            return 0
        expected = self.policy.false_a_month / 30 * len(self.last_visit) * self.tick / 86_400
        return int(expected) + (self.chance.random() < expected % 1)

    # -- visits ----------------------------------------------------------------------------------------

    def _visit_signalled(self, count: int) -> int:
        done = 0
        while done < count and self.signalled and self.signalled[0][0] <= self.now:
            _, who = heapq.heappop(self.signalled)
            if who in self.announced or who not in self.last_visit:  # else it was visited meanwhile
                self._visit(who)
                done += 1
        return done

    def _visit_by_index(self, count: int) -> int:
        heads = {step: next(iter(waiting.values())) for step, waiting in self.steps.items() if waiting}

        def fetch(before: Mapping[visits.Step, datetime]) -> list[visits.Waiting]:
            found = []
            for step, until in before.items():
                for who, since in islice(self.steps[step].items(), count):
                    if since > until:
                        break
                    found.append(visits.Waiting(step[0], who, since, step[1]))  # type: ignore[arg-type]
            return found

        recall = {"notes": self.trust.recall}
        chosen, price = visits.pick(heads, fetch, self.now, count, self.price, recall, self.hurried)
        self.price = price if len(chosen) == count else visits.LOWEST_PRICE
        for one in chosen:
            self._visit(one.contact_id)  # type: ignore[arg-type]
        return len(chosen)

    def _count_older(self, kept: float) -> dict[timedelta, int]:
        """How many are older than each age that matters, as the store counts once an hour."""
        ages = visits.ages_to_count(len(self.last_visit), kept, self.bounds)
        older = dict.fromkeys(ages, 0)
        for waiting in self.steps.values():
            for since in waiting.values():
                if self.now - since <= ages[0]:
                    break  # the others of this step are younger
                for age in ages:
                    older[age] += self.now - since > age
        return older

    def _visit(self, who: int) -> None:
        found, last = len(self.unseen[who]), self.last_visit.get(who)
        self._count(who, last)
        self.unseen[who].clear()
        if last is not None:  # else what came with it tells nothing of later changes
            self.steps["notes", self.rates[who]].pop(who, None)
            reason = visits.CHANGED_CONTACT if who in self.announced else visits.BY_INDEX
            sent = self.sent.get(reason, visits.Sent())
            self.sent[reason] = visits.Sent(sent.visits + 1, sent.found + (found > 0))
            self.evidence[who] = self.evidence[who].after((self.now - last) / DAY, found)
        self.announced.pop(who, None)
        self.last_visit[who] = self.now
        self._wait(who, self.now)

    def _count(self, who: int, last: datetime | None) -> None:
        today = (self.now - START) / DAY
        if self._counted_now():
            self.made += 1
        if self.now >= self.counted_from and last is not None:
            self.result.oldest = max(self.result.oldest, (self.now - last) / DAY)
        for moment in self.unseen[who]:
            if self._counts(moment):
                self.to_see -= 1
                self.result.delays.append(today - moment)
                if (moment, who) in self.world.special:
                    self.result.special.append(today - moment)
        if last is None:
            self.result.first_looks.append(today - self.arrived[who])
