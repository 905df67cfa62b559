"""The service's own requests below ``/microvmd/v1``, which no AWS model describes."""

PREFIX = "/microvmd/v1"
