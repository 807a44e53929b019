"""Burst slots lent through the store: how a process that does not hold the lease gets its share of the rate budget.

The holder of the lease decides who may send. A borrower writes a row of `rate_loans`; the holder, who looks
for such rows while it works, keeps that many slots of its own budget, and says so in the row once they are
free. They count with the holder until one interval after the row is gone, so that holder and borrower
together never send more than one process might. A borrower that dies leaves its row to expire.
"""

import asyncio
import contextlib
from datetime import datetime, timedelta

import structlog

from rankr_sync.engine.context import LEASE_LASTS, LocationContext
from rankr_sync.errors import RankrSyncError
from rankr_sync.model import Loan, Row

log = structlog.get_logger()

LOAN_LASTS = timedelta(seconds=30)
"""A borrower that says nothing for so long has died, and its slots are free again."""

LOOK_EVERY, LOOK_AGAIN = 0.5, 0.05
"""Seconds between two looks for loans: while there are none, and while one waits for slots."""

PATIENCE = 3.0
"""Seconds in which a holder that works sees a loan. One that does not hangs: the borrower then goes on, as soon as what
the holder may have sent is forgotten.
"""


def may_have_sent_until(lapses_at: datetime) -> datetime:
    """Until when who says nothing more may have sent, by the time at which its lease lapses.

    It renews its lease each third of the time that it lasts.
    """
    return lapses_at - LEASE_LASTS / 2


class Lender:
    """What the holder of a location's lease does for borrowers."""

    def __init__(self, context: LocationContext) -> None:
        self._context = context
        self._kept: dict[str, int] = {}

    async def begin(self, lived_until: datetime | None) -> None:
        """The lease has just been taken: count what was spent, and lent, by the holder before us.

        `lived_until`: it did not give the lease back, and may have sent until then.
        """
        context, source = self._context, self._context.source

        def read() -> tuple[Row | None, list[Loan]]:
            with context.store.reading() as tx:
                return tx.last_usage(context.location_id), tx.loans(context.location_id)

        usage, loans = await context.in_store(read)
        source.take_over(usage, lived_until)
        for loan in loans:
            if loan.granted:
                self._kept[loan.borrower] = source.lend(loan.requests, at_once=True)

    async def work(self) -> None:
        """Look for loans for as long as the lease is held."""
        try:
            while self._context.holder is not None:
                waiting = False
                with contextlib.suppress(RankrSyncError):  # the store is away: the loans that are there stay
                    waiting = await self.look()
                await asyncio.sleep(LOOK_AGAIN if waiting else LOOK_EVERY)
        finally:
            self._end()

    async def look(self) -> bool:
        """Lend what is asked for, take back what is done with. Returns whether someone waits for slots."""
        context, source = self._context, self._context.source

        def read() -> list[Loan]:
            with context.store.reading() as tx:
                return tx.loans(context.location_id)

        loans = await context.in_store(read)
        now = context.now()
        living = [loan for loan in loans if loan.expires_at > now]
        for borrower in self._kept.keys() - {loan.borrower for loan in living}:
            source.take_back(self._kept.pop(borrower))
        for loan in living:
            if loan.borrower not in self._kept and (slots := source.lend(loan.requests)):
                self._kept[loan.borrower] = slots
        free = source.may_use_loans
        granted = {loan.borrower: self._kept[loan.borrower] for loan in living if free and loan.borrower in self._kept}
        news = [loan for loan in living if not loan.granted and (loan.borrower in granted or not loan.seen)]
        if news or len(living) < len(loans):
            await context.in_store(self._write, news, granted, [loan for loan in loans if loan not in living])
        return any(not loan.granted and loan.borrower not in granted for loan in living)

    def _write(self, news: list[Loan], granted: dict[str, int], expired: list[Loan]) -> None:
        context = self._context
        with context.checkpoint() as tx:  # a holder that was replaced lends nothing
            for loan in news:
                tx.answer_loan(context.location_id, loan.borrower, context.now(), granted.get(loan.borrower))
            for loan in expired:
                tx.end_loan(context.location_id, loan.borrower)

    def _end(self) -> None:
        while self._kept:
            self._context.source.take_back(self._kept.popitem()[1])


class Borrowing:
    """One loan of one process, from the asking to the giving back."""

    def __init__(self, context: LocationContext, borrower: str, requests: int) -> None:
        self._context = context
        self._borrower = borrower
        self._requests = requests
        self._give_up_at = context.clock() + PATIENCE
        self._renewing: asyncio.Task[None] | None = None

    async def ask(self) -> None:
        """Write the row, and keep it alive until `end`."""
        context = self._context

        def ask() -> None:
            now = context.now()
            with context.store.transaction() as tx:
                tx.ask_loan(context.location_id, self._borrower, self._requests, now, now + LOAN_LASTS)

        await context.in_store(ask)
        self._renewing = asyncio.create_task(self._renew())

    async def look(self) -> tuple[bool, str | None]:
        """Whether the requests may be sent, and who holds the lease."""
        context = self._context

        def read() -> tuple[list[Loan], tuple[str, datetime] | None]:
            with context.store.reading() as tx:
                return tx.loans(context.location_id), tx.lease(context.location_id)

        loans, lease = await context.in_store(read)
        holder = lease[0] if lease is not None and lease[1] >= context.now() else None
        mine = next((loan for loan in loans if loan.borrower == self._borrower), None)
        if mine is not None and mine.granted:
            self._keep_to(mine.requests)
            return True, holder
        if (mine is None or not mine.seen) and context.clock() >= self._give_up_at:
            log.debug("loan.unanswered", location=context.location_id, holder=holder)
            self._keep_to(self._requests)
            # It may have died a moment ago: what it then had sent counts.
            context.source.take_over(None, may_have_sent_until(lease[1]) if lease is not None else None)
            return True, holder
        return False, holder

    def _keep_to(self, slots: int) -> None:
        self._context.borrowed[self._borrower] = slots
        self._context.source.keep_to(sum(self._context.borrowed.values()))

    async def end(self) -> None:
        """Give the slots back, with what was spent of them."""
        context = self._context
        if self._renewing is None:
            return
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        self._renewing = None
        usage = context.source.usage(ending=True) if context.source.unsaved else None

        def end() -> None:
            with context.store.transaction() as tx:
                tx.end_loan(context.location_id, self._borrower)
                if usage is not None:
                    tx.add_usage(context.location_id, context.now(), usage)

        if context.borrowed.pop(self._borrower, None) is not None:
            # Else a daemon that has borrowed once would keep to that when the lease is its own.
            context.source.keep_to(sum(context.borrowed.values()) or None)
        with contextlib.suppress(RankrSyncError):
            await context.in_store(end)

    async def _renew(self) -> None:
        context = self._context

        def renew() -> None:
            with context.store.transaction() as tx:
                tx.renew_loan(context.location_id, self._borrower, context.now() + LOAN_LASTS)

        while True:
            await asyncio.sleep(LOAN_LASTS.total_seconds() / 3)
            with contextlib.suppress(RankrSyncError):
                await context.in_store(renew)
