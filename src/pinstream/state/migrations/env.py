"""What Alembic runs for every upgrade: `database.upgrade` hands it an open connection."""

from __future__ import annotations

from alembic import context

from pinstream.state.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
)
context.run_migrations()
