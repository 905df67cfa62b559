"""What a login leaves in the audit log: a record as CloudTrail's event ``ConsoleLogin`` is.

Shape: CloudTrail's user guide, "AWS Management Console sign-in events". A refused login proves
nothing, so that it is bounded as unproven calls are; what was typed as a key and is none may be a
secret in the wrong field, and is not told.
"""

import uuid
from dataclasses import dataclass

from microvmd.api.audit import HIDDEN, Call
from microvmd.api.credentials import Identity
from microvmd.api.requests import RequestContext

SOURCE = "signin.amazonaws.com"
NAME = "ConsoleLogin"
KIND = "AwsConsoleSignIn"
REFUSED = "Failed authentication"


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who knocks from where. ``way`` is ``AccessKey`` or ``Link``."""

    region: str
    source: str
    agent: str
    way: str

    def succeeded(self, context: RequestContext) -> Call:
        """It was let in as who ``context`` names."""
        call = self._call(context.request_id, "Success")
        call.context = context
        return call

    def refused(self, claimed: Identity | None, why: str = REFUSED) -> Call:
        """It was not; ``claimed`` is whose key was given, where that is a key at all."""
        call = self._call(str(uuid.uuid4()), "Failure")
        call.message = why
        if claimed is None:
            call.user_name = HIDDEN
        else:
            call.account, call.access_key = claimed.account, claimed.access_key
        return call

    def _call(self, request_id: str, outcome: str) -> Call:
        call = Call(request_id, self.region, self.source, self.agent)
        call.source, call.name, call.kind = SOURCE, NAME, KIND
        call.elements = {NAME: outcome}
        call.more = {"LoginWith": self.way, "MobileVersion": "No", "MFAUsed": "No"}
        return call
