"""What the local AWS server is told with a request: the account and the service, by us alone.

It takes both from headers, and where those are missing from whatever else the request says. So they
are always set here, and what the client sent of them is left out.
"""

ACCOUNT_HEADER = "x-moto-account-id"
OURS = frozenset({"authorization", "host", ACCOUNT_HEADER})
"""Headers of a client that never reach the local server."""


def local_headers(service: str, region: str, account: str) -> list[tuple[bytes, bytes]]:
    """The local server verifies no signature; it reads the service's name off it."""
    scope = f"microvmd/20260101/{region or 'us-east-1'}/{service}/aws4_request"
    signature = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
    return [
        (b"host", b"localhost"),
        (b"authorization", signature.encode("latin-1", "replace")),
        (ACCOUNT_HEADER.encode(), account.encode()),
    ]
