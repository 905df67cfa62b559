"""Alembic migrations of the store; the connection comes from ``Store``."""
