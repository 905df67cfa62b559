"""The AWS profile: ours is written, nobody else's is touched, botocore reads it."""

import os
from pathlib import Path

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.service import profile

OURS = profile.Profile(
    name="microvmd",
    endpoint_url="http://127.0.0.1:8480",
    region="us-east-1",
    access_key_id="AKIDEXAMPLE",
    secret_access_key="secret",
)
OTHERS = """# mine
[default]
region = eu-west-1

[profile microvmd]
endpoint_url = http://old
s3 =
    addressing_style = virtual

[profile work]  # office
role_arn = arn:aws:iam::123456789012:role/x
"""


@pytest.fixture
def files(tmp_path: Path) -> profile.AwsFiles:
    return profile.AwsFiles(tmp_path / "aws" / "config", tmp_path / "aws" / "credentials")


def test_new_files_are_private_and_readable_by_botocore(
    files: profile.AwsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert profile.write(OURS, files)
    assert files.credentials.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("AWS_CONFIG_FILE", str(files.config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(files.credentials))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    session = botocore.session.Session(profile="microvmd")
    client = session.create_client("lambda-microvms")
    assert client.meta.endpoint_url == OURS.endpoint_url
    assert client.meta.region_name == "us-east-1"
    credentials = session.get_credentials()
    assert credentials is not None
    assert credentials.access_key == "AKIDEXAMPLE"


def test_a_second_write_changes_nothing(files: profile.AwsFiles) -> None:
    profile.write(OURS, files)
    before = files.config.stat().st_ino
    assert not profile.write(OURS, files)
    assert files.config.stat().st_ino == before


def test_others_stay_as_they_are(files: profile.AwsFiles) -> None:
    files.config.parent.mkdir()
    files.config.write_text(OTHERS)
    files.config.chmod(0o640)
    profile.write(OURS, files)
    text = files.config.read_text()
    assert "# mine\n[default]\nregion = eu-west-1\n" in text
    assert "[profile work]  # office\nrole_arn" in text
    assert "http://old" not in text
    assert "virtual" not in text
    assert text.count("[profile microvmd]") == 1
    assert text.index("[profile microvmd]") < text.index("[profile work]")
    assert files.config.stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed(files: profile.AwsFiles, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles"
    real.write_text("[profile other]\nregion = x\n")
    files.config.parent.mkdir()
    files.config.symlink_to(real)
    profile.write(OURS, files)
    assert files.config.is_symlink()
    assert "[profile microvmd]" in real.read_text()


def test_no_half_written_file_is_left(
    files: profile.AwsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        profile.write(OURS, files)
    assert list(files.config.parent.iterdir()) == []


names = st.text(alphabet="abcdefg-_", min_size=1, max_size=8)
sections = st.lists(
    st.tuples(names, st.dictionaries(names, names, max_size=3)),
    max_size=5,
    unique_by=lambda pair: pair[0],
)


@given(sections)
def test_every_other_section_survives(others: list[tuple[str, dict[str, str]]]) -> None:
    text = "".join(
        f"[profile {name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
        for name, values in others
    )
    once = profile.replace_section(text, "profile OURS", {"region": "x"})
    assert all(line in once.splitlines() for line in text.splitlines())
    assert profile.replace_section(once, "profile OURS", {"region": "x"}) == once
