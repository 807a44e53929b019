"""The rate budget of one location: how many requests may be sent, and when. Pure: `now` is an argument.

Times are seconds of a monotonic clock. What waits and what sends lives in `highlevel`.

Why no 429 can happen by our own doing: the server counts a request at some moment between our sending it
and its answer, and forgets it one interval later. Here a request counts from its sending until one
interval after its *answer*. So whatever window the server uses, sliding or fixed, it never sees more than
`limit` of our requests in it.
"""

import re
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

RESERVES = (0.0, 0.01, 0.05)
"""The shares of the day's quota that people who wait, listings and visits leave to the more urgent."""

_SPEC = re.compile(r"\s*(\d+)\s*/\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)?\s*\Z")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` in any `seconds`."""

    requests: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> "RateLimit | None":
        """Read `100/10s`; `none` is no limit. Raises ValueError with the expected form."""
        if text.strip().lower() == "none":
            return None
        match = _SPEC.match(text)
        if match is None or int(match[1]) < 1 or float(match[2]) <= 0:
            raise ValueError(f"{text!r} is not a rate such as 100/10s")
        return cls(int(match[1]), float(match[2]) * _UNITS[match[3]])


@dataclass(frozen=True, slots=True)
class RateHeaders:
    """What an answer said of the limits; every field is optional (only the names are documented)."""

    limit: int | None = None
    remaining: int | None = None
    interval: float | None = None
    daily_limit: int | None = None
    daily_remaining: int | None = None
    daily_reset: float | None = None
    """Seconds until the daily counter resets (undocumented header, in the recordings of 2026-07-17)."""


class RateBudget:
    """Decides whether one more request may be sent now.

    `taken` requests of an earlier process are assumed to count for one more interval, so that a restart
    does not start with a full burst it does not have. Until the first answer has told what is left,
    one request at a time is allowed: it asks how things stand.
    """

    def __init__(
        self,
        limit: RateLimit | None,
        *,
        now: float,
        taken: int = 0,
        daily_remaining: int | None = None,
        daily_reset_at: float | None = None,
    ) -> None:
        self.limit = limit
        self.daily_limit: int | None = None
        self.daily_remaining = daily_remaining
        self.daily_reset_at = daily_reset_at
        self.throttled = 0
        self.sent = 0
        self.in_flight = 0
        self.lent = 0
        self._kept_to: int | None = None
        self._sent_at: deque[float] = deque()
        self._answers: deque[float] = deque()
        self._forgotten: deque[float] = deque()
        self._told = False
        self._day_told_at = now
        self._share = 1.0
        self._share_grows_at = now
        self._blocked_until = now
        self._others: deque[tuple[float, int]] = deque()
        self.take_over(now, taken)

    # -- asking ----------------------------------------------------------------------------------------

    def take(self, now: float, *, reserve: int = 0) -> float | None:
        """Take a slot. 0.0: taken, send now. A number: ask again in so many seconds. None: ask after an answer.

        `reserve` requests of the day are left to others that are more urgent.
        """
        wait = self._day_wait(now, reserve)
        if wait > 0:
            return wait
        if now < self._blocked_until:
            return self._blocked_until - now
        self._forget_old(now)
        used = self._used()
        first = not self._told and self.in_flight > 0
        if used < self._allowed(now) and not first:
            self.in_flight += 1
            self.sent += 1
            self._sent_at.append(now)
            return 0.0
        return self._next_free(now)

    def used(self, now: float) -> int:
        """Requests that count against the burst limit at `now`, ours and others'."""
        self._forget_old(now)
        return self._used()

    @property
    def borrowed(self) -> bool:
        """Whether only slots of a loan are ours: how many of the others are free, the lender alone knows."""
        return self._kept_to is not None

    def day_spent(self, now: float, reserve: int = 0) -> bool:
        """Whether nothing beyond `reserve` is left until the daily reset."""
        return self._day_wait(now, reserve) > 0

    # -- several processes -----------------------------------------------------------------------------

    def know_day(self, remaining: int, reset_at: float) -> None:
        """What another process was told of the day."""
        if self.daily_remaining is None or remaining < self.daily_remaining:
            self.daily_remaining, self.daily_reset_at = remaining, reset_at

    def take_over(self, now: float, taken: int, margin: float = 0.0) -> None:
        """So many requests of a process before this one count for one more interval, which begins in `margin`."""
        if taken and self.limit is not None:
            self._leave_to_others(now + margin, taken)

    def lend(self, wanted: int, *, at_once: bool = False) -> int:
        """Keep slots for another process: as many as it wants, but no more than half of the limit in all.

        They count at once, as if they were in flight, until `take_back`. Returns how many; 0: not now.
        `at_once`: it has them already, of the process that sent before this one.
        """
        slots = wanted
        if self.limit is not None and not at_once:
            most = max(1, self.limit.requests // 2)
            slots = min(wanted, most)
            if self.lent + slots > most:
                return 0
        self.lent += slots
        return slots

    def may_use_loans(self, now: float) -> bool:
        """Whether all that is lent has become free: with it, no more counts than the limit allows."""
        if now < self._blocked_until:
            return False
        return self.limit is None or self.used(now) <= self.limit.requests

    def take_back(self, now: float, slots: int) -> None:
        """What was lent has been used by now, and counts for one more interval like our own requests."""
        self._forget_old(now)
        self.lent -= slots
        if self.limit is not None:
            self._answers.extend([now] * slots)

    def keep_to(self, slots: int | None) -> None:
        """Only so many slots are ours, by a loan: all others are the lender's. What was taken before is its affair.

        None: the loan is over.
        """
        if slots is not None:
            self._others.clear()
        self._kept_to = slots

    # -- being told ------------------------------------------------------------------------------------

    def answered(self, now: float, told: RateHeaders | None = None) -> None:
        """A request ended, with the headers of its answer (None when no answer came)."""
        self._forget_old(now)
        sent_at = self._sent_at.popleft()
        ours = self._ours_at(sent_at)
        self.in_flight -= 1
        if self.daily_remaining is not None and (told is None or told.daily_remaining is None):
            self.daily_remaining -= 1
        if told is not None:
            self._told = True
            self._learn_limit(told)
            self._learn_day(now, told, sent_at)
        if self.limit is not None:
            self._answers.append(now)
        if told is None:
            return
        if self.limit is None or told.remaining is None:
            return
        unexplained = self.limit.requests - told.remaining - ours
        if unexplained > 0:
            # Someone else uses the same bucket: leave them what they took, for as long as it counts.
            self._leave_to_others(now, unexplained)

    def refused(self, now: float, retry_after: float | None) -> None:
        """A 429 came all the same: wait what is asked (else one interval), and go on at half the pace."""
        self.throttled += 1
        interval = self.limit.seconds if self.limit else 1.0
        if now >= self._blocked_until:
            # Answers already on the way when the first 429 came belong to the same incident.
            self._share = max(self._share / 2, 0.05)
        self._blocked_until = max(self._blocked_until, now + (retry_after if retry_after else interval))
        self._share_grows_at = self._blocked_until + interval

    # -- inside ----------------------------------------------------------------------------------------

    def _ours_at(self, sent_at: float) -> int:
        """How many of our requests the server may have counted in an answer to one that was sent then.

        By the time of the answer we may have forgotten some that it still saw: these are no foreign use.
        """
        seconds = self.limit.seconds if self.limit is not None else 0.0
        while self._forgotten and self._forgotten[0] + seconds <= sent_at:
            self._forgotten.popleft()
        return self.in_flight + self.lent + len(self._answers) + len(self._forgotten)

    def _used(self) -> int:
        return self.in_flight + self.lent + len(self._answers) + self._foreign()

    def _foreign(self) -> int:
        seen = self._others[0][1] if self._others else 0
        if self._kept_to is None or self.limit is None:
            return seen
        return max(seen, self.limit.requests - self._kept_to)

    def _leave_to_others(self, now: float, requests: int) -> None:
        # What was larger and earlier counts until its own end, what was smaller is covered by this.
        assert self.limit is not None
        while self._others and self._others[-1][1] <= requests:
            self._others.pop()
        self._others.append((now + self.limit.seconds, requests))

    def _allowed(self, now: float) -> float:
        if self.limit is None:
            return float("inf")
        while self._share < 1.0 and now >= self._share_grows_at:
            self._share = min(1.0, self._share + 0.1)
            self._share_grows_at += self.limit.seconds
        return max(1, int(self.limit.requests * self._share))

    def _next_free(self, now: float) -> float | None:
        ends = []
        if self._answers and self.limit is not None:
            ends.append(self._answers[0] + self.limit.seconds)
        if self._others:
            ends.append(self._others[0][0])
        if self._share < 1.0:
            ends.append(self._share_grows_at)
        later = [end - now for end in ends if end > now]
        return min(later) if later else None

    def _forget_old(self, now: float) -> None:
        if self.limit is None:
            self._answers.clear()
            self._forgotten.clear()
            self._others.clear()
            return
        # The same sum as in `_next_free`: were one rounded otherwise, a full budget would name no end.
        while self._answers and self._answers[0] + self.limit.seconds <= now:
            self._forgotten.append(self._answers.popleft())
        while self._others and self._others[0][0] <= now:
            self._others.popleft()

    def _learn_limit(self, told: RateHeaders) -> None:
        if told.limit is None or told.limit < 1:
            return
        seconds = told.interval or (self.limit.seconds if self.limit else 10.0)
        if self.limit is None or (told.limit, seconds) != (self.limit.requests, self.limit.seconds):
            self.limit = RateLimit(told.limit, seconds)

    def _learn_day(self, now: float, told: RateHeaders, sent_at: float) -> None:
        if told.daily_limit is not None:
            self.daily_limit = told.daily_limit
        if told.daily_reset is not None:
            self.daily_reset_at = now + told.daily_reset
        left = told.daily_remaining
        if left is None:
            return
        # Answers overtake each other: one to a request that was under way when less was told does not give it back.
        if self.daily_remaining is None or left <= self.daily_remaining or sent_at >= self._day_told_at:
            self.daily_remaining, self._day_told_at = left, now

    def _day_wait(self, now: float, reserve: int) -> float:
        if self.daily_remaining is None:
            return 0.0
        if self.daily_reset_at is not None and now >= self.daily_reset_at:
            self.daily_remaining = None
            self.daily_reset_at = None
            self._told = False  # one request asks how the new day stands
            return 0.0
        if self.daily_remaining - self.in_flight > reserve:
            return 0.0
        if self.daily_reset_at is None:
            # Nobody told when the day turns: in an hour, one request shows whether it has.
            self.daily_reset_at = now + 3600.0
        return self.daily_reset_at - now


DOCUMENTED_DAILY_LIMIT = 200_000
"""Requests a day, where no answer has told the limit (HighLevel's documentation of its rate limits)."""


@dataclass(frozen=True, slots=True)
class DayBudget:
    """What is left of a location's quota: `left` of `limit` requests for the next `seconds`, until it resets."""

    limit: int = DOCUMENTED_DAILY_LIMIT
    left: int = DOCUMENTED_DAILY_LIMIT
    seconds: float = 86_400.0


def visits_a_second(day: DayBudget, share: float) -> float:
    """How fast contacts may be visited so that what visits may spend lasts until the reset, and is spent by then.

    `share` of the day's quota is for visits; the rest is left to people who wait and to polls.
    """
    return max(0.0, _for_visits(day, share)) / max(day.seconds, 1.0)


SAVED_UP = 60.0
"""Seconds: what could not be spent is not saved up for longer, so that no burst follows an idle hour."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """So many `visits` may be made `at` a moment, and more as time goes on; none is owed from before the first one."""

    visits: float = 0.0
    at: datetime | None = None

    def grown(self, now: datetime, pace: float) -> "Allowance":
        """With what the time since has brought, at a `pace` of visits a second."""
        elapsed = (now - self.at).total_seconds() if self.at is not None else SAVED_UP
        return Allowance(min(self.visits + pace * max(elapsed, 0.0), max(1.0, pace * SAVED_UP)), now)


def signalled_visits(day: DayBudget, share: float, kept_a_day: float) -> int:
    """How many contacts that a signal announced may be visited at once.

    Signals never use up what the bound on age needs until the reset: `kept_a_day` visits, one a contact and
    `max_age`.
    """
    return max(0, int(_for_visits(day, share) - kept_a_day * day.seconds / 86_400))


def _for_visits(day: DayBudget, share: float) -> float:
    return day.left - (1 - share) * day.limit


def is_due(now: datetime, last: datetime | None, every: timedelta) -> bool:
    """Whether something that last happened at `last` is due again. A `last` in the future (a clock that
    was set back) does not count.
    """
    return last is None or now - last >= every or last > now + every


def turned(then: datetime, now: datetime, every: timedelta) -> bool:
    """Whether a new stretch of `every`, counted by the clock, has begun between two moments."""
    return then.timestamp() // every.total_seconds() != now.timestamp() // every.total_seconds()


def affordable_interval(wanted: timedelta, requests: int, daily_limit: int | None, share: float) -> timedelta:
    """How often something that costs `requests` may be repeated: as wanted, or what `share` of a day buys."""
    if not daily_limit or share <= 0:
        return wanted
    return max(wanted, timedelta(seconds=86_400 * requests / (daily_limit * share)))
