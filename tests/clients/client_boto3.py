"""boto3, as its users call it."""

from typing import Any

from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.loaders import Loader

from microvmd.api.operations import SERVICES, load_operations
from tests.clients.live import LiveApi
from tests.clients.models import ClientModel
from tests.clients.outcome import OWNER, Caller, Outcome
from tests.clients.served import BOTO3

_SERVICE = {operation.name: operation.service for operation in load_operations()}


class Boto3Client:
    """One client of each service; ``options`` go to both of them."""

    name = BOTO3

    def __init__(self, api: LiveApi, caller: Caller = OWNER, **options: Any) -> None:
        identity = {
            "aws_access_key_id": caller.access_key,
            "aws_secret_access_key": caller.secret_key,
            "region_name": caller.region,
        }
        self._clients = {
            service: api.client(service, **identity, **options) for service, _ in SERVICES
        }
        self.model = ClientModel.of_service_files(
            Loader().load_service_model(service, "service-2") for service in self._clients
        )

    def call(self, operation: str, /, **members: Any) -> Outcome:
        client = self._clients[_SERVICE[operation]]
        try:
            answer = getattr(client, xform_name(operation))(**members)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            return Outcome(
                error.response["ResponseMetadata"]["HTTPStatusCode"],
                {k: v for k, v in error.response.items() if k not in _ENVELOPE},
                code,
                error.response["Error"]["Message"],
                typed=type(error) is getattr(client.exceptions, code, None),
            )
        return Outcome(answer.pop("ResponseMetadata")["HTTPStatusCode"], answer)

    def items(self, operation: str, page_size: int, /, **members: Any) -> list[dict[str, Any]]:
        paginator = self._clients[_SERVICE[operation]].get_paginator(xform_name(operation))
        pages = paginator.paginate(**members, PaginationConfig={"PageSize": page_size})
        found: list[dict[str, Any]] = pages.build_full_result()[paginator.result_keys[0].expression]
        return found

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


_ENVELOPE = frozenset({"Error", "ResponseMetadata", "message", "Message"})
