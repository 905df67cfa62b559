"""Commands and reports: values that name their MicroVM, version and generation."""

from dataclasses import FrozenInstanceError, fields
from typing import get_args

import pytest

from microvmd.messages.node import Command, Report, Started, StartMicrovm, VersionKey

MESSAGES = (*get_args(Command), *get_args(Report))


def test_a_version_key_names_a_place_of_its_own() -> None:
    keys = {VersionKey("1", "app", "1.0"), VersionKey("1", "app", "1.0"), VersionKey("1", "a", "1")}
    assert {str(key) for key in keys} == {"1/app/1.0", "1/a/1"}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_each_message_says_what_it_speaks_of(message: type) -> None:
    names = {field.name for field in fields(message)}
    incarnation = names >= {"microvm_id", "generation"}
    assert names & {"spec", "version", "connector_id"} or incarnation
    assert "__slots__" in vars(message)


def test_each_command_and_report_is_a_type_of_its_own() -> None:
    assert len(set(MESSAGES)) == len(MESSAGES)
    assert StartMicrovm in MESSAGES
    assert Started in MESSAGES


def test_messages_cannot_change_under_way() -> None:
    report = Started("microvm-1", 1, "10.200.0.2")
    with pytest.raises(FrozenInstanceError):
        report.generation = 2  # type: ignore[misc]
