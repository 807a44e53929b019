"""Sending a message to where people read: apprise's targets (e-mail, Slack, ...), named by URLs that hold secrets.

Nothing of a URL, and nothing that apprise says, gets any further from here: a target is known by its kind and its
place in the configuration, a failure by the status that the other side gave.
"""

import hashlib
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rankr_sync.errors import BadConfiguration, TryLater

if TYPE_CHECKING:
    from apprise import AppriseAsset, NotifyBase

_ONE_AT_A_TIME = threading.Lock()
"""What apprise says while it sends cannot be told apart by target otherwise."""

_STATUS = re.compile(r"error=(\d{3})\b")


class Undelivered(TryLater):
    """A target did not take a message."""


@dataclass(frozen=True, slots=True)
class Target:
    """One place to send to. `id` stays the same while its URL does, and gives nothing of it away."""

    id: str
    name: str
    send: Callable[[str, str], None]
    """Takes a title and a body in markdown. Raises Undelivered."""
    known: bool = True
    """Whether apprise knows such a URL; what it does not know takes nothing."""


def read_urls(urls: Sequence[str], file: Path | None) -> list[str]:
    """The URLs of the configuration and of a file, one a line, `#` for comments. Raises BadConfiguration."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file is not None else []
    except (OSError, UnicodeDecodeError):
        raise BadConfiguration(
            f"the file {file} cannot be read", hint="check summary.urls_file and its permissions"
        ) from None
    found = [*urls, *lines]
    return [url.strip() for url in found if url.strip() and not url.strip().startswith("#")]


def targets(urls: Sequence[str]) -> list[Target]:
    """The targets of these URLs; one that apprise does not know is a target that takes nothing.

    Loads apprise: a second or more, and twenty megabytes, which only those pay who send.
    """
    from apprise import Apprise, AppriseAsset, NotifyBase, PersistentStoreMode

    asset = AppriseAsset(app_id="rankr-sync", storage_mode=PersistentStoreMode.MEMORY)
    found: list[Target] = []
    alike: Counter[str] = Counter()
    for place, url in enumerate(urls, start=1):
        with _Hearing():
            server = Apprise.instantiate(url, asset=asset)
        if not isinstance(server, NotifyBase):
            found.append(_unknown(place))
            continue
        # The URL with its secrets masked: enough to tell targets apart, nothing to guess a password from.
        masked = str(server.url(privacy=True))  # type: ignore[no-untyped-call]
        id_ = hashlib.blake2b(masked.encode(), digest_size=8).hexdigest()
        alike[id_] += 1
        found.append(_target(server, f"{id_}-{alike[id_]}", place, asset))
    return found


def _target(server: "NotifyBase", id_: str, place: int, asset: "AppriseAsset") -> Target:
    from apprise import Apprise, NotifyFormat
    from apprise.common import OverflowMode

    if server.overflow_mode == OverflowMode.UPSTREAM:
        server.overflow_mode = OverflowMode.SPLIT  # else what is too long for a service is refused altogether
    name = f"{server.service_name or 'target'} {place}"
    only = Apprise(asset=asset)
    only.add(server)

    def send(title: str, body: str) -> None:
        with _Hearing() as heard:
            taken = only.notify(body=body, title=title, body_format=NotifyFormat.MARKDOWN)
        if not taken:
            raise Undelivered(f"{name} did not take it" + (f" (status {heard.status})" if heard.status else ""))

    return Target(id_, name, send)


def _unknown(place: int) -> Target:
    def send(title: str, body: str) -> None:
        raise Undelivered(f"target {place} is no URL that apprise knows", hint="correct summary.urls or its file")

    return Target(f"unknown {place}", f"target {place}", send, known=False)


class _Hearing(logging.Handler):
    """Apprise's only account of what went wrong is its log, which may hold URLs and what was sent: it is heard here,
    for a status, and goes nowhere else.
    """

    status: str | None = None

    def __enter__(self) -> "_Hearing":
        _ONE_AT_A_TIME.acquire()
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings name the URL
        logger = logging.getLogger("apprise")
        logger.propagate = False
        logger.handlers[:] = [self]
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("apprise").handlers[:] = [logging.NullHandler()]
        _ONE_AT_A_TIME.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the status that the other side gave."""
        if found := _STATUS.search(record.getMessage()):
            self.status = found[1]
