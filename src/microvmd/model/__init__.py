"""Decisions: values, states and rules. Pure: no I/O, no clock, nothing of ours imported."""
