"""How a client reaches its server: address, key or token, certificates, time limits."""

from __future__ import annotations

import ssl
from os import PathLike, fspath
from typing import Any

Path = str | PathLike[str]


def options(
    url: str,
    key: str | None,
    token: str | None,
    ca: Path | None,
    certificate: tuple[Path, Path] | None,
    timeout: float,
) -> dict[str, Any]:
    """Arguments of an httpx client; `ValueError` where both a key and a token are given."""
    if key is not None and token is not None:
        raise ValueError("give an API key or a token, not both")
    headers = {}
    if key is not None:
        headers["X-API-Key"] = key
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    verify: ssl.SSLContext | bool = True
    if ca is not None or certificate is not None:
        verify = ssl.create_default_context(cafile=None if ca is None else fspath(ca))
        if certificate is not None:
            verify.load_cert_chain(*(fspath(part) for part in certificate))
    return {"base_url": url, "headers": headers, "verify": verify, "timeout": timeout}
