"""A mirror of a part of the account: contacts that leave it, and a part that is changed.

Promises kept here:
- what belongs to contacts outside the part is never stored: only members are visited;
- who left by what a page shows is looked at directly before it is tombstoned, and the brake holds too many at once:
  an answer without tags looks the same;
- who is left out by a changed configuration is tombstoned by what is stored, without a request and without the brake:
  that is no accident. A new full pass then finds who has come in;
- a part that nobody who is stored is of looks like a typing error, and waits for a person's word.
"""

from collections.abc import Sequence
from datetime import datetime

import structlog

from rankr_sync.engine.context import DELTA, FULL, LocationContext, Run, Transaction
from rankr_sync.errors import PartEmpty
from rankr_sync.model import Page, Plan, Tally
from rankr_sync.part import WHOLE
from rankr_sync.streams import OWNER, STREAMS

log = structlog.get_logger()

BATCH = 500


def bury(tx: Transaction, location_id: str, contact_ids: Sequence[str], now: datetime) -> int:
    """Tombstone contacts and all that hangs on them; nothing of theirs is visited any more."""
    if not contact_ids:
        return 0
    buried = tx.tombstone(OWNER, location_id, contact_ids, now)
    for stream in STREAMS.values():
        if not stream.owner and "contact_id" in stream.table.c:
            tx.tombstone_children(stream, location_id, contact_ids, now)
    tx.drop_visits(location_id, contact_ids)
    return buried


# -- contacts that leave -------------------------------------------------------------------------------


def note_leaving(context: LocationContext, tx: Transaction, page: Page, plan: Plan) -> None:
    """Within a page's transaction: remember who has left by what it shows, and forget who has not."""
    if context.settings.part.is_whole:
        return
    noted = set(tx.setting(_leaving_key(context)) or ())
    _save(context, tx, noted, noted.difference(record.id for record in page.records).union(plan.leaving))


def settle_leaving(context: LocationContext, tx: Transaction, ids: Sequence[str]) -> None:
    """Forget these: they were looked at directly."""
    if not context.settings.part.is_whole:
        noted = set(tx.setting(_leaving_key(context)) or ())
        _save(context, tx, noted, noted.difference(ids))


async def leaving(context: LocationContext) -> list[str]:
    """Who has left by what pages showed, and was not looked at yet."""
    return [] if context.settings.part.is_whole else list(await context.setting(_leaving_key(context)) or ())


def _save(context: LocationContext, tx: Transaction, noted: set[str], now_noted: set[str]) -> None:
    if now_noted != noted:
        tx.save_setting(_leaving_key(context), sorted(now_noted), context.now())


def _leaving_key(context: LocationContext) -> str:
    return f"leaving:{context.location_id}"


# -- a part that is changed ----------------------------------------------------------------------------


async def take_up(context: LocationContext) -> None:
    """Bring the store to the part that is configured, if it is another than before. Cut off, it is done again."""
    wanted = context.settings.part.document()
    if (await context.setting(_part_key(context)) or WHOLE.document()) == wanted:
        return
    left = 0
    if not context.settings.part.is_whole:
        if not context.settings.confirm_deletions and not await context.in_store(_has_members, context):
            raise PartEmpty(
                "nobody who is stored is of the part that [only] names, so all would be removed",
                hint="correct [only]; where it is right: rankr-sync backfill --confirm-deletions",
            )
        async with context.run(OWNER, "part") as run:
            after: str | None = ""
            while after is not None:
                after = await context.in_store(_bury_outside, context, run, after)
            left = run.tally.deleted
    await context.in_store(_begin_anew, context)
    log.info("part.changed", location=context.location_id, left=left)


def _has_members(context: LocationContext) -> bool:
    """Whether anybody who is stored is of the part; also where nobody is stored."""
    rules, after, found = context.rules[OWNER.name], "", 0
    while True:
        with context.store.reading() as tx:
            rows = tx.living_payloads(OWNER, context.location_id, after, BATCH)
        if any(rules.holds(rules.normalise(raw)) for _, raw in rows):
            return True
        if not rows:
            return found == 0
        after, found = rows[-1][0], found + len(rows)


def _bury_outside(context: LocationContext, run: Run, after: str) -> str | None:
    """One batch, by what is stored: returns the last id, None at the end."""
    rules, now = context.rules[OWNER.name], context.now()
    with context.checkpoint() as tx:
        rows = tx.living_payloads(OWNER, context.location_id, after, BATCH)
        outside = [id_ for id_, raw in rows if not rules.holds(rules.normalise(raw))]
        tally = Tally(fetched=len(rows), deleted=bury(tx, context.location_id, outside, now))
        tally.unchanged = tally.fetched - tally.deleted
        tx.save_run(run.id, run.tally + tally)
    context.count(run, tally)
    return rows[-1][0] if rows else None


def _begin_anew(context: LocationContext) -> None:
    """A full pass of everything that is walked, or was: it finds who has come in, with all that is theirs."""
    id_, now = context.location_id, context.now()
    with context.checkpoint() as tx:
        for name, stream in STREAMS.items():
            if stream.walks:
                tx.drop_cursor(id_, name, FULL)
                tx.drop_cursor(id_, name, DELTA)
        tx.save_setting(_leaving_key(context), [], now)
        tx.save_setting(_part_key(context), context.settings.part.document(), now)


def _part_key(context: LocationContext) -> str:
    return f"only:{context.location_id}"
