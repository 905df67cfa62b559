"""Alembic's entry: runs the migrations on the connection that the store hands in."""

from alembic import context

from microvmd.control.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
context.run_migrations()
