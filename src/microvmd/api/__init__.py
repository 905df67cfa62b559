"""The AWS API: bytes to typed request and back, derived from botocore's models. No rules here."""
