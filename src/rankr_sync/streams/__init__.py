"""The registry of streams. To add an entity: one module here, one name in the list, one migration."""

from importlib import import_module

from rankr_sync.streams.base import Lookup, Stream, Timeline, Walk

NAMES = (
    "contacts",
    "tasks",
    "notes",
    "appointments",
)

STREAMS: dict[str, Stream] = {name: import_module(f"{__name__}.{name}").STREAM for name in NAMES}

OWNER = next(stream for stream in STREAMS.values() if stream.owner)
"""The stream whose records the others' records belong to: contacts."""

__all__ = ["OWNER", "STREAMS", "Lookup", "Stream", "Timeline", "Walk"]
