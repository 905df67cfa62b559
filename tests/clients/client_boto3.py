"""boto3, as its users call it."""

from typing import Any

from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.loaders import Loader

from microvmd.api.operations import SERVICES, load_operations
from tests.clients.live import LiveApi
from tests.clients.models import ClientModel
from tests.clients.outcome import Outcome
from tests.clients.served import BOTO3

_SERVICE = {operation.name: operation.service for operation in load_operations()}


class Boto3Client:
    """One client of each service; ``options`` go to both."""

    name = BOTO3

    def __init__(self, api: LiveApi, **options: Any) -> None:
        self._clients = {service: api.client(service, **options) for service, _ in SERVICES}
        self.model = ClientModel.of_service_files(
            Loader().load_service_model(service, "service-2") for service in self._clients
        )

    def call(self, operation: str, /, **members: Any) -> Outcome:
        client = self._clients[_SERVICE[operation]]
        try:
            answer = getattr(client, xform_name(operation))(**members)
        except ClientError as error:
            typed = getattr(client.exceptions, error.response["Error"]["Code"], ClientError)
            return Outcome(
                error.response["ResponseMetadata"]["HTTPStatusCode"],
                {k: v for k, v in error.response.items() if k not in _ENVELOPE},
                type(error).__name__ if type(error) is typed else None,
                error.response["Error"]["Message"],
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
