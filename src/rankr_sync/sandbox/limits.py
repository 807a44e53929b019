"""Rate limits: one bucket a location, a burst window and a fixed daily window.

Both kinds of burst window are kept at the same time, whichever is enforced, so that a client's pacing can be judged
against either. Nothing here knows HTTP beyond the names of the headers.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from .options import RateLimit, SandboxOptions

DAY_SECONDS = 86_400.0
Header = tuple[bytes, bytes]


class SlidingWindow:
    """At most N in any stretch of `seconds`: the strictest reading of "100 requests per 10 seconds"."""

    def __init__(self, limit: RateLimit) -> None:
        """Start with an empty window."""
        self.limit = limit
        self._admitted: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Admit a request at `now` if the window has room. A refused one takes no room."""
        self._forget(now)
        if len(self._admitted) >= self.limit.requests:
            return False
        self._admitted.append(now)
        return True

    def remaining(self, now: float) -> int:
        """Room left."""
        self._forget(now)
        return self.limit.requests - len(self._admitted)

    def wait(self, now: float) -> float:
        """Seconds until one more fits."""
        self._forget(now)
        if len(self._admitted) < self.limit.requests:
            return 0.0
        return self._admitted[0] + self.limit.seconds - now

    def _forget(self, now: float) -> None:
        while self._admitted and self._admitted[0] + self.limit.seconds <= now:
            self._admitted.popleft()


class FixedWindow:
    """At most N in each stretch of `seconds` counted from the epoch: lets twice N through around a boundary."""

    def __init__(self, limit: RateLimit) -> None:
        """Start with an empty window."""
        self.limit = limit
        self._number = -1
        self._used = 0

    def take(self, now: float) -> bool:
        """Admit a request at `now` if its window has room."""
        self._turn(now)
        if self._used >= self.limit.requests:
            return False
        self._used += 1
        return True

    def remaining(self, now: float) -> int:
        """Room left."""
        self._turn(now)
        return self.limit.requests - self._used

    def wait(self, now: float) -> float:
        """Seconds until one more fits."""
        self._turn(now)
        return 0.0 if self._used < self.limit.requests else (self._number + 1) * self.limit.seconds - now

    def _turn(self, now: float) -> None:
        number = int(now // self.limit.seconds)
        if number != self._number:
            self._number, self._used = number, 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the bucket says of one request."""

    admitted: bool
    headers: list[Header]


class Bucket:
    """The quota of one location, shared by all its tokens."""

    def __init__(self, options: SandboxOptions) -> None:
        """Start unused; the daily window opens with the first request."""
        self.throttled = 0
        self.sliding_excess = 0
        self.fixed_excess = 0
        self._limit = options.rate_limit
        self._daily_limit = options.daily_limit
        self._retry_after = options.retry_after
        self._day_start: float | None = None
        self._day_used = 0
        if self._limit is not None:
            self._sliding = SlidingWindow(self._limit)
            self._fixed = FixedWindow(self._limit)
            self._enforced = self._sliding if options.rate_window == "sliding" else self._fixed
            self._constant: list[Header] = [
                (b"x-ratelimit-max", b"%d" % self._limit.requests),
                (b"x-ratelimit-interval-milliseconds", b"%d" % round(self._limit.seconds * 1000)),
            ]
            if self._daily_limit is not None:
                self._constant.append((b"x-ratelimit-limit-daily", b"%d" % self._daily_limit))

    def take(self, now: float) -> Verdict:
        """Count a request; say whether it may pass and what the headers tell."""
        if self._limit is None:
            return Verdict(True, [])
        slides, fits = self._sliding.take(now), self._fixed.take(now)
        self.sliding_excess += not slides
        self.fixed_excess += not fits
        admitted = (slides if self._enforced is self._sliding else fits) and self._take_daily(now)
        headers = self._headers(now)
        if not admitted:
            self.throttled += 1
            if self._retry_after:
                headers.append((b"retry-after", b"%d" % max(1, math.ceil(self._wait(now)))))
        return Verdict(admitted, headers)

    def _take_daily(self, now: float) -> bool:
        # A fixed 24 h window from the first call, not midnight (Nango recordings 2026-07-17).
        if self._day_start is None or now >= self._day_start + DAY_SECONDS:
            self._day_start, self._day_used = now, 0
        if self._daily_limit is not None and self._day_used >= self._daily_limit:
            return False
        self._day_used += 1
        return True

    def _wait(self, now: float) -> float:
        if self._daily_limit is not None and self._day_used >= self._daily_limit and self._day_start is not None:
            return self._day_start + DAY_SECONDS - now
        return self._enforced.wait(now)

    def _headers(self, now: float) -> list[Header]:
        headers = [*self._constant, (b"x-ratelimit-remaining", b"%d" % self._enforced.remaining(now))]
        if self._daily_limit is not None:
            until_reset = DAY_SECONDS if self._day_start is None else self._day_start + DAY_SECONDS - now
            headers.append((b"x-ratelimit-daily-remaining", b"%d" % (self._daily_limit - self._day_used)))
            # Whole seconds, written in ms: 83653000 in the recordings.
            headers.append((b"x-ratelimit-daily-reset", b"%d" % (max(0, math.ceil(until_reset)) * 1000)))
        return headers

    def stats(self) -> dict[str, int]:
        """Counters of this location."""
        return {"throttled": self.throttled, "sliding_excess": self.sliding_excess, "fixed_excess": self.fixed_excess}


def limit_text(limit: RateLimit | None) -> str:
    """For the greeting."""
    return "none" if limit is None else str(limit)
