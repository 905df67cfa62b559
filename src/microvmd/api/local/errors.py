"""Errors as other AWS services word and wrap them.

The local AWS server's process needs them too, so nothing of the API is loaded here.
"""

import json
from xml.sax.saxutils import escape

JSON_SERVICES = frozenset({"logs", "kms"})
"""Whose requests and answers are JSON; those of the others are XML."""
# S3 and the query services have older names for the same refusals.
_S3_NAMES = {
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "UnrecognizedClientException": "InvalidAccessKeyId",
    "IncompleteSignatureException": "AuthorizationHeaderMalformed",
    "ExpiredTokenException": "ExpiredToken",
}
_QUERY_NAMES = {
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "UnrecognizedClientException": "InvalidClientTokenId",
    "IncompleteSignatureException": "IncompleteSignature",
    "ExpiredTokenException": "ExpiredToken",
}


def error_body(
    service: str, code: str, message: str, status: int, request_id: str | None = None
) -> tuple[str, bytes]:
    """The media type and the content of an error; without a number of the request where there is
    none."""
    if service in JSON_SERVICES:
        body = json.dumps({"__type": code, "message": message})
        return "application/x-amz-json-1.1", body.encode()
    text = escape(message)
    number = "" if request_id is None else f"<RequestId>{escape(request_id)}</RequestId>"
    if service == "s3":
        name = _S3_NAMES.get(code, code)
        xml = f"<Error><Code>{name}</Code><Message>{text}</Message>{number}</Error>"
    else:
        name = _QUERY_NAMES.get(code, code)
        fault = "Sender" if status < 500 else "Receiver"
        xml = (
            f"<ErrorResponse><Error><Type>{fault}</Type><Code>{name}</Code>"
            f"<Message>{text}</Message></Error>{number}</ErrorResponse>"
        )
    return "application/xml", f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}'.encode()
