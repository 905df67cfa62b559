"""Unprivileged: decisions made durable."""
