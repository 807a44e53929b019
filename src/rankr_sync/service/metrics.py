"""The figures at `/metrics`: counted as things happen, and looked up in the store when somebody asks.

The names are in docs/operations.md; dashboards and alerts stand on them. No label ever names a contact.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rankr_sync import __version__
from rankr_sync.app import App
from rankr_sync.errors import StoreUnavailable
from rankr_sync.model import Tally
from rankr_sync.readiness import Bound, Pair, Readiness, bounds
from rankr_sync.reading import Reading
from rankr_sync.service.health import Health
from rankr_sync.store import look

REQUEST_SECONDS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0, 60.0)
RUN_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)

PREFIX = "rankr_sync_"


@dataclass(frozen=True, slots=True)
class Figures:
    """What is looked up at one moment. `state` is None where the store cannot be read."""

    now: datetime
    readiness: Readiness
    state: look.State | None = None
    bounds: Mapping[Pair, Bound] = field(default_factory=dict)
    budgets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Location to what is left of its quota, by the name of the figure."""
    stopped: frozenset[str] = frozenset()
    """Locations of which a kind of work rests because credentials or scope are refused."""
    leases: frozenset[str] = frozenset()
    """Locations whose lease this process holds."""


class Metrics(Collector):
    """An `Observer` that counts, and a registry that also tells the `Figures` it was last given."""

    def __init__(self) -> None:
        # When each series began is twice the text, and nothing that anybody asks.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.figures: Figures | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        mine: dict[str, Any] = {"registry": self._registry}
        build = Gauge(PREFIX + "build_info", "1, with the version of the program.", ["version"], **mine)
        build.labels(__version__).set(1)
        self._requests = Counter(
            PREFIX + "requests", "Attempts at API requests.", ["location", "route", "status"], **mine
        )
        self._request_seconds = Histogram(
            PREFIX + "request_duration_seconds",
            "Time from sending a request to its whole answer.",
            ["route"],
            buckets=REQUEST_SECONDS,
            **mine,
        )
        self._throttles = Counter(PREFIX + "throttles", "Answers 429: the rate limit was hit.", ["location"], **mine)
        self._runs = Counter(PREFIX + "runs", "Runs that ended.", ["location", "stream", "kind", "status"], **mine)
        self._run_seconds = Histogram(
            PREFIX + "run_duration_seconds", "Time of a run.", ["kind", "stream"], buckets=RUN_SECONDS, **mine
        )
        self._records = Counter(
            PREFIX + "records",
            "Records that runs dealt with, by what became of them.",
            ["location", "stream", "result"],
            **mine,
        )
        self._refreshes = Counter(PREFIX + "refreshes", "Contacts pulled for a person.", ["location", "status"], **mine)
        self._refresh_seconds = Histogram(
            PREFIX + "refresh_duration_seconds", "Time of such a pull.", buckets=REQUEST_SECONDS, **mine
        )

    # -- being told ------------------------------------------------------------------------------------

    def requested(self, location_id: str, route: str, outcome: str, seconds: float) -> None:
        """Count an attempt at a request."""
        self._requests.labels(location_id, route, outcome).inc()
        self._request_seconds.labels(route).observe(seconds)

    def throttled(self, location_id: str) -> None:
        """Count a 429."""
        self._throttles.labels(location_id).inc()

    def ran(self, location_id: str, stream: str, kind: str, status: str, seconds: float, tally: Tally) -> None:
        """Count a run and its records."""
        self._runs.labels(location_id, stream, kind, status).inc()
        self._run_seconds.labels(kind, stream).observe(seconds)
        for result, count in asdict(tally).items():
            if result not in ("requests", "fetched") and count:
                self._records.labels(location_id, stream, result).inc(count)

    def refreshed(self, location_id: str, status: str, seconds: float) -> None:
        """Count a pull for a person."""
        self._refreshes.labels(location_id, status).inc()
        self._refresh_seconds.observe(seconds)

    # -- telling ---------------------------------------------------------------------------------------

    def text(self, figures: Figures) -> bytes:
        """Everything, in Prometheus' text format."""
        self.figures = figures
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The figures that were last given."""
        if self.figures is not None:
            yield from families(self.figures)


async def gather(app: App, reading: Reading, health: Health) -> Figures:
    """Look everything up: in the store, if it can be read, and in the rate budgets of this process."""
    now = app.now()
    try:
        state = await reading.lately("state", lambda connection: look.state(connection, app.now()))
    except StoreUnavailable:
        state = None
    return Figures(
        now,
        await health.readiness(),
        state,
        bounds(app),
        {location_id: _budget(app, location_id, state) for location_id in app.locations},
        frozenset(location_id for location_id, _ in app.stopped),
        frozenset(id_ for id_, sync in app.locations.items() if sync.context.holder is not None),
    )


def _budget(app: App, location_id: str, state: look.State | None) -> dict[str, float]:
    pacer = app.sources[location_id].pacer
    budget, clock = pacer.budget, pacer.clock()
    told: dict[str, float | None] = {}
    if budget.limit is not None:
        told["burst_requests_limit"] = budget.limit.requests
        told["burst_requests_left"] = max(0, budget.limit.requests - budget.used(clock))
        told["burst_interval_seconds"] = budget.limit.seconds
    told["day_requests_limit"] = budget.daily_limit
    if budget.daily_reset_at is None or budget.daily_reset_at > clock:
        told["day_requests_left"] = budget.daily_remaining
        told["day_resets_in_seconds"] = budget.daily_reset_at - clock if budget.daily_reset_at else None
    stored = next((one for one in state.quotas if one.location_id == location_id), None) if state else None
    if stored is not None and told.get("day_requests_left") is None:
        # Another process may be the one that sends.
        told["day_requests_limit"] = told["day_requests_limit"] or stored.daily_limit
        if stored.daily_reset_at is not None and stored.daily_reset_at > app.now():
            told["day_requests_left"] = stored.daily_remaining
            told["day_resets_in_seconds"] = (stored.daily_reset_at - app.now()).total_seconds()
    return {name: value for name, value in told.items() if value is not None}


def families(figures: Figures) -> Iterator[Metric]:
    """The figures as Prometheus wants them."""
    yield _family("store_up", "1 while the store can be read.", [], [([], float(figures.state is not None))])
    yield from _health(figures)
    yield from _budgets(figures)
    if figures.state is not None:
        yield from _streams(figures.state, figures.now)
        held = figures.state.held
        yield _family(
            "held_deletions",
            "Contacts that seem to be gone and that the brake holds.",
            ["location"],
            [([id_], held[id_]["suspects"] if id_ in held else 0) for id_ in figures.budgets],
        )


def _health(figures: Figures) -> Iterator[Metric]:
    unwell = {(one.location, one.stream) for one in figures.readiness.problems}
    pairs = list(figures.bounds)
    well = [(list(pair), float(pair not in unwell and figures.state is not None)) for pair in pairs]
    copying = [(list(pair), float(pair in figures.readiness.copying)) for pair in pairs]
    allowed = [(list(pair), bound.after.total_seconds()) for pair, bound in figures.bounds.items()]
    stream = ["location", "stream"]
    yield _family("ready", "1 while the stream is well, as /readyz judges it.", stream, well)
    yield _family("copying", "1 while the first copy of the stream is under way.", stream, copying)
    yield _family("lag_bound_seconds", "Lag above which the stream is not ready.", stream, allowed)
    locations = list(figures.budgets)
    refused = [([id_], float(id_ in figures.stopped)) for id_ in locations]
    held = [([id_], float(id_ in figures.leases)) for id_ in locations]
    yield _family("credentials_refused", "1 while the API refuses the token or its scope.", ["location"], refused)
    yield _family("lease_held", "1 while this process is the one that works on the location.", ["location"], held)


_BUDGETS = {
    "burst_requests_limit": "Requests that may be sent in one interval.",
    "burst_requests_left": "Requests that may be sent at this moment.",
    "burst_interval_seconds": "The interval of the burst limit.",
    "day_requests_limit": "Requests that may be sent in a day.",
    "day_requests_left": "Requests that are left of the day's quota.",
    "day_resets_in_seconds": "Time until the day's quota is whole again.",
}


def _budgets(figures: Figures) -> Iterator[Metric]:
    for name, help_ in _BUDGETS.items():
        yield _family(
            name, help_, ["location"], [([id_], told[name]) for id_, told in figures.budgets.items() if name in told]
        )


def _streams(state: look.State, now: datetime) -> Iterator[Metric]:
    labels = ["location", "stream"]
    streams = [([one.location_id, one.stream], one) for one in state.streams]
    done = [(at, one.last_success_at) for at, one in streams if one.last_success_at is not None]
    yield _family(
        "last_success_timestamp_seconds",
        "When a run of the stream last succeeded (Unix time).",
        labels,
        [(at, when.timestamp()) for at, when in done],
    )
    yield _family(
        "lag_seconds",
        "Time since a run of the stream last succeeded.",
        labels,
        [(at, max(0.0, (now - when).total_seconds())) for at, when in done],
    )
    yield _family("rows", "Living records in the mirror.", labels, [(at, one.rows) for at, one in streams])
    yield _family(
        "tombstones", "Records that are gone at the source.", labels, [(at, one.deleted) for at, one in streams]
    )
    yield _family("rejects", "Records that could not be mapped.", labels, [(at, one.rejects) for at, one in streams])
    yield _family(
        "visits_due",
        "Contacts that a signal announced and that wait for their visit.",
        labels,
        [(at, one.due_now) for at, one in streams],
    )
    yield from _freshness([(at, one.freshness) for at, one in streams if one.freshness is not None])


def _freshness(fresh: list[tuple[list[str], look.Freshness]]) -> Iterator[Metric]:
    labels = ["location", "stream"]
    yield _family(
        "detection_delay_seconds",
        "Time from a change at the source to its copy, of the last 7 days.",
        [*labels, "quantile"],
        [([*at, "0.5"], one.delay_p50_seconds) for at, one in fresh]
        + [([*at, "0.95"], one.delay_p95_seconds) for at, one in fresh],
    )
    yield _family(
        "look_age_seconds",
        "Age of the last look at a contact; quantile 1 is the oldest.",
        [*labels, "quantile"],
        [([*at, "0.5"], one.age_p50_seconds) for at, one in fresh]
        + [([*at, "0.95"], one.age_p95_seconds) for at, one in fresh]
        + [([*at, "1"], one.oldest_seconds) for at, one in fresh],
    )
    audited = [(at, one.audit) for at, one in fresh]
    yield _family(
        "current_rows_ratio",
        "Share of rows that are as at the source, by the audits of the last 30 days.",
        labels,
        [(at, found.percent / 100) for at, found in audited if found is not None],
    )
    yield _family(
        "current_rows_ratio_low",
        "The lower end of that share's 95 % interval.",
        labels,
        [(at, found.low / 100) for at, found in audited if found is not None],
    )


def _family(name: str, help_: str, labels: list[str], samples: list[tuple[list[str], Any]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(PREFIX + name, help_, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, float(value))
    return family
