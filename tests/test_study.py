"""Once an hour all visits of a location are read at once, which may take seconds: other work goes on."""

import asyncio
import threading
from typing import Any

import sqlalchemy

from mirror import LOCATION, account, backfill, configuration, query, syncing


def test_work_goes_on_while_all_visits_are_read(database_url: str) -> None:
    """A poll is stored while the database still counts; then the visits go on with what was learned."""
    sandbox, config = account(20), configuration(database_url)
    backfill(sandbox, config)
    counting, may_end = threading.Event(), threading.Event()

    def slow(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "GROUP BY" in statement:
            counting.set()
            assert may_end.wait(60)

    async def main() -> None:
        async with syncing(sandbox, config) as sync:
            sqlalchemy.event.listen(sync.context.store.engine, "before_cursor_execute", slow)
            visiting = asyncio.create_task(sync.visit_due())
            try:
                await asyncio.to_thread(counting.wait, 30)
                sandbox.create_contact(firstName="Anna")
                assert await asyncio.wait_for(sync.poll("contacts"), 20)
                assert not visiting.done()
            finally:
                may_end.set()
            await visiting

    asyncio.run(main())
    assert query(database_url, "SELECT count(*) AS n FROM contacts") == [{"n": 21}]
    assert query(database_url, f"SELECT key FROM sync_settings WHERE key = 'rates:{LOCATION}:notes'") != []
