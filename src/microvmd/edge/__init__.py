"""The data plane: HAProxy in front of every MicroVM, and what keeps it told and running."""
