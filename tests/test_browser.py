"""The status page as a person uses it: in a real browser, on the real server, signed in."""

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from mirror import LOCATION, account, configuration, connected
from rankr_sync.config import Http
from rankr_sync.daemon import jobs
from rankr_sync.service.health import Pulse
from rankr_sync.service.metrics import Metrics
from rankr_sync.service.server import Listener, listen, serving

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium"),
]

PASSWORD = "correct horse battery"
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync"),
]
LOOKS = {
    f"{place}, {scheme}": (scheme, width, height)
    for place, width, height in (("phone", 390, 844), ("desktop", 1280, 900))
    for scheme in ("light", "dark")
}


@contextlib.contextmanager
def served(database_url: str) -> Iterator[tuple[str, str]]:
    """The page over an account of which six contacts seem to be gone: its URL, and the id of one that is not."""
    ready, failed = threading.Event(), []
    sandbox, shown = account(30), {}
    config = configuration(database_url, http={"listen": "127.0.0.1:0", "password": SecretStr(PASSWORD)})

    async def serve() -> None:
        async with connected(sandbox, config) as app:
            location = app.locations[LOCATION]
            for job in jobs(app, location, timedelta(0)):
                await job.ring()
            *_, last = sorted(sandbox.truth(LOCATION)["contacts"])
            for contact_id in sorted(sandbox.truth(LOCATION)["contacts"])[:6]:
                sandbox.delete_contact(contact_id)
            await location.full_pass("contacts", "sweep", restart=True)
            listener = listen(Http(**config.http.model_dump()))
            assert isinstance(listener, Listener)
            async with serving(app, listener, Metrics(), Pulse()):
                shown.update(url=listener.url, contact=last, stop=app.stop, loop=asyncio.get_running_loop())
                ready.set()
                await app.stop.wait()
            listener.socket.close()
            await app.leases[LOCATION].give_back()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="served")
    thread.start()
    try:
        assert ready.wait(60)
        assert not failed, failed
        yield shown["url"], shown["contact"]
    finally:
        if not failed:
            shown["loop"].call_soon_threadsafe(shown["stop"].set)
        thread.join(20)


def test_a_person_finds_their_way(sqlite_url: str) -> None:
    """Sign in, search, open, pull, confirm held deletions; each page fits a phone, and axe finds nothing."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    with served(sqlite_url) as (url, contact_id), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)

        page.goto(f"{url}/contacts")
        _check(page, Axe(), "sign in")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Name, e-mail or phone").fill(contact_id)
        page.get_by_role("button", name="Search").click()
        _check(page, Axe(), "contacts")
        page.locator("table.contacts tbody th a").first.click()
        page.wait_for_url(f"**/contacts/{LOCATION}/{contact_id}")
        page.get_by_role("button", name="Pull now").click()
        page.get_by_text("As of").wait_for()
        _check(page, Axe(), "contact")
        page.get_by_role("link", name="Rejects").click()
        _check(page, Axe(), "rejects")
        page.get_by_role("link", name="Status").click()
        _check(page, Axe(), "status")
        page.get_by_role("button", name="Confirm 6 deletions").click()
        page.get_by_text("deletions are confirmed").wait_for()
        assert complaints == []
        browser.close()


def _check(page: Any, axe: Any, name: str) -> None:
    for look, (scheme, width, height) in LOOKS.items():
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, f"{name} is too wide: {look}"
        found = axe.run(page)
        assert found.violations_count == 0, f"{name}, {look}: {found.generate_report()}"
