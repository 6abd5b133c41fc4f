"""The server under load: a process, its memory and its time on the processor."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

from gpu_margin.client import Client

_TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def serve_command(config: Path, port: int, backend: str) -> list[str]:
    """`gpu-margin serve` by the interpreter that runs this."""
    code = "from gpu_margin.cli import main; main()"
    options = ["--port", str(port), "--backend", backend, "--quiet"]
    return [sys.executable, "-c", code, "serve", str(config), *options]


@dataclass
class Server:
    """A process that serves on `port`; what it prints goes to a file."""

    command: Sequence[str]
    port: int
    output: Path
    process: subprocess.Popen[bytes] | None = None
    _stream: IO[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, limit: float) -> float:
        """Start it and wait until it is ready: seconds. `RuntimeError` where it does not come."""
        self._stream = self.output.open("ab")
        begun = time.monotonic()
        # A session of its own: Ctrl-C is for this program, which then stops it in order.
        self.process = subprocess.Popen(
            self.command, stdout=self._stream, stderr=self._stream, start_new_session=True
        )
        with Client(self.url, timeout=5.0) as client:
            while not client.ready():
                if self.process.poll() is not None:
                    raise RuntimeError(f"the server ended: {self.last_words()}")
                if time.monotonic() - begun > limit:
                    self.kill()
                    raise RuntimeError(f"not ready within {limit:g} s: {self.last_words()}")
                time.sleep(0.02)
        return time.monotonic() - begun

    def last_words(self) -> str:
        """The end of what it printed."""
        return self.output.read_text(errors="replace")[-2000:].strip()

    def stop(self, limit: float = 60.0) -> None:
        """Ask it to end, and make it."""
        if self.process is not None and self.running:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(limit)
            except subprocess.TimeoutExpired:
                self.kill()
        self._close()

    def kill(self) -> None:
        """As a power cut would."""
        if self.process is not None and self.running:
            self.process.kill()
            self.process.wait(30)
        self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    @property
    def resident_bytes(self) -> int:
        """Memory that it has now, 0 where it does not run."""
        if self.process is None or not self.running:
            return 0
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) << 10

    @property
    def cpu_seconds(self) -> float:
        """Of all its threads so far."""
        if self.process is None or not self.running:
            return 0.0
        after_name = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / _TICKS


@dataclass
class Watch:
    """Samples of the server's memory, one a second, and its time on the processor."""

    server: Server
    bytes: list[int] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        return {"server_cpu_seconds": self.cpu_seconds, "server_bytes": max(self.bytes, default=0)}

    def drift(self) -> float:
        """Memory of the last tenth over that of the second, less 1."""
        tenth = max(1, len(self.bytes) // 10)
        early = statistics.median(self.bytes[tenth : 2 * tenth] or self.bytes)
        return statistics.median(self.bytes[-tenth:]) / early - 1.0


@contextmanager
def watching(server: Server, every: float = 1.0) -> Iterator[Watch]:
    """Watch the server while the block runs."""
    watch, over = Watch(server), threading.Event()

    def sample() -> None:
        while not over.wait(every):
            watch.bytes.append(server.resident_bytes)

    begun, thread = server.cpu_seconds, threading.Thread(target=sample, daemon=True)
    watch.bytes.append(server.resident_bytes)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join(10)
        watch.bytes.append(server.resident_bytes)
        watch.cpu_seconds = server.cpu_seconds - begun


def expected_number(url: str, key: str, fill: dict[str, Any]) -> int:
    """The next Client-Sequence of a client, as the server says to one that is far too large."""
    headers = {"Authorization": f"Bearer {key}", "Client-Sequence": str(10**17)}
    headers["Idempotency-Key"] = f"number-{time.time_ns()}"
    answer = httpx.post(f"{url}/v1/fills", headers=headers, json={"fills": [fill]}, timeout=30.0)
    if answer.status_code != 409:
        raise RuntimeError(f"409 was expected: {answer.status_code} {answer.text[:500]}")
    return int(answer.json()["expected"])
