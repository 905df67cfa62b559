"""The console's own files and those of others that setup has put beside the guest's kernel.

A name with the digest of its content never changes and is kept for a year; without one a browser
asks by its ETag whether it has changed.
"""

import hashlib
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

OWN = Path(__file__).parent / "static"
PREFIX = "/console/assets"


class Files(StaticFiles):
    """One directory of files, which need not be there."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory, check_dir=False)

    async def check_config(self) -> None:
        """Whatever is missing is a 404: a checkout without assets still has pages."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """With how long it may be kept."""
        answer = await super().get_response(path, scope)
        named = scope["query_string"].startswith(b"v=")
        kept = "private, max-age=31536000, immutable" if named else "private, no-cache"
        answer.headers["cache-control"] = kept if answer.status_code in (200, 304) else "no-store"
        return answer

    def is_not_modified(self, response_headers: Headers, request_headers: Headers) -> bool:
        """By the ETag alone: two files of one second differ."""
        wanted = request_headers.get("if-none-match", "")
        return response_headers["etag"] in [tag.strip(" W/") for tag in wanted.split(",")]


class Assets:
    """Both directories. ``vendor`` holds the files of others."""

    def __init__(self, vendor: Path) -> None:
        self.directories = {"own": OWN, "vendor": vendor}
        self._digests = {
            f"{kind}/{name}": digest
            for kind, directory in self.directories.items()
            for name, digest in _digests(directory).items()
        }

    def url(self, name: str) -> str:
        """``own/console.css`` as a page links it."""
        digest = self._digests.get(name)
        return f"{PREFIX}/{name}" if digest is None else f"{PREFIX}/{name}?v={digest}"


def _digests(directory: Path) -> dict[str, str]:
    """Of the files that are there and may be read, by name."""
    try:
        files = [path for path in directory.iterdir() if path.is_file()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in files}
    except OSError:
        return {}
