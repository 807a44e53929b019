"""Who watches the engine and the source at work: told of every fact worth counting, and free to do nothing with it."""

from typing import Protocol

from rankr_sync.model import Tally


class Observer(Protocol):
    """Is told what happened. Called in the event loop, at once: an observer neither waits nor raises.

    Durations are in seconds. No call carries the id of a contact, or anything else about one.
    """

    def requested(self, location_id: str, route: str, outcome: str, seconds: float) -> None:
        """An attempt at a request ended. `route` is the path's template; `outcome` the status of the answer (`200`), or
        `timeout`, `unreachable` or `cancelled` where there was none. The wait for the rate budget does not count.
        """

    def throttled(self, location_id: str) -> None:
        """The rate limit was hit (429)."""

    def ran(self, location_id: str, stream: str, kind: str, status: str, seconds: float, tally: Tally) -> None:
        """A run ended: the same kind, status and counts as its row in `sync_runs`."""

    def refreshed(self, location_id: str, status: str, seconds: float) -> None:
        """A contact was pulled for a person: `succeeded`, `gone` (at the source) or `failed`."""


class Unobserved:
    """Nobody watches."""

    def requested(self, location_id: str, route: str, outcome: str, seconds: float) -> None:
        """Nothing."""

    def throttled(self, location_id: str) -> None:
        """Nothing."""

    def ran(self, location_id: str, stream: str, kind: str, status: str, seconds: float, tally: Tally) -> None:
        """Nothing."""

    def refreshed(self, location_id: str, status: str, seconds: float) -> None:
        """Nothing."""
