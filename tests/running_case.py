"""A real server on a small demo book, on a port of this host, for tests that ask over HTTP."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from access_case import jwk, write_jwks

from gpu_margin import demo
from gpu_margin.server.app import App
from gpu_margin.server.house import House
from gpu_margin.server.keys import new_key
from gpu_margin.server.serving import assemble, uvicorn_config
from gpu_margin.server.settings import server_settings

GATE = '[gate]\nmodel = "historical"\nstale_seconds = 60.0\n'
# Accounts, instruments and factors of every demo book of 60 accounts.
MINE, OTHER = "collar-000005", "outright-000008"
FUTURE, CALL = "WTI-F-2019-03", "WTI-C-2019-03-47"
FACTORS = ("WTI", "SP500", "NASDAQ")
SCOPES = ("read", "whatif", "trade", "admin")
ISSUER, AUDIENCE = "https://issuer.example", "gpu-margin"


@cache
def _tables(accounts: int) -> demo.DemoTables:
    return demo.build(accounts)


def demo_book(folder: Path, accounts: int = 60, extra_toml: str = "", gate: str = GATE) -> Path:
    """The TOML of a demo book in `folder`, with a gate and whatever tables are given."""
    config = demo.write(_tables(accounts), folder)
    text = config.read_text().replace("lookback = 1000", "lookback = 250")
    # The demo may have a gate of its own: one of this test's instead.
    text = re.sub(r"^\[gate\][^\[]*", "", text, flags=re.M)
    config.write_text(f"{text}{gate}{extra_toml}")
    return config


@dataclass(frozen=True)
class Keys:
    """API keys by name. `all` has every scope; a scope's own has no other; `desk` is a tenant."""

    folder: Path
    by_name: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, *scopes: str, **settings: Any) -> str:
        """A new key in the file, which a server reads anew within a second or two."""
        made = new_key(self.folder / "keys.toml", name, scopes=list(scopes or SCOPES), **settings)
        self.by_name[name] = made[1]
        return made[1]

    def __getitem__(self, name: str) -> dict[str, str]:
        """Headers of a request."""
        return {"Authorization": f"Bearer {self.by_name[name]}"}


def keys_in(folder: Path) -> Keys:
    """A file of keys, and the issuer of tokens `access_case.token("one")`."""
    keys = Keys(folder)
    keys.add("all")
    for scope in SCOPES:
        keys.add(scope, scope)
    keys.add("desk", tenant="desk")
    write_jwks(folder / "jwks.json", jwk("one"))
    return keys


ACCESS = f"""
[server.access]
keys = "keys.toml"
[server.access.jwt]
jwks = "jwks.json"
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
[server.access.tenants.desk]
accounts = ["collar-*"]
"""


@dataclass
class Running:
    """A server that runs: `house` is what is behind it. `stop` may be called more than once."""

    url: str
    app: App
    house: House
    port: int
    _server: uvicorn.Server
    _thread: threading.Thread
    keys: Keys | None = None

    def stop(self) -> None:
        """As a signal would: those who listen are let go, the book is kept, the log closed."""
        loop = self.house._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.house.leave)
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def client(self, headers: dict[str, str] | None = None) -> httpx.Client:
        """A client of this server."""
        return httpx.Client(base_url=self.url, headers=headers or {}, timeout=30, verify=False)

    def ready(self, seconds: float = 60.0) -> None:
        """Wait until questions are answered."""
        ends = time.monotonic() + seconds
        while self.house.threads.reader is None:
            assert self.house.error is None, self.house.error
            assert time.monotonic() < ends and self._thread.is_alive()
            time.sleep(0.01)


@contextmanager
def running(config: Path, backend: str = "numpy", *, wait: bool = True) -> Iterator[Running]:
    """The server of a TOML with its own limits, keys and TLS; it stops with the block."""
    assembled = assemble(config, backend)
    settings = server_settings(assembled.house.config).resolved(config.resolve().parent)
    options = uvicorn_config(assembled.app, settings)
    options.host, options.port = "127.0.0.1", 0
    options.timeout_graceful_shutdown = 5
    server = uvicorn.Server(options)
    thread = threading.Thread(target=server.run, name="server", daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    scheme = "http" if settings.tls is None else "https"
    found = Running(
        f"{scheme}://127.0.0.1:{port}", assembled.app, assembled.house, port, server, thread
    )
    try:
        if wait:
            found.ready()
        yield found
    finally:
        found.stop()


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The answer is a problem of this status, and a complete one."""
    assert answer.status_code == status, (answer.status_code, answer.text[:500])
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status and found["type"].startswith("urn:gpu-margin:problem:")
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["title"] and found["detail"]
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    return found
