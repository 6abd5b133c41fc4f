"""The log in PostgreSQL, where connections are lost at the worst moments."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import postgres_case
import pytest
from log_case import entry
from postgres_case import Cluster, Proxy

from gpu_margin.failures import InputError
from gpu_margin.server.log import Accepted, LogError, Repeated

if TYPE_CHECKING:
    from gpu_margin.server.postgres_log import PostgresLog

BOOK = "the book"


@pytest.fixture
def cluster() -> Cluster:
    postgres_case.needed()
    return postgres_case.cluster()


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    found = Proxy(cluster)
    yield found
    found.close()


@pytest.fixture
def log(cluster: Cluster, proxy: Proxy) -> Iterator[PostgresLog]:
    """A log behind the proxy."""
    found = opened(cluster.url(port=proxy.port), patience=5.0)
    yield found
    proxy.cut, proxy.shut = None, False
    found.close()


def opened(url: str, patience: float = 10.0) -> PostgresLog:
    from gpu_margin.server.postgres_log import PostgresLog

    return PostgresLog(url, BOOK, patience)


def keys(log: PostgresLog) -> list[str]:
    """The keys of all records, whose numbers have no gap."""
    return [one.rows["fill_id"][0] for one in log.records(0)]


def end_sessions(cluster: Cluster) -> None:
    cluster.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'gpu-margin %'"
    )


def test_a_lost_connection_is_made_anew(log: PostgresLog, cluster: Cluster) -> None:
    log.append([entry("a", 1)])
    log.answer([(1, b"one")])
    for key, seq in (("b", 2), ("c", 3)):
        end_sessions(cluster)
        assert log.append([entry(key, seq)]) == [Accepted(seq)]
    end_sessions(cluster)
    log.answer([(2, b"two")])
    log.flush()
    end_sessions(cluster)
    again = [entry("a", 1), entry("b", 2), entry("c", 3)]
    assert log.append(again) == [Repeated(1, b"one"), Repeated(2, b"two"), Repeated(3, None)]
    end_sessions(cluster)
    assert log.prune(2) == 1


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_commit_of_unknown_outcome_counts_once(how: str, log: PostgresLog, proxy: Proxy) -> None:
    log.append([entry("a", 1)])
    proxy.cut = how
    log.answer([(1, b"one")])
    assert log.append([entry("b", 2), entry("c", 3), entry("b", 2)], {("t", 0): 7}) == [
        Accepted(2),
        Accepted(3),
        Repeated(2, None),
    ]
    assert proxy.cuts == 1
    assert keys(log) == ["a", "b", "c"]
    assert (log.last(), log.expected("desk"), log.offsets()) == (3, 4, {("t", 0): 7})
    proxy.cut = how
    assert log.append([], {("t", 0): 8, ("t", 1): 1}) == []
    proxy.cut = how
    log.answer([(2, b"two")])
    log.flush()
    assert proxy.cuts == 3
    log.append([entry("d", 4)])
    repeated = log.append([entry("a", 1), entry("b", 2), entry("c", 3)])
    assert repeated == [Repeated(1, b"one"), Repeated(2, b"two"), Repeated(3, None)]
    assert log.offsets() == {("t", 0): 8, ("t", 1): 1}


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("next_", ["the same", "another"])
def test_what_was_refused_is_not_accepted_later(
    how: str, next_: str, log: PostgresLog, proxy: Proxy, cluster: Cluster
) -> None:
    """The server cannot be reached for longer than it is waited for."""
    log._sessions._patience = 0.3
    log.append([entry("a", 1)], {("t", 0): 1})
    group = [entry("b", 2), entry("x", 1, "new")]
    proxy.cut, proxy.shut = how, True
    with pytest.raises(LogError):
        log.append(group, {("t", 0): 2, ("t", 1): 1})
    assert (log.last(), log.offsets()) == (1, {("t", 0): 1})
    begun = time.monotonic()
    with pytest.raises(LogError):
        log.append(group)
    assert time.monotonic() - begun < 3.0  # it is known to be lost: one try
    proxy.shut = False
    if next_ == "the same":
        assert log.append(group) == [Accepted(2), Accepted(3)]
        assert keys(log) == ["a", "b", "x"]
    else:
        assert log.append([entry("c", 2)]) == [Accepted(2)]
        assert keys(log) == ["a", "c"]
    assert log.expected("new") == (2 if next_ == "the same" else 1)
    assert log.offsets() == {("t", 0): 1}
    log.close()
    again = opened(cluster.url(schema=schema_of(log)))
    assert (again.last(), again.offsets()) == (log.last(), {("t", 0): 1})
    assert again.expected("new") == log.expected("new")
    again.close()


def schema_of(log: PostgresLog) -> str:
    return log._sessions.place.rpartition("3D")[2]


def test_a_server_that_crashes_and_comes_back(log: PostgresLog, cluster: Cluster) -> None:
    wanted = []
    for number in range(30):
        if number % 10 == 5:
            cluster.crash()
            cluster.start()
        assert log.append([entry(str(number))]) == [Accepted(number + 1)]
        wanted.append(str(number))
    assert keys(log) == wanted


def test_a_server_that_is_away_refuses_and_is_taken_up_again(
    log: PostgresLog, cluster: Cluster
) -> None:
    log._sessions._patience = 0.2
    cluster.crash()
    try:
        with pytest.raises(LogError):
            log.append([entry("a")])
        with pytest.raises(LogError):
            list(log.records(0))
    finally:
        cluster.start()
    assert log.append([entry("a")]) == [Accepted(1)]


def test_where_another_server_wrote_meanwhile_it_gives_up(
    log: PostgresLog, cluster: Cluster
) -> None:
    log.append([entry("a")])
    end_sessions(cluster)
    other = opened(cluster.url(schema=schema_of(log)))
    other.append([entry("b")])
    other.close()
    for _ in range(2):
        with pytest.raises(LogError, match="another server wrote to this log"):
            log.append([entry("c")])


def test_a_server_that_does_not_sync_is_refused(cluster: Cluster) -> None:
    def say(what: str) -> None:
        cluster.sql(f"ALTER SYSTEM {what}")
        cluster.sql("SELECT pg_reload_conf()")
        time.sleep(0.3)

    say("SET fsync = off")
    try:
        with pytest.raises(InputError, match="fsync is off there"):
            opened(cluster.url())
    finally:
        say("RESET fsync")


def test_commits_are_synchronous_whatever_the_default(cluster: Cluster) -> None:
    cluster.sql("ALTER ROLE postgres SET synchronous_commit = off")
    try:
        log = opened(cluster.url())
        assert _shown(log) == "on"
        log.close()
        cluster.sql("ALTER ROLE postgres SET synchronous_commit = remote_apply")
        log = opened(cluster.url())
        assert _shown(log) == "remote_apply"
        log.close()
    finally:
        cluster.sql("ALTER ROLE postgres RESET synchronous_commit")


def _shown(log: PostgresLog) -> Any:
    import sqlalchemy as sa

    writer = log._sessions._writer
    assert writer is not None
    found = writer.scalar(sa.text("SHOW synchronous_commit"))
    writer.rollback()
    return found


def test_passwords_are_not_told(cluster: Cluster) -> None:
    url = f"postgresql+psycopg://nobody:secret@/postgres?host={cluster.folder}"
    with pytest.raises(LogError, match=r"nobody:\*\*\*@") as caught:
        opened(url)
    assert "secret" not in str(caught.value)


def test_a_key_with_a_nul_is_refused(log: PostgresLog) -> None:
    with pytest.raises(LogError):
        log.append([entry("a\x00")])
    assert log.append([entry("a")]) == [Accepted(1)]


APPENDS = """
import os, sys
sys.path.insert(0, {tests!r})
from log_case import entry
from gpu_margin.server.log import Accepted
from gpu_margin.server.postgres_log import PostgresLog
log = PostgresLog({url!r}, "the book")
number = log.last()
while True:
    assert log.append([entry(str(number))]) == [Accepted(number + 1)]
    number += 1
    os.write(1, b"%d\\n" % number)
"""


def test_killed_at_any_moment_it_keeps_what_was_acknowledged(cluster: Cluster) -> None:
    chance = random.Random(5)
    url = cluster.url()
    for _ in range(4):
        code = APPENDS.format(tests=str(Path(__file__).parent), url=url)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        last = b"0"
        for _ in range(chance.randrange(1, 60)):
            last = process.stdout.readline()
        time.sleep(chance.random() / 100)
        process.send_signal(signal.SIGKILL)
        last = ([last] + [line for line in process.stdout if line.endswith(b"\n")])[-1]
        process.wait()
        process.stdout.close()
        log = opened(url)
        assert keys(log) == [str(number) for number in range(log.last())]
        assert int(last) <= log.last() <= int(last) + 1
        log.close()
