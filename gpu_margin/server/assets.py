"""The page, its scripts and Swagger UI: files of the package, read once, served from memory.

Only files that were there at the start can be named, so no path leads outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response

from gpu_margin.server.problems import Problem

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",
}
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Text can become markup in no way that the browser knows of.
PAGE_POLICY = DOCS_POLICY + "; require-trusted-types-for 'script'; trusted-types"
NOTHING_POLICY = "default-src 'none'; frame-ancestors 'none'"

DOCS = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>gpu-margin: the risk server's routes</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="/static/swagger/swagger-ui.css">
</head><body><div id="docs"></div>
<script src="/static/swagger/swagger-ui-bundle.js"></script><script src="/static/docs.js"></script>
</body></html>
"""


@dataclass(frozen=True)
class Asset:
    """A file, what it is, and a tag that changes with its bytes."""

    body: bytes
    media_type: str
    tag: str


class Assets:
    """The files below `gpu_margin/server/static`, by path."""

    def __init__(self) -> None:
        self._files = dict(_walk(files("gpu_margin.server") / "static", ""))

    def paths(self) -> list[str]:
        """Every file that is served."""
        return sorted(self._files)

    def answer(self, request: Request, path: str, policy: str = NOTHING_POLICY) -> Response:
        """The file, or 304 where the browser has it; raises `Problem` 404."""
        asset = self._files.get(path)
        if asset is None:
            raise Problem(
                404, "not_found", f"there is no file {path!r}", way_out="start from the page at /"
            )
        headers = {
            "ETag": asset.tag,
            # Asked for again each time, so that a new version of the server is a new page.
            "Cache-Control": "no-cache",
            "Content-Security-Policy": policy,
        }
        if request.headers.get("if-none-match") == asset.tag:
            return Response(status_code=304, headers=headers)
        return Response(asset.body, headers={**headers, "Content-Type": asset.media_type})


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            found += _walk(entry, path + "/")
            continue
        suffix = path[path.rfind(".") :] if "." in entry.name else ""
        if suffix in _TYPES:
            body = entry.read_bytes()
            found.append((path, Asset(body, _TYPES[suffix], f'"{sha256(body).hexdigest()[:32]}"')))
    return found
