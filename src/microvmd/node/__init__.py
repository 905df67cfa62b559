"""Privileged, on each machine: owns the real resources of MicroVMs."""
