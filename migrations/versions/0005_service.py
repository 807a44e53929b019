"""service: the day's curve of requests, daily summaries, OAuth tokens, indexes to search contacts by

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

from rankr_sync.schema import Json, UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_LABEL = "substr(lower(coalesce(name, email, phone, id)), 1, 80)"
_FAMILY = "substr(lower(last_name), 1, 80)"
_ADDRESS = "substr(lower(email), 1, 80)"
_PHONE_END = "substr(phone, length(phone) - 6)"
_SEARCH_INDEXES = {
    "sqlite": {
        "ix_contacts_search_label": f"(location_id, {_LABEL}, id, tags, business_id, deleted_at)",
        "ix_contacts_search_family": f"(location_id, {_FAMILY}, id)",
        "ix_contacts_search_address": f"(location_id, {_ADDRESS}, id)",
        "ix_contacts_search_phone_end": f"(location_id, {_PHONE_END}, id)",
    },
    "postgresql": {
        "ix_contacts_search_label": f'(location_id, ({_LABEL}) COLLATE "C", id)',
        "ix_contacts_search_family": f'(location_id, ({_FAMILY}) COLLATE "C", id)',
        "ix_contacts_search_address": f'(location_id, ({_ADDRESS}) COLLATE "C", id)',
        "ix_contacts_search_phone": '(location_id, phone COLLATE "C", id)',
        "ix_contacts_search_phone_end": f"(location_id, ({_PHONE_END}), id)",
        "ix_contacts_search_tags": "USING gin (tags jsonb_path_ops)",
    },
}


def upgrade() -> None:
    op.create_table(
        "usage_slots",
        sa.Column("location_id", sa.String(64), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("throttled", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("location_id", "at"),
    )
    op.create_table(
        "daily_summaries",
        sa.Column("location_id", sa.String(64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("content", Json(), nullable=False),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("due_at", UtcDateTime()),
        sa.Column("delivered_to", Json()),
        sa.Column("delivered_at", UtcDateTime()),
        sa.Column("delivery_error", sa.Text()),
        sa.PrimaryKeyConstraint("location_id", "day"),
    )
    op.create_table(
        "oauth_tokens",
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("user_type", sa.String(16), nullable=False),
        sa.Column("company_id", sa.String(64)),
        sa.Column("location_id", sa.String(64)),
        sa.Column("scopes", sa.Text()),
        sa.Column("access_token", sa.Text(), nullable=False),
        sa.Column("refresh_token", sa.Text()),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("refreshing_by", sa.String(80)),
        sa.Column("refreshing_until", UtcDateTime()),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_contacts_business_id", "contacts", ["location_id", "business_id"])
    for name, what in _SEARCH_INDEXES[op.get_bind().dialect.name].items():
        op.execute(f"CREATE INDEX {name} ON contacts {what}")
    op.add_column("tasks", sa.Column("first_seen_at", UtcDateTime()))
    op.add_column("tasks", sa.Column("completed_at", UtcDateTime()))
    op.add_column("sync_cursors", sa.Column("first_completed_at", UtcDateTime()))
    op.execute("UPDATE sync_cursors SET first_completed_at = updated_at WHERE phase = 'complete'")


def downgrade() -> None:
    op.drop_column("sync_cursors", "first_completed_at")
    op.drop_column("tasks", "completed_at")
    op.drop_column("tasks", "first_seen_at")
    for name in _SEARCH_INDEXES[op.get_bind().dialect.name]:
        op.execute(f"DROP INDEX {name}")
    op.drop_index("ix_contacts_business_id", "contacts")
    for table in ("oauth_tokens", "daily_summaries", "usage_slots"):
        op.drop_table(table)
