"""planner

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

from rankr_sync.schema import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = ("location_id", "stream")


def upgrade() -> None:
    op.drop_index("ix_child_visits_due", table_name="child_visits")
    for column in (
        sa.Column("last_changed_at", UtcDateTime()),
        sa.Column("visits", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("changes", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("rate", sa.Double(), nullable=False, server_default="0.04419"),
        sa.Column("seen_changes", sa.Double(), nullable=False, server_default="0"),
        sa.Column("seen_days", sa.Double(), nullable=False, server_default="0"),
        sa.Column("signal", sa.String(32)),
        sa.Column("signalled_at", UtcDateTime()),
        sa.Column("announced", sa.Double(), nullable=False, server_default="0"),
    ):
        op.add_column("child_visits", column)
    # What was dated a day back waits for its visit; what was never visited does too.
    op.execute(
        "UPDATE child_visits SET signal = reason, signalled_at = due_at"
        " WHERE last_visited_at IS NULL OR reason IN ('new contact', 'record missed', 'could not be read')"
    )
    op.execute(
        "UPDATE child_visits SET signal = 'contact changed', signalled_at = due_at"
        " WHERE signal IS NULL AND reason = 'changed contact'"
    )
    signalled = sa.text("signal IS NOT NULL")
    op.create_index(
        "ix_child_visits_signalled",
        "child_visits",
        [*KEY, "due_at"],
        sqlite_where=signalled,
        postgresql_where=signalled,
    )
    op.create_index("ix_child_visits_turn", "child_visits", [*KEY, "rate", "last_visited_at"])
    op.create_table(
        "visit_signals",
        sa.Column("location_id", sa.String(64), nullable=False),
        sa.Column("stream", sa.String(32), nullable=False),
        sa.Column("signal", sa.String(32), nullable=False),
        sa.Column("visits", sa.Double(), nullable=False),
        sa.Column("found", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("location_id", "stream", "signal"),
    )
    op.create_table(
        "sync_delays",
        sa.Column("location_id", sa.String(64), nullable=False),
        sa.Column("stream", sa.String(32), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("within_seconds", sa.Integer(), nullable=False),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("location_id", "stream", "day", "within_seconds"),
    )
    op.create_table(
        "sync_audits",
        sa.Column("location_id", sa.String(64), nullable=False),
        sa.Column("stream", sa.String(32), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("contacts", sa.Integer(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("stale", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("location_id", "stream", "day"),
    )


def downgrade() -> None:
    for table in ("sync_audits", "sync_delays", "visit_signals"):
        op.drop_table(table)
    op.drop_index("ix_child_visits_turn", table_name="child_visits")
    op.drop_index("ix_child_visits_signalled", table_name="child_visits")
    for column in (
        "announced",
        "signalled_at",
        "signal",
        "seen_days",
        "seen_changes",
        "rate",
        "changes",
        "visits",
        "last_changed_at",
    ):
        op.drop_column("child_visits", column)
    op.create_index("ix_child_visits_due", "child_visits", [*KEY, "due_at"])
