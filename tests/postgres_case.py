"""A PostgreSQL of our own, for as long as the tests run, and a way to cut its connections."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

_USER = "postgres"
_numbers = itertools.count()


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs."""
    # Debian keeps them out of the path.
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = homes[-1] if homes else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def missing() -> str:
    """What is missing to run a PostgreSQL, empty where nothing is."""
    if binaries() is None:
        return "no postgres: install Debian's package postgresql"
    try:
        import psycopg  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        return f"no {error.name}: install gpu-margin[postgres]"
    return ""


def needed() -> None:
    """Skip, by name, where there is no PostgreSQL; in CI that is an error."""
    why = missing()
    if why and os.environ.get("CI"):
        pytest.fail(why)
    if why:
        pytest.skip(why)


class Cluster:
    """A server on a Unix socket in a folder of its own."""

    def __init__(self) -> None:
        found = binaries()
        assert found is not None
        self.programs = found
        # Not pytest's own: its folders are closed to the user that the server must run as.
        self.folder = Path(tempfile.mkdtemp(prefix="gpu-margin-pg-"))
        self._as = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, _USER, _USER)
            ids = ["--reuid", _USER, "--regid", _USER, "--clear-groups"]
            # It must not outlive the tests, however they end.
            self._as = ["setpriv", *ids, "--pdeathsig", "KILL"]
        data = self.folder / "data"
        make = [self.programs / "initdb", "-D", data, "-U", _USER, "-A", "trust", "--no-sync"]
        self._run([*make, "-E", "UTF8", "--locale=C"])
        self.process: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)
        self.start()

    def _run(self, command: list[str | Path]) -> None:
        done = subprocess.run(
            [*self._as, *command], cwd="/", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = ["-c", "listen_addresses=", "-k", self.folder]
        with (self.folder / "server.log").open("ab") as out:
            self.process = subprocess.Popen(
                [*self._as, self.programs / "postgres", "-D", self.folder / "data", *options],
                cwd="/",
                stdout=out,
                stderr=out,
            )
        end = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < end, (self.folder / "server.log").read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        import psycopg

        try:
            self.sql("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def crash(self) -> None:
        """Stop without any order: the next start recovers from the write-ahead log."""
        if self.process is not None:
            self.process.send_signal(3)  # SIGQUIT: immediate shutdown
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        self.crash()
        shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(host=str(self.folder), user=_USER, autocommit=True) as session:
            session.execute(statement)

    def url(self, schema: str | None = None, port: int | None = None) -> str:
        """A URL of a schema, by default a new one; through a `port` of this machine, or direct."""
        if schema is None:
            schema = f"book_{next(_numbers)}"
            self.sql(f"CREATE SCHEMA {schema}")
        where = f"127.0.0.1:{port}/{_USER}?" if port else f"/{_USER}?host={self.folder}&"
        return f"postgresql+psycopg://{_USER}@{where}options=-csearch_path%3D{schema}"


@functools.cache
def cluster() -> Cluster:
    """The one server of the tests."""
    return Cluster()


class Proxy:
    """A port that leads to the server, until `cut` says otherwise.

    With `cut = "before"` the next COMMIT never reaches the server; with "after" it does, but the
    answer never comes back. Either way the connection is gone. `shut` refuses all connections.
    """

    def __init__(self, server: Cluster) -> None:
        self._target = str(server.folder / ".s.PGSQL.5432")
        self.cut: str | None = None
        self.cuts = 0
        self.shut = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self.shut:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            self._open += [client, server]
            try:
                server.connect(self._target)
            except OSError:  # the server is away
                _end(client)
                continue
            for one, other in ((client, server), (server, client)):
                work = (one, other, one is client)
                threading.Thread(target=self._pass_on, args=work, daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket, from_client: bool) -> None:
        try:
            while data := one.recv(65_536):
                if from_client and b"COMMIT" in data and self.cut:
                    self._cut(data, one, other)
                    return
                other.sendall(data)
        except OSError:
            pass
        finally:
            _end(one)
            _end(other)

    def _cut(self, data: bytes, client: socket.socket, server: socket.socket) -> None:
        how, self.cut = self.cut, None
        self.cuts += 1
        _end(client)
        if how == "after":
            server.sendall(data)
            time.sleep(0.05)

    def close(self) -> None:
        _end(self._listening)
        self._accepting.join()
        self._listening.close()
        for one in self._open:
            _end(one)
            one.close()


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
