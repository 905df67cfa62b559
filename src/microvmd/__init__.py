"""microvmd: self-hosted AWS Lambda MicroVMs."""

__version__ = "0.1.0"
