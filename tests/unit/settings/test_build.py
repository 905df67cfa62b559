"""What a build may take, and what is refused."""

import pytest
from pydantic import ValidationError

from microvmd.settings.build import BuildSettings


def test_an_image_fits_on_the_disk_of_its_build() -> None:
    with pytest.raises(ValidationError, match=r"image_mib \(8192\) is more than the disk"):
        BuildSettings(disk_mib=4096)
    assert BuildSettings(disk_mib=4096, image_mib=4096).image_mib == 4096


def test_certificates_of_this_process_are_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("ca") / "ca.crt"
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert BuildSettings().ca_bundle is None
    file.write_text("x")
    assert BuildSettings().ca_bundle == file
