"""The tables of a log in PostgreSQL, and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from gpu_margin.server.log import SLICE_BYTES

metadata = sa.MetaData()
_PREFIX = "gpu_margin_"
# In `meta`: the last entry whose rows were forgotten.
PRUNED = "pruned"

meta = sa.Table(
    f"{_PREFIX}meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
clients = sa.Table(
    f"{_PREFIX}clients",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("last", sa.BigInteger, nullable=False),
)
entries = sa.Table(
    f"{_PREFIX}entries",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("client", sa.Text, nullable=False),
    sa.Column("client_seq", sa.BigInteger),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("rows", sa.LargeBinary),
    sa.UniqueConstraint("client", "key"),
)
answers = sa.Table(
    f"{_PREFIX}answers",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("answer", sa.LargeBinary, nullable=False),
)
offsets = sa.Table(
    f"{_PREFIX}offsets",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("next", sa.BigInteger, nullable=False),
)

# Arrays, so that the statement is the same whatever the number of keys, and is planned once.
_KNOWN = sa.text(
    f"SELECT client, key, seq, digest FROM {entries.name} JOIN unnest(CAST(:clients AS text[]),"
    " CAST(:keys AS text[])) AS asked(client, key) USING (client, key)"
)
# The last entry of a slice: as many as fit, but one at least.
_FIT = sa.text(
    "SELECT coalesce(max(seq), :first) FROM"
    " (SELECT seq, sum(length(rows)) OVER (ORDER BY seq) AS bytes"
    f" FROM {entries.name} WHERE seq BETWEEN :first AND :end) AS slice WHERE bytes <= :most"
)
_ANSWERS = sa.text(f"SELECT seq, answer FROM {answers.name} WHERE seq = ANY(:seqs)")


def make(session: sa.Connection, about: Mapping[str, str]) -> None:
    """Make the tables where there are none, and say there what the log is."""
    metadata.create_all(session)
    rows = [{"name": name, "value": value} for name, value in about.items()]
    session.execute(insert(meta).on_conflict_do_nothing(), rows)
    session.commit()


def known(
    session: sa.Connection, names: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[int, bytes]]:
    """The sequence number and digest of the entries there are, by (client, key)."""
    asked = {"clients": [client for client, _ in names], "keys": [key for _, key in names]}
    rows = session.execute(_KNOWN, asked) if names else ()
    return {(client, key): (seq, bytes(digest)) for client, key, seq, digest in rows}


def answers_of(session: sa.Connection, seqs: Sequence[int]) -> dict[int, bytes]:
    """The answers there are to these entries."""
    rows = session.execute(_ANSWERS, {"seqs": list(seqs)}) if seqs else ()
    return {seq: bytes(answer) for seq, answer in rows}


def last(session: sa.Connection) -> int:
    """The last entry's number, 0 where there is none."""
    return session.scalar(sa.select(sa.func.max(entries.c.seq))) or 0


def write(
    session: sa.Connection,
    rows: Sequence[Mapping[str, Any]],
    last_of: Mapping[str, int],
    answered: Mapping[int, bytes],
    feeds: Mapping[tuple[str, int], int],
) -> None:
    """Add entries, the clients' last numbers, answers and offsets; the caller commits."""
    if rows:
        session.execute(sa.insert(entries), list(rows))
    if last_of:
        put = insert(clients)
        put = put.on_conflict_do_update(index_elements=["name"], set_={"last": put.excluded.last})
        session.execute(put, [{"name": name, "last": number} for name, number in last_of.items()])
    if answered:
        keep = insert(answers).on_conflict_do_nothing()
        session.execute(keep, [{"seq": seq, "answer": what} for seq, what in answered.items()])
    if feeds:
        move = insert(offsets)
        move = move.on_conflict_do_update(
            index_elements=["topic", "partition"], set_={"next": move.excluded.next}
        )
        places = [{"topic": t, "partition": p, "next": to} for (t, p), to in feeds.items()]
        session.execute(move, places)


def forget(session: sa.Connection, first: int, end: int) -> int:
    """Forget the rows of entries from `first` on, up to `end` at most: which was the last."""
    fit = {"first": first, "end": end, "most": SLICE_BYTES}
    to = int(session.scalar(_FIT, fit) or first)
    some = entries.c.seq.between(first, to)
    session.execute(sa.update(entries).where(some).values(rows=None))
    put = insert(meta).values(name=PRUNED, value=str(to))
    session.execute(put.on_conflict_do_update(index_elements=["name"], set_={"value": str(to)}))
    session.commit()
    return to


def names_after(session: sa.Connection, seq: int) -> list[tuple[str, str, bytes]]:
    """(client, key, digest) of the entries after one, in order."""
    rows = entries.c
    query = sa.select(rows.client, rows.key, rows.digest).where(rows.seq > seq).order_by(rows.seq)
    return [(client, key, bytes(digest)) for client, key, digest in session.execute(query)]


def undo(
    session: sa.Connection,
    seq: int,
    last_of: Mapping[str, int],
    feeds: Mapping[tuple[str, int], int],
    touched: Sequence[tuple[str, int]],
) -> None:
    """Take back the entries after `seq`; `last_of` and `feeds` as they were; the caller commits."""
    session.execute(sa.delete(entries).where(entries.c.seq > seq))
    for topic, partition in touched:
        place = offsets.c.topic == topic, offsets.c.partition == partition
        session.execute(sa.delete(offsets).where(*place))
    write(session, [], last_of, {}, {place: feeds[place] for place in touched if place in feeds})
