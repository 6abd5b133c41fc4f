"""The server from its TOML to its end: what is put together, and in which order it starts."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread
from types import FrameType

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from gpu_margin.config import load_config
from gpu_margin.failures import ConfigError, Failure, GpuMarginError
from gpu_margin.server import logs
from gpu_margin.server.access import Access
from gpu_margin.server.app import App
from gpu_margin.server.audit import Audit
from gpu_margin.server.audit_file import InUse
from gpu_margin.server.desk import Desk
from gpu_margin.server.holding import HoldingProtocol
from gpu_margin.server.hot_routes import HotRoutes
from gpu_margin.server.house import House
from gpu_margin.server.kafka_feed import KafkaFeed
from gpu_margin.server.metrics import Metrics
from gpu_margin.server.openapi import document
from gpu_margin.server.pages import create_pages
from gpu_margin.server.principal import Principal
from gpu_margin.server.replaying import replay_file
from gpu_margin.server.settings import ServerSettings, server_settings
from gpu_margin.server.tls import check_binding, uvicorn_options

_log = logging.getLogger("gpu_margin.server")
# Threads that wait for the interpreter get it after this long, for the sake of the slowest answers.
_SWITCH_SECONDS = 0.00005
_GRACE_SECONDS = 10
_DOORS = 16


@dataclass
class Assembled:
    """The application and what is behind it."""

    app: App
    house: House


def assemble(config: Path, backend: str = "auto", replay: Path | None = None) -> Assembled:
    """The application on a run's TOML; it opens the book when its lifespan starts.

    Raises `ConfigError` for settings that are wrong.
    """
    found = load_config(config)
    settings = server_settings(found).resolved(config.resolve().parent)
    settings.state.mkdir(parents=True, exist_ok=True)
    audit, metrics = _held(settings.state), Metrics()

    def logged_in(one: Principal) -> None:
        audit.note("login", one.name, key=one.key, tenant=one.tenant, scopes=sorted(one.scopes))

    access = Access(settings.access, logged_in=logged_in)
    house = House(found, settings, backend, audit, metrics)
    desk = Desk(house, access)
    limits = settings.limits
    app = App(
        HotRoutes(house.threads, access, audit, limits).routes(),
        create_pages(desk, document(version("gpu-margin"), limits)),
        access,
        audit,
        limits.max_body_bytes,
        metrics.seen,
        _Lifespan(house, replay),
        limits.queue_depth,
    )
    return Assembled(app, house)


def _held(state: Path) -> Audit:
    """The audit log in the folder of the state, which no other server has from now on."""
    try:
        return Audit(state / "audit.jsonl")
    except InUse as error:
        raise ConfigError(
            f"{state}: another server has this folder of the state; stop it, or name another "
            "folder in [server] state"
        ) from error


class _Lifespan:
    """Starts the house and what feeds it, and stops them in the other order."""

    def __init__(self, house: House, replay: Path | None) -> None:
        self._house, self._replay = house, replay
        self._feed: KafkaFeed | None = None
        self._stop = Event()
        self._feeding: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._house.start()
        self._feeding = asyncio.create_task(self._feeds())

    async def _feeds(self) -> None:
        """Once there is a book, what else it is fed from."""
        house = self._house
        while house.threads.writer is None:
            if house.error is not None:
                return
            await asyncio.sleep(0.05)
        if house.settings.kafka is not None:
            self._feed = KafkaFeed(
                house.settings.kafka,
                house.threads.writer.submit,
                house.log,
                _report,
                house.settings.limits.mark_ahead_seconds,
            )
            self._feed.measure(house.metrics)
            self._feed.start()
        if self._replay is not None:
            Thread(target=self._replayed, name="replay", daemon=True).start()

    def _replayed(self) -> None:
        writer = self._house.threads.writer
        assert writer is not None and self._replay is not None
        try:
            ahead = self._house.settings.limits.mark_ahead_seconds
            found = replay_file(
                self._replay, writer.submit, _report, stop=self._stop, ahead_seconds=ahead
            )
        except GpuMarginError as error:
            _log.error("the replay ended", extra={"reason": str(error)})
        except Exception:
            _log.exception("the replay ended")
        else:
            counts = {"lines": found.taken, "failures": found.failures}
            _log.info("replayed", extra=counts)

    async def stop(self) -> None:
        self._stop.set()
        if self._feeding is not None:
            self._feeding.cancel()
        if self._feed is not None:
            await asyncio.to_thread(self._feed.stop)
        await self._house.stop()


def _report(failure: Failure) -> None:
    _log.warning("a row changed nothing", extra={"failure": str(failure)})


class _Server(uvicorn.Server):
    """Lets those who only listen go before it waits for requests to end.

    It also ends where the book can never be opened, and takes a signal for a wish, not a failure.
    """

    def __init__(self, config: uvicorn.Config, house: House) -> None:
        super().__init__(config)
        self._house = house

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop: as uvicorn has it, and the streams end."""
        self._house.leave()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether it is time to go, asked ten times a second."""
        return self._house.failure is not None or await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """As uvicorn has it, but without the signal coming again when all is done."""
        before = {one: signal.signal(one, self.handle_exit) for one in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def serve(
    config: Path,
    host: str,
    port: int,
    backend: str,
    replay: Path | None = None,
    insecure: bool = False,
    quiet: bool = False,
) -> None:
    """Serve until a signal to stop. Raises `ConfigError` and what else is wrong at the start."""
    settings = checked(config, host, insecure)
    if replay is not None and not replay.is_file():
        raise ConfigError(f"--replay {replay}: no such file")
    with bound(host, port) as listening:
        _run(listening, config, settings, backend, replay, quiet)


def _run(
    listening: socket.socket,
    config: Path,
    settings: ServerSettings,
    backend: str,
    replay: Path | None,
    quiet: bool,
) -> None:
    logs.configure("WARNING" if quiet else "INFO")
    sys.setswitchinterval(_SWITCH_SECONDS)
    assembled = assemble(config, backend, replay)
    options = uvicorn_config(assembled.app, settings)
    host, port = listening.getsockname()[:2]
    scheme, shown = "https" if settings.tls else "http", f"[{host}]" if ":" in host else host
    _log.info("listening", extra={"url": f"{scheme}://{shown}:{port}"})
    # uvloop accepts one client at a time per socket and round of the loop: too few under load.
    doors = [listening, *(listening.dup() for _ in range(_DOORS - 1))]
    _Server(options, assembled.house).run(doors)
    if assembled.house.failure is not None:
        raise assembled.house.failure


def uvicorn_config(app: App, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn is to serve the application."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=HoldingProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=4096,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        **uvicorn_options(settings.tls),
    )


def bound(host: str, port: int) -> socket.socket:
    """A socket on that address, before anything is loaded; `ConfigError` where it is not free."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror}") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise ConfigError(
            f"--host {host} --port {port}: {error.strerror}; choose another one, or --port 0 for "
            "any that is free"
        ) from error
    return found


def checked(config: Path, host: str, insecure: bool) -> ServerSettings:
    """The settings, if a server may listen on that address with them."""
    found = server_settings(load_config(config)).resolved(config.resolve().parent)
    check_binding(host, found.tls is not None, found.access is not None, insecure)
    return found
