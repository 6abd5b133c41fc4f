"""A risk server that is a process of its own, on the small venue, to be stopped and killed.

Such a process takes most of its start to import what it needs, which `Spares` have done before
they are told what to serve: to kill many servers takes less time with them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from gpu_margin.server.keys import new_key

Body = Mapping[str, Any] | None
GATE = '\n[gate]\nmodel = "es"\nstale_seconds = 1e12\n'


class Lost(Exception):
    """The connection broke: whether anything was done is not known."""


def small_book(folder: Path, extra_toml: str = "", gate: str = GATE, **more: Any) -> Path:
    """The TOML of the small venue, its tables beside it, with a gate; `more` is for the book."""
    import live_case  # not what a server has to wait for

    config = live_case.book(**more).export(folder)
    config.write_text(f"{config.read_text()}{gate}{extra_toml}")
    return config


def keys_in(folder: Path, *names: str) -> dict[str, str]:
    """A file keys.toml of keys that may do anything, by name."""
    scopes = ["read", "whatif", "trade", "admin"]
    return {name: new_key(folder / "keys.toml", name, scopes=scopes)[1] for name in names}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass
class Caller:
    """One connection to a server, opened again when it was lost; `headers` go with every request.

    An answer is its status and its body, decoded.
    """

    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 30.0
    _connection: http.client.HTTPConnection | None = None

    def send(
        self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Raises `Lost`."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, self.timeout)
        content = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **self.headers, **(headers or {})}
        try:
            self._connection.request(method, path, content, sent)
            with self._connection.getresponse() as answer:
                return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Lost(str(error)) from error

    def change(self, path: str, number: int, key: str, body: Body) -> tuple[int, Any]:
        """A request with its number and key."""
        return self.send(
            "POST", path, body, {"Client-Sequence": str(number), "Idempotency-Key": key}
        )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Spares:
    """Processes that are about to be servers, `count` of them ahead."""

    def __init__(self, count: int) -> None:
        self._ready = deque(_waiting() for _ in range(count))
        self._lock = Lock()

    def take(self) -> subprocess.Popen[bytes]:
        """One that waits to be told what to serve; another one is made for later."""
        with self._lock:
            self._ready.append(_waiting())
            return self._ready.popleft()

    def __enter__(self) -> Spares:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._ready:
            _end(one)


def _waiting() -> subprocess.Popen[bytes]:
    # A session of its own: a Ctrl-C is for the tests.
    command = [sys.executable, str(Path(__file__))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate(timeout=30)


def _serve() -> None:
    """The part of such a process: the command, once it is told of what."""
    from gpu_margin.cli import main
    from gpu_margin.server import serving  # noqa: F401

    line = sys.stdin.readline()
    if not line:
        return
    said, *arguments = json.loads(line)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["gpu-margin", "serve", *arguments]
    main()


@dataclass
class ServerProcess:
    """A server of a TOML on a port; what it says goes to server.txt beside the TOML."""

    config: Path
    port: int = field(default_factory=free_port)
    spares: Spares | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def said(self) -> str:
        """What it printed, of all its lives."""
        return self._output.read_text(errors="replace")

    @property
    def _output(self) -> Path:
        return self.config.with_name("server.txt")

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, *options: str, wait: bool = True) -> None:
        """Begin a life and, by default, `wait` until questions are answered."""
        self.process = _waiting() if self.spares is None else self.spares.take()
        arguments = [str(self.config), "--port", str(self.port), "--backend", "numpy", *options]
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(self._output), *arguments]).encode() + b"\n")
        self.process.stdin.close()
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Raises `Lost` where it ends instead."""
        ends = time.monotonic() + seconds
        with Caller(self.port) as caller:
            while True:
                with contextlib.suppress(Lost):
                    if caller.send("GET", "/ready")[0] == 200:
                        return
                if not self.alive:
                    raise Lost("it has ended")
                assert time.monotonic() < ends, self.said[-3000:]
                time.sleep(0.005)

    def kill(self) -> None:
        """As a power cut would; it may have ended before."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """In order, by a signal: the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.ended()

    def ended(self, seconds: float = 60.0) -> int:
        """Wait until it has ended: the exit code."""
        assert self.process is not None
        return self.process.wait(seconds)


@contextmanager
def server_process(
    config: Path, *options: str, wait: bool = True, spares: Spares | None = None
) -> Iterator[ServerProcess]:
    """A server that is started, and gone with the block."""
    found = ServerProcess(config, spares=spares)
    try:
        found.start(*options, wait=wait)
        yield found
    finally:
        if found.process is not None:
            found.kill()


if __name__ == "__main__":
    _serve()
