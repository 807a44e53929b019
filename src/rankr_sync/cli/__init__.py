"""The command line. What a command does is in its module; names, help and order are here."""

from typing import Annotated

import typer

from rankr_sync import __version__
from rankr_sync.cli import auth, common, contacts, database, inspect, mapping, sandbox, sync
from rankr_sync.cli.check import CHECK_HELP, check
from rankr_sync.cli.init import INIT_HELP, init
from rankr_sync.cli.plan import PLAN_HELP, plan
from rankr_sync.cli.summary import SUMMARY_HELP, summary

app = common.new_app("Mirror the HighLevel CRM into SQL, and keep the mirror fresh.")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rankr-sync {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command(help=sandbox.DEMO_HELP)(sandbox.demo)
app.command("sandbox", help=sandbox.SANDBOX_HELP)(sandbox.serve_sandbox)
app.command(help=INIT_HELP)(init)
app.command(help=CHECK_HELP)(check)
app.command(help=PLAN_HELP)(plan)
app.command(help=sync.BACKFILL_HELP)(sync.backfill)
app.command(help=sync.RUN_HELP)(sync.run)
app.command(help=inspect.STATUS_HELP)(inspect.status)
app.command(help=inspect.CONTACT_HELP)(inspect.contact)
app.command(help=contacts.CONTACTS_HELP)(contacts.contacts)
app.add_typer(auth.app, name="auth")
app.command(help=SUMMARY_HELP)(summary)
app.add_typer(inspect.rejects_app, name="rejects")
app.add_typer(mapping.app, name="mapping")
app.add_typer(database.app, name="db")


def main() -> None:
    """The entry point `rankr-sync`."""
    common.main_with(app)
