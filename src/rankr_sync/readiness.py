"""Is the mirror as fresh as the schedule promises? For `/readyz`, the metrics and the status page alike.

What is seen is read from the store; the judgement is pure. A stream is well while something of it was stored or
confirmed within its bound, by whichever process. One that was never copied whole is well while its first copy goes on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from rankr_sync import schema
from rankr_sync.app import App
from rankr_sync.streams import STREAMS

POLLS, WALKS, SHORTEST = 5, 4, timedelta(minutes=10)
"""A stream that is polled may miss so many polls, one that is walked so many walks, and none is blamed earlier."""

VISITS_BOUND = timedelta(hours=1)
"""For what is read contact by contact: an audit reads some every half hour, whatever else is due."""

Pair = tuple[str, str]
"""A location's id and the name of a stream."""


@dataclass(frozen=True, slots=True)
class Bound:
    """After how long a stream without success is not well, and whether it is read contact by contact."""

    after: timedelta
    by_visits: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What the store tells of one stream: its last success, the last sign of work, and whether there is any."""

    succeeded_at: datetime | None = None
    worked_at: datetime | None = None
    has_work: bool = True


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the mirror is not ready: where, since how many seconds, and how many are allowed."""

    location: str | None
    stream: str | None
    reason: str
    seconds: int | None = None
    bound_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the mirror can be relied on. `copying`: streams whose first copy is under way."""

    problems: tuple[Problem, ...] = ()
    copying: tuple[Pair, ...] = ()

    @property
    def ready(self) -> bool:
        """No problem."""
        return not self.problems

    def as_json(self) -> dict[str, object]:
        """The body of `/readyz`."""
        return {
            "ready": self.ready,
            "problems": [{k: v for k, v in asdict(one).items() if v is not None} for one in self.problems],
            "copying": [{"location": location_id, "stream": stream} for location_id, stream in self.copying],
        }


def bounds(app: App) -> dict[Pair, Bound]:
    """The bound of every stream of every location, from the schedule and what the API lets us do."""
    found = {}
    for location_id, sync in app.locations.items():
        visited = sync.context.visited_streams()
        for name in app.config.streams:
            if name in visited:
                bound = Bound(VISITS_BOUND, by_visits=True)
            elif STREAMS[name].owner and sync.can_poll(name):
                bound = Bound(max(POLLS * app.config.schedule.poll, SHORTEST))
            else:
                bound = Bound(max(WALKS * app.walk_interval(location_id, name), SHORTEST))
            found[location_id, name] = bound
    return found


def see(connection: Connection, wanted: Mapping[Pair, Bound], now: datetime) -> dict[Pair, Seen]:
    """What the store tells of these streams. A few index look-ups each; more only for one that looks late."""
    return {pair: _see(connection, pair, bound, now) for pair, bound in wanted.items()}


def _see(connection: Connection, pair: Pair, bound: Bound, now: datetime) -> Seen:
    runs, cursors, visits = schema.sync_runs, schema.sync_cursors, schema.child_visits
    location_id, stream = pair
    succeeded_at = connection.execute(
        select(runs.c.finished_at)
        .where(runs.c.location_id == location_id, runs.c.stream == stream, runs.c.status == "succeeded")
        .order_by(runs.c.started_at.desc())
        .limit(1)
    ).scalar()
    saved_at = connection.execute(
        select(func.max(cursors.c.updated_at, type_=cursors.c.updated_at.type)).where(
            cursors.c.location_id == location_id, cursors.c.stream == stream
        )
    ).scalar()
    worked_at = max(filter(None, (succeeded_at, saved_at)), default=None)
    if not bound.by_visits:
        return Seen(succeeded_at, worked_at)
    mine = visits.c.location_id == location_id, visits.c.stream == stream
    has_work = connection.execute(select(visits.c.contact_id).where(*mine).limit(1)).first() is not None
    if worked_at is None or now - worked_at > bound.after:
        last = select(func.max(visits.c.last_visited_at, type_=visits.c.last_visited_at.type)).where(*mine)
        worked_at = max(filter(None, (worked_at, connection.execute(last).scalar())), default=None)
    return Seen(succeeded_at, worked_at, has_work)


def judge(
    seen: Mapping[Pair, Seen],
    wanted: Mapping[Pair, Bound],
    refused: Iterable[Pair],
    now: datetime,
    started_at: datetime,
) -> Readiness:
    """Which streams are not well. `refused`: what the API refuses this token; `started_at`: when this program began."""
    refused = set(refused)
    problems = [Problem(*pair, "credentials or scope are refused: see rankr-sync check") for pair in sorted(refused)]
    copying = []
    for pair, bound in wanted.items():
        one = seen[pair]
        if one.succeeded_at is None and one.has_work:
            copying.append(pair)
        # What has never worked had no chance before this program began.
        since = one.worked_at if one.succeeded_at is not None else max(filter(None, (one.worked_at, started_at)))
        assert since is not None
        late = now - since
        if one.has_work and late > bound.after and pair not in refused:
            seconds, allowed = int(late.total_seconds()), int(bound.after.total_seconds())
            problems.append(Problem(*pair, "no success for longer than its bound", seconds, allowed))
    return Readiness(tuple(problems), tuple(copying))
