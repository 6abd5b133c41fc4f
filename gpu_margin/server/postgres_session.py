"""The one session of PostgreSQL that may write to a log, made anew where it was lost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gpu_margin.failures import InputError
from gpu_margin.server.log import LogError

T = TypeVar("T")

_PAUSE = 0.05
# How long the session of a server that was killed may take to end.
_LOCK_PATIENCE = 5.0
# "GPUM": with the schema's name, what the lock is called.
_LOCK = 0x4750554D
_CONNECT = {
    "connect_timeout": 5,
    # A peer that is gone without a word is noticed.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


class Sessions:
    """Connections to `url`: the writer's, which holds the lock, and those of readers.

    `settle` is called with every new session of the writer before it is used. A lost one is tried
    again for `patience` seconds. Raises `LogError` where that does not help.
    """

    def __init__(self, url: str, patience: float, settle: Callable[[sa.Connection], None]) -> None:
        place = sa.make_url(url)
        self.place = place.render_as_string(hide_password=True)
        self._patience, self._settle = patience, settle
        # Tells the writer's session from all others.
        self._name = f"gpu-margin {uuid.uuid4().hex[:16]}"
        self._engine = sa.create_engine(place, poolclass=sa.NullPool, connect_args=_CONNECT)
        self._writer: sa.Connection | None = None

    def tried(self, work: Callable[[sa.Connection], T]) -> T:
        """What `work` returns, which is called again where the session was lost on the way."""
        # Once it is known to be lost, one try has to do: others wait.
        end = time.monotonic() + (self._patience if self._writer is not None else 0.0)
        while True:
            try:
                return work(self._writer or self._connected())
            except (SQLAlchemyError, UnicodeError) as error:
                if not self._lost(error) or time.monotonic() > end:
                    raise self._told(error) from error
                time.sleep(_PAUSE)
            except BaseException:
                self.drop()
                raise

    def drop(self) -> None:
        """End the writer's session, and with it its lock."""
        writer, self._writer = self._writer, None
        if writer is not None:
            _end(writer)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A session that reads; raises `LogError`."""
        try:
            with self._engine.connect() as reader:
                yield reader
        except SQLAlchemyError as error:
            raise self._told(error) from error

    def _connected(self) -> sa.Connection:
        session = self._engine.connect()
        try:
            self._begin(session)
        except BaseException:
            _end(session)
            raise
        self._writer = session
        return session

    def _begin(self, session: sa.Connection) -> None:
        """Have the lock and durable commits."""
        if session.scalar(sa.text("SHOW fsync")) != "on":
            raise InputError(
                f"{self.place}: fsync is off there, and what is committed may be lost: turn it on"
            )
        session.execute(
            sa.text(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        )
        # A session of ours that the server believes to be alive would keep the lock.
        mine = {"name": self._name}
        session.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = :name AND pid <> pg_backend_pid()"
            ),
            mine,
        )
        session.execute(sa.text("SELECT set_config('application_name', :name, false)"), mine)
        session.commit()
        self._lock(session)
        self._settle(session)
        session.rollback()

    def _lock(self, session: sa.Connection) -> None:
        end = time.monotonic() + _LOCK_PATIENCE
        query = sa.text("SELECT pg_try_advisory_lock(:lock, hashtext(current_schema()))")
        while not session.scalar(query, {"lock": _LOCK}):
            if time.monotonic() > end:
                raise LogError(
                    f"{self.place}: another server writes to this log; stop it, or name another "
                    "one in [server.log]"
                )
            time.sleep(_PAUSE)
        session.commit()

    def _lost(self, error: Exception) -> bool:
        """Whether a new session may do what this one could not; this one is as it was before."""
        if self._writer is None:
            return isinstance(error, DBAPIError)
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        if not lost:
            try:
                self._writer.rollback()
            except SQLAlchemyError:
                lost = True
        if lost:
            self.drop()
        return lost

    def _told(self, error: Exception) -> LogError:
        cause = getattr(error, "orig", None) or error
        first = next(iter(str(cause).splitlines()), "")
        return LogError(f"{self.place}: {first} ({type(cause).__name__})")

    def close(self) -> None:
        """End all."""
        self.drop()
        self._engine.dispose()


def _end(session: sa.Connection) -> None:
    with suppress(SQLAlchemyError):
        session.invalidate()
    with suppress(SQLAlchemyError):
        session.close()
