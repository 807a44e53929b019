"""`run` as a whole: the daemon, with one configuration after another in the same process.

SIGHUP asks for the configuration to be read again. What is wrong with the new one is said in the log, and the old one
goes on; else what is in hand is finished, everything is given back, and the daemon starts anew. The listening socket
stays, so that nobody is refused meanwhile.
"""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from rankr_sync import logs
from rankr_sync.access import application_of, credentials_of, find_keys_of, needs_grants
from rankr_sync.app import build, chosen_locations
from rankr_sync.config import Config, check_transport
from rankr_sync.daemon import run_for_ever
from rankr_sync.errors import RankrSyncError
from rankr_sync.service.metrics import Metrics
from rankr_sync.service.server import Listener, listen, listen_again

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Setup:
    """A configuration, and the address that it serves on."""

    config: Config
    listener: Listener | None

    def close(self, but: "Setup | None" = None) -> None:
        """Give the address back, unless the other one has it too."""
        kept = but.listener.socket if but is not None and but.listener is not None else None
        if self.listener is not None and self.listener.socket is not kept:
            self.listener.socket.close()


class Running:
    """The daemon from its start to its end. `read` reads the configuration anew."""

    def __init__(self, config: Config, read: Callable[[], Config], location: str | None = None) -> None:
        """Raises BadConfiguration where `http.listen` cannot be had."""
        self._read = read
        self._location = location
        self._metrics = Metrics()
        self._now = Setup(config, listen(config.http))
        self._before: Setup | None = None
        self._next: Setup | None = None
        self._ending = False
        self._stop = asyncio.Event()

    async def until_ended(self) -> None:
        """Until SIGTERM or SIGINT. Raises what keeps the daemon from starting with its first configuration."""
        loop = asyncio.get_running_loop()
        for signal_ in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            while not self._ending:
                await self._once()
        finally:
            self._now.close()

    def _end(self) -> None:
        self._ending = True
        self._stop.set()

    def _reload(self) -> None:
        log.info("config.reloading")
        try:
            config = self._read()
            check(config, self._location)
            listener = listen_again(self._now.listener, self._now.config.http, config.http)
        except RankrSyncError as error:
            log.error("config.refused", error=str(error), hint=error.hint)
            return
        if self._next is not None:
            self._next.close(but=self._now)
        self._next = Setup(config, listener)
        self._stop.set()

    async def _once(self) -> None:
        """The daemon with one configuration, until there is another."""
        try:
            await self._run()
        except RankrSyncError as error:
            if self._before is None:
                raise
            log.error("config.failed", error=str(error), hint=error.hint)
            self._now.close(but=self._before)
            self._now, self._before = self._before, None
            return
        if self._next is not None:
            self._before, self._now, self._next = self._now, self._next, None
            logs.configure(self._now.config.log.format, self._now.config.log.level)

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        async with build(self._now.config, stop=self._stop, location=self._location, observer=self._metrics) as app:
            if self._before is not None:
                self._before.close(but=self._now)
                self._before = None
            await run_for_ever(app, self._now.listener, self._metrics)


def check(config: Config, location: str | None) -> None:
    """Whether a daemon can start with it, as far as that can be told without a request. Raises BadConfiguration."""
    check_transport(config)
    chosen = chosen_locations(config, location)
    if needs_grants(config, chosen):
        application_of(config)
        find_keys_of(config)
    else:
        for one in chosen:
            credentials_of(config, one)
