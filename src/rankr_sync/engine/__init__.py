"""The engine: ask, plan, checkpoint. `location` says what is done, `walk` and `visit` how, `context` with what."""

from rankr_sync.engine.context import LocationContext, Progress, Settings
from rankr_sync.engine.lease import SPARE_REQUESTS, Lease, is_dead
from rankr_sync.engine.location import LocationSync

__all__ = ["SPARE_REQUESTS", "Lease", "LocationContext", "LocationSync", "Progress", "Settings", "is_dead"]
