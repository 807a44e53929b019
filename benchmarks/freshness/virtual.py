"""Virtual time: an event loop whose clock jumps to the next timer when nothing else is left to do.

Whatever takes time by waiting takes none here, and what takes CPU takes no virtual time: only what a program is made
to wait for counts, such as answers, pauses and its turn.
"""

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import time_machine


class Clock:
    """One time for everything: the moment it began, and the seconds that have passed since."""

    def __init__(self, began: datetime) -> None:
        self.began = began
        self.passed = 0.0
        self._moved: Callable[[float], None] = lambda epoch: None

    def seconds(self) -> float:
        """Seconds since the beginning: a clock that only goes forward."""
        return self.passed

    def epoch(self) -> float:
        """Seconds since 1970."""
        return self.began.timestamp() + self.passed

    def now(self) -> datetime:
        """The time of day, in UTC."""
        return self.began + timedelta(seconds=self.passed)

    def advance(self, seconds: float) -> None:
        """So much time passes."""
        self.passed += seconds
        self._moved(self.epoch())

    @contextlib.contextmanager
    def everywhere(self) -> Iterator[None]:
        """During the block `datetime.now` tells this time too: APScheduler takes no clock."""
        with time_machine.travel(self.epoch(), tick=False) as traveller:
            self._moved = traveller.move_to
            try:
                yield
            finally:
                self._moved = lambda epoch: None


class Loop(asyncio.SelectorEventLoop):
    """An event loop on a `Clock`. What would be called in a thread is called at once."""

    def __init__(self, clock: Clock) -> None:
        self._virtual = clock
        super().__init__(_Selector(clock))

    def time(self) -> float:
        """The loop's timers go by the clock."""
        return self._virtual.seconds()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """Call it here and now: for a thread the loop would have to wait in real time."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._virtual = clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("all wait for something that cannot happen any more: there is no timer")
        found = super().select(0)
        if not found and timeout > 0:
            self._virtual.advance(timeout)
        return found
