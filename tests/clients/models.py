"""The API as a client knows it: clients are generated from models of different ages.

What a client's model lacks it can neither send nor show, so exercises leave that out for it, and
the coverage page lists it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from microvmd.api.operations import load_operations

_OPERATIONS = {operation.name: operation for operation in load_operations()}


@dataclass(frozen=True, slots=True)
class ClientModel:
    """Operations, and the members of every structure by its name in the models of today."""

    operations: frozenset[str]
    structures: Mapping[str, frozenset[str]]

    @classmethod
    def of_service_files(cls, documents: Iterable[Mapping[str, Any]]) -> "ClientModel":
        """From documents of the form of botocore's ``service-2.json``."""
        operations: set[str] = set()
        structures: dict[str, frozenset[str]] = {}
        for document in documents:
            operations |= document["operations"].keys()
            for name, shape in document["shapes"].items():
                if shape["type"] == "structure":
                    structures[name] = frozenset(shape["members"])
        return cls(frozenset(operations), structures)

    def sendable(self, operation: str, members: Mapping[str, Any]) -> dict[str, Any]:
        """The members of a request that this client can send."""
        shape = _OPERATIONS[operation].input
        return {} if shape is None else self.known(shape.name, members)

    def shown(self, operation: str, members: Mapping[str, Any]) -> dict[str, Any]:
        """The members of an answer that this client can show."""
        shape = _OPERATIONS[operation].output
        return {} if shape is None else self.known(shape.name, members)

    def known(self, structure: str, members: Mapping[str, Any]) -> dict[str, Any]:
        known = self.structures.get(structure, frozenset())
        return {name: value for name, value in members.items() if name in known}
