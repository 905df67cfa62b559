"""From a version to the form and back to a request, and what no request can be made of."""

from typing import Any

import pytest

from microvmd.console.image_form import ROWS, ImageForm, Unusable, check_rows, networks, step_of

BASE = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1"
VERSION: dict[str, Any] = {
    "baseImageArn": BASE,
    "baseImageVersion": "1",
    "buildRoleArn": "arn:aws:iam::111122223333:role/build",
    "codeArtifact": {"uri": "s3://bucket/app.zip"},
    "description": "what it is",
    "resources": [{"minimumMemoryInMiB": 1024}],
    "egressNetworkConnectors": ["arn:some"],
    "additionalOsCapabilities": ["ALL"],
    "environmentVariables": {"A": "1", "B": "two\nlines"},
    "kmsKeyIdentifier": "alias/key",
    "hooks": {
        "port": 9001,
        "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 60},
        "microvmHooks": {"run": "ENABLED", "suspend": "DISABLED"},
    },
    "logging": {"cloudWatch": {"logGroup": "/own"}},
}


def _sent(form: ImageForm) -> dict[str, list[str]]:
    """The fields that a browser sends of the form."""
    fields = {
        "env_name": [name for name, _ in form.environment],
        "env_value": [value for _, value in form.environment],
        "tag_name": [name for name, _ in form.tags],
        "tag_value": [value for _, value in form.tags],
        "capabilities": ["on"] if form.capabilities else [],
        "kind": [form.kind],
        "logging": [form.logging],
    }
    for name in ("name", "description", "uploaded", "s3_uri", "example", "base", "base_version"):
        fields[name] = [getattr(form, name)]
    for name in ("role", "memory", "network", "kms_key", "hook_port", "log_group", "log_stream"):
        fields[name] = [getattr(form, name)]
    fields |= {f"hook.{name}": ["on"] for name, enabled in form.hooks.items() if enabled}
    fields |= {f"timeout.{name}": [text] for name, text in form.timeouts.items()}
    return fields


def test_a_version_comes_back_as_it_was() -> None:
    form = ImageForm.of_fields(_sent(ImageForm.of_version("app", VERSION, "")))
    request = form.request(form.source())
    assert request["hooks"]["microvmHooks"] == {"run": "ENABLED", "runTimeoutInSeconds": 1}
    assert request["hooks"]["microvmImageHooks"] == VERSION["hooks"]["microvmImageHooks"]
    del request["hooks"]
    assert request == {name: value for name, value in VERSION.items() if name != "hooks"}


def test_a_version_of_defaults_asks_for_nothing_more() -> None:
    plain = {name: VERSION[name] for name in ("baseImageArn", "buildRoleArn", "codeArtifact")}
    form = ImageForm.of_fields(_sent(ImageForm.of_version("app", plain, "")))
    assert form.request(form.source()) == plain


def test_logging_that_is_off() -> None:
    form = ImageForm.of_version("app", {**VERSION, "logging": {"disabled": {}}}, "")
    assert ImageForm.of_fields(_sent(form)).request("s3://b/k")["logging"] == {"disabled": {}}


@pytest.mark.parametrize(
    ("fields", "step", "words"),
    [
        ({"memory": ["a lot"]}, "machine", "whole number"),
        ({"hook.ready": ["on"], "hook_port": ["x"]}, "hooks", "port of hooks"),
        ({"hook.run": ["on"], "hook_port": ["1"], "timeout.run": ["1.5"]}, "hooks", "/run"),
        ({"env_name": ["A", "A"], "env_value": ["1", "2"]}, "environment", "twice"),
        ({"env_name": [""], "env_value": ["1"]}, "environment", "no name"),
    ],
)
def test_what_no_request_can_be_made_of(
    fields: dict[str, list[str]], step: str, words: str
) -> None:
    form = ImageForm.of_fields({"s3_uri": ["s3://b/k"], "kind": ["s3"], **fields})
    with pytest.raises(Unusable, match=words) as caught:
        form.request(form.source())
    assert caught.value.step == step


def test_rows_that_do_not_fit() -> None:
    for fields in (
        {"env_name": ["A"]},
        {"tag_name": ["A"] * (ROWS + 1), "tag_value": ["1"] * (ROWS + 1)},
    ):
        with pytest.raises(Unusable):
            check_rows(fields)
        shown = ImageForm.of_fields(fields)
        assert len(shown.environment) + len(shown.tags) == max(map(len, fields.values()))


@pytest.mark.parametrize("kind", ["upload", "s3", "example"])
def test_every_source_has_to_be_given(kind: str) -> None:
    with pytest.raises(Unusable) as caught:
        ImageForm.of_fields({"kind": [kind]}).source()
    assert caught.value.step == "source"


def test_where_a_refusal_belongs() -> None:
    assert step_of("Value 'x y' at 'name' failed to satisfy constraint") == "source"
    assert step_of("The requested memory size of 3 MiB is not supported") == "machine"
    assert step_of("The ready (/ready) MicroVM image hook must be enabled") == "hooks"
    assert step_of("at 'environmentVariables' failed") == "environment"
    assert step_of("something else") == ""


def test_networks_are_those_that_everybody_has() -> None:
    names = dict(networks("us-east-1"))
    assert set(names.values()) == {"INTERNET_EGRESS", "NO_EGRESS"}
    assert all(arn.endswith(name) for arn, name in names.items())
