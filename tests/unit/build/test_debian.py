"""The machine's own apt sources are read in both of their formats."""

from pathlib import Path

import pytest

from microvmd.build.debian import (
    KEYRING,
    DebianUnavailable,
    Mirror,
    host_mirrors,
    sources_for,
)

OS_RELEASE = 'ID=debian\nVERSION_CODENAME="bookworm"\n'
DEB822 = """# mirror
Types: deb deb-src
URIs: http://mirror.example/debian http://second.example/debian
Suites: bookworm
 bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/own.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .

Types: deb
Enabled: no
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
"""


def etc(directory: Path, *, release: str = OS_RELEASE, **files: str) -> Path:
    apt = directory / "apt" / "sources.list.d"
    apt.mkdir(parents=True)
    (directory / "os-release").write_text(release)
    for name, text in files.items():
        (apt / name.replace("_", ".")).write_text(text)
    return directory


def test_deb822_sources(tmp_path: Path) -> None:
    assert host_mirrors(etc(tmp_path, debian_sources=DEB822)) == [
        Mirror("http://mirror.example/debian", "", "/usr/share/keyrings/own.gpg"),
        Mirror("http://mirror.example/debian", "-updates", "/usr/share/keyrings/own.gpg"),
        Mirror("http://mirror.example/security", "-security", KEYRING),
    ]


def test_one_line_sources(tmp_path: Path) -> None:
    text = """deb-src http://m.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main # comment
deb http://m.example/debian bookworm-backports main
deb http://other.example/x stable non-free
#deb http://off.example/debian bookworm-updates main
deb http://s.example/debian bookworm-security main
"""
    assert host_mirrors(etc(tmp_path, a_list=text)) == [
        Mirror("http://m.example/debian", "", "/k.gpg"),
        Mirror("http://s.example/debian", "-security", KEYRING),
    ]


def test_a_machine_without_debian_sources_is_told(tmp_path: Path) -> None:
    with pytest.raises(DebianUnavailable, match="No apt source"):
        host_mirrors(etc(tmp_path / "a"))
    with pytest.raises(DebianUnavailable, match="microvmd base add"):
        host_mirrors(etc(tmp_path / "b", release="ID=fedora\n"))


def test_sources_of_another_suite_keep_mirror_and_keyring() -> None:
    mirrors = [Mirror("http://m/d", "", "/k.gpg"), Mirror("http://m/s", "-security", "/k.gpg")]
    assert sources_for("trixie", mirrors) == (
        "Types: deb\nURIs: http://m/d\nSuites: trixie\nComponents: main\nSigned-By: /k.gpg\n\n"
        "Types: deb\nURIs: http://m/s\nSuites: trixie-security\nComponents: main\n"
        "Signed-By: /k.gpg\n"
    )
    assert f"Signed-By: {KEYRING}" in sources_for("trixie", mirrors, KEYRING)
