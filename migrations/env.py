"""Alembic's entry: on the connection that rankr-sync gives, or on RANKR_SYNC_DATABASE__URL from the shell."""

import os

from alembic import context

from rankr_sync import schema
from rankr_sync.store.connect import open_engine


def _include(thing, name, kind, reflected, compare_to):
    if kind == "index" and name.startswith("ix_contacts_search_"):
        return False  # over expressions, and not the same on both databases: see schema.SEARCH_INDEXES
    return not (kind == "table" and reflected and compare_to is None and name == "alembic_version")


def _render(kind, thing, autogen_context):
    if kind == "type" and isinstance(thing, schema.UtcDateTime):
        autogen_context.imports.add("from rankr_sync.schema import Json, UtcDateTime")
        return "UtcDateTime()"
    if kind == "type" and isinstance(thing, schema.Json):
        return "Json()"
    return False


def _run(connection):
    context.configure(
        connection=connection,
        target_metadata=schema.metadata,
        include_object=_include,
        render_item=_render,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    with open_engine(os.environ.get("RANKR_SYNC_DATABASE__URL", "sqlite:///rankr.db")).begin() as connection:
        _run(connection)
