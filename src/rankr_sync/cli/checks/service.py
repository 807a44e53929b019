"""What the daemon would serve and send, as `check` sees it: the page's address, who may come in, where summaries go.

The address is taken for a moment and given back. Nothing is sent, and no secret of a target is shown.
"""

from collections.abc import Iterator

from rankr_sync.cli.checks.finding import OK, WARNING, Finding, of_error
from rankr_sync.config import Config, Http, Summary
from rankr_sync.delivery import read_urls, targets
from rankr_sync.errors import BadConfiguration

PAGE, SUMMARY = "status page", "summary"


def examine(config: Config, *, at_work: bool) -> Iterator[Finding]:
    """The lines of the page and, where summaries are sent, of their targets. `at_work`: a daemon is, on this store."""
    yield _page(config.http, at_work=at_work)
    yield from _targets(config.summary)


def _page(http: Http, *, at_work: bool) -> Finding:
    # A server, which no other line of `check` needs.
    from rankr_sync.service import probe, server

    try:
        listener = server.listen(http)
    except BadConfiguration as error:
        if at_work and isinstance(error, server.AddressTaken) and probe.is_alive(http.listen):
            return Finding(OK, PAGE, f"{http.listen}, served just now")
        return of_error(error, PAGE)
    if listener is None:
        return Finding(OK, PAGE, "off: run serves no page, health or metrics")
    listener.socket.close()
    return Finding(OK, PAGE, f"{http.listen}, {'closed' if listener.access.closed else 'for this machine only'}")


def _targets(summary: Summary) -> Iterator[Finding]:
    if not summary.urls and summary.urls_file is None:
        return
    try:
        found = targets(read_urls([url.get_secret_value() for url in summary.urls], summary.urls_file))
    except BadConfiguration as error:
        yield of_error(error, SUMMARY)
        return
    known = [one.name for one in found if one.known]
    if known:
        yield Finding(
            OK, SUMMARY, f"sent at {summary.at} to {', '.join(known)}; to try it now: rankr-sync summary --send"
        )
    for one in found:
        if not one.known:
            hint = "correct summary.urls or its file: https://appriseit.com/services/"
            yield Finding(WARNING, f"{SUMMARY}, {one.name}", "apprise knows no such URL", hint)
