"""A live book: what-ifs, fills, marks, snapshots and replays, timed.

    python benchmarks/live_book.py 100000x50x250 numba

prints what each takes, alone and while the others go on. `world` makes random tables of a size; the
load generator and the tests of the server use it too.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import loading
from gpu_margin.live import LiveBook
from gpu_margin.records import Record

LAST = date(2024, 3, 1)
KINDS = ("future", "perpetual", "spot", "call", "put")
_EPOCH = 1.7e9

Columns = dict[str, Any]


@dataclass(frozen=True)
class Size:
    accounts: int
    positions: int
    scenarios: int
    instruments: int = 20_000
    factors: int = 40

    @classmethod
    def of(cls, text: str, instruments: int = 20_000) -> Size:
        """From "100000x50x250"."""
        accounts, positions, scenarios = (int(part) for part in text.split("x"))
        return cls(accounts, positions, scenarios, max(instruments, positions))


@dataclass(frozen=True)
class World:
    """A configuration and its tables; `price` [instrument] is the mark of those that have one."""

    size: Size
    config: Columns
    frames: dict[str, pl.DataFrame]
    kind: NDArray[np.str_]
    price: NDArray[np.float64]

    def write(self, folder: Path) -> Path:
        """As files with a config.toml; the path of the latter."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["[inputs]"]
        for name, frame in self.frames.items():
            frame.write_parquet(folder / f"{name}.parquet")
            lines.append(f'{name} = "{name}.parquet"')
        model = self.config["models"]["es"]
        top = [f"valuation_date = {LAST.isoformat()}", 'currency = "USD"']
        lines += ["", "[models.es]", 'kind = "simulation"']
        lines += [f"scenarios = {_inline(model['scenarios'])}"]
        lines += [f"measure = {_inline(model['measure'])}"]
        path = folder / "config.toml"
        path.write_text("\n".join([*top, "", *lines]) + "\n")
        return path


def account_id(number: int) -> str:
    return f"account {number:07d}"


def instrument_id(number: int) -> str:
    return f"instrument {number:05d}"


def world(size: Size, seed: int = 1) -> World:
    """Random tables: every account holds as many instruments, and cash and bonds."""
    rng = np.random.default_rng(seed)
    count, step = size.instruments, size.instruments // size.positions
    kind = np.array(KINDS)[rng.choice(len(KINDS), count, p=[0.3, 0.2, 0.2, 0.15, 0.15])]
    option = np.isin(kind, ["call", "put"])
    factor = rng.integers(0, size.factors, count)
    days = size.scenarios + 1
    history = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, (days, size.factors)), axis=0))
    dates = [LAST - timedelta(days=days - 1 - day) for day in range(days)]
    price = np.round(history[-1][factor] * rng.uniform(0.95, 1.05, count), 2)
    names = np.array([f"F{n:03d}" for n in range(size.factors)])
    ids = pl.Series([instrument_id(n) for n in range(count)])
    instruments = pl.DataFrame(
        {
            "instrument_id": ids,
            "kind": kind,
            "underlying": names[factor],
            "currency": ["USD"] * count,
            "multiplier": rng.choice([1.0, 10.0], count),
            "price": np.where(option, np.nan, price),
            "strike": np.where(option, np.round(price * rng.uniform(0.8, 1.2, count)), np.nan),
            "expiry": [LAST + timedelta(days=int(d)) for d in rng.integers(10, 400, count)],
            "implied_vol": np.where(option, rng.uniform(0.1, 0.6, count), np.nan),
        }
    ).with_columns(
        pl.col("price", "strike", "implied_vol").fill_nan(None),
        pl.when(pl.col("kind").is_in(["call", "put"])).then("expiry").alias("expiry"),
    )
    shape = (size.accounts, size.positions)
    held = np.arange(size.positions) * step + rng.integers(0, step, shape)
    quantity = rng.integers(1, 50, shape) * rng.choice([-1.0, 1.0], shape)
    accounts = pl.Series([account_id(n) for n in range(size.accounts)])
    each = np.arange(size.accounts)
    positions = pl.DataFrame(
        {
            "account_id": accounts.gather(np.repeat(each, size.positions)),
            "instrument_id": ids.gather(held.ravel()),
            "quantity": quantity.ravel(),
        }
    )
    collateral = pl.DataFrame(
        {
            "account_id": accounts.gather(np.tile(each, 2)),
            "asset": ["USD"] * size.accounts + ["BND"] * size.accounts,
            "amount": np.round(rng.uniform(1e4, 1e6, 2 * size.accounts)),
        }
    )
    frames = {
        "positions": positions,
        "instruments": instruments,
        "history": pl.DataFrame(
            {
                "date": np.repeat(np.array(dates, dtype="datetime64[D]"), size.factors),
                "factor": np.tile(names, days),
                "price": history.ravel(),
            }
        ),
        "collateral": collateral,
        "assets": pl.DataFrame(
            {
                "asset": ["USD", "BND"],
                "currency": ["USD", "USD"],
                "price": [1.0, 10.0],
                "haircut": [0.0, 0.02],
            }
        ),
    }
    model = {
        "kind": "simulation",
        "scenarios": {"kind": "historical", "lookback": size.scenarios},
        "measure": {"kind": "es", "confidence": 0.975},
    }
    config = {"valuation_date": LAST, "currency": "USD", "inputs": {}, "models": {"es": model}}
    return World(size, config, frames, kind, price)


def whatifs(made: World, count: int, legs: int = 5, seed: int = 2) -> list[Any]:
    """Random what-ifs as `LiveBook.encode` takes them."""
    rng = np.random.default_rng(seed)
    accounts = rng.integers(0, made.size.accounts, count)
    columns = rng.integers(0, made.size.instruments, (count, legs))
    sizes = rng.integers(1, 50, (count, legs)) * rng.choice([-1.0, 1.0], (count, legs))
    return [
        (
            account_id(account),
            None,
            {instrument_id(one): size for one, size in zip(own, quantity, strict=True)},
        )
        for account, own, quantity in zip(
            accounts.tolist(), columns.tolist(), sizes.tolist(), strict=True
        )
    ]


def fills(made: World, count: int, first: int, seed: int = 3) -> Columns:
    """Random fills: nine of ten accounts trade an instrument that they may hold."""
    rng = np.random.default_rng([seed, first])
    accounts, columns = rng.integers(0, made.size.accounts, count), np.zeros(count, dtype=int)
    columns = rng.integers(0, made.size.instruments, count)
    return {
        "fill_id": [f"fill {first + n}" for n in range(count)],
        "account_id": [account_id(n) for n in accounts.tolist()],
        "instrument_id": [instrument_id(n) for n in columns.tolist()],
        "quantity": (rng.integers(1, 9, count) * rng.choice([-1.0, 1.0], count)).tolist(),
        "price": made.price[columns].tolist(),
        "netting_set": [None] * count,
        "fee": [0.0] * count,
    }


def marks(made: World, share: float, number: int, seed: int = 4) -> Columns:
    """New prices of a share of what has one, and of all factors where it is 1."""
    rng = np.random.default_rng([seed, number])
    linear = np.flatnonzero(~np.isin(made.kind, ["call", "put"]))
    some = linear if share == 1.0 else np.sort(rng.choice(linear, max(1, int(share * len(linear)))))
    value = np.round(made.price[some] * rng.uniform(0.97, 1.03, len(some)), 2)
    factors = made.size.factors if share == 1.0 else 0
    lasts = np.round(100.0 * rng.uniform(0.97, 1.03, factors), 2)
    return {
        "instrument_id": [*(instrument_id(n) for n in some.tolist()), *[None] * factors],
        "factor": [*[None] * len(some), *(f"F{n:03d}" for n in range(factors))],
        "field": ["price"] * len(some) + ["last"] * factors,
        "value": [*value.tolist(), *lasts.tolist()],
        "time": [_EPOCH + number] * (len(some) + factors),
    }


def _inline(table: Columns) -> str:
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"


# ---------------------------------------------------------------- timing


def timed(name: str, work: Callable[[], Any], per: int = 1, unit: str = "") -> Any:
    """Run it and say what it took: wall, CPU of all threads, and per piece."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rate = f"{per / wall:12,.0f} {unit}/s" if per > 1 else ""
    print(f"  {name:<44}{wall:9.3f} s {cpu:9.3f} CPU-s {rate}", flush=True)
    return found


def memory() -> str:
    with Path("/proc/self/status").open() as stream:
        now = next(line for line in stream if line.startswith("VmRSS")).split()[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{int(now) / 2**20:.2f} GiB now, {peak / 2**20:.2f} GiB at the peak"


class Longest:
    """Turns that note for how long the longest was held."""

    def __init__(self, book: LiveBook) -> None:
        self._turns, self.worst = book.turns, 0.0
        self._changing = book.turns.changing
        book.core.turn = self.changing
        book.turns.changing = self.changing  # type: ignore[method-assign]

    def changing(self) -> Any:
        return _Timed(self, self._changing())


class _Timed:
    def __init__(self, owner: Longest, turn: Any) -> None:
        self._owner, self._turn = owner, turn

    def __enter__(self) -> None:
        self._turn.__enter__()
        self._begun = time.perf_counter()

    def __exit__(self, *why: Any) -> None:
        held = time.perf_counter() - self._begun
        self._owner.worst = max(self._owner.worst, held)
        self._turn.__exit__(*why)


def asked(book: LiveBook, asking: list[Any]) -> Any:
    legs = book.encode(asking)
    with book.turns.asking():
        return book.ask(legs)


def main(size: Size, backend: str) -> None:
    made = timed("tables", lambda: world(size))
    print(f"{backend}: {size}")
    loaded = [timed("load", lambda: loading.load(made.config, **made.frames))]
    book = timed("book", lambda: LiveBook(loaded.pop(), backend, **made.frames))
    print(f"  {memory()}")
    longest = Longest(book)
    _questions(book, made)
    _changes(book, made, longest)
    _together(book, made, longest)
    print(f"  {memory()}")
    _restart(book, made, backend)
    print(f"  {memory()}")


def _questions(book: LiveBook, made: World) -> None:
    small = [whatifs(made, 64, seed=n) for n in range(200)]
    coded = timed("encode, batches of 64", lambda: [book.encode(one) for one in small], 12_800, "")
    with book.turns.asking():
        book.ask(coded[0])
        timed("ask, batches of 64", lambda: [book.ask(one) for one in coded], 12_800, "what-ifs")
        single = [book.encode(one[:1]) for one in small]
        timed("ask, one by one", lambda: [book.ask(one) for one in single], 200, "what-ifs")
        ids = [one[0][0] for one in small] * 50
        timed("account", lambda: [book.account(one) for one in ids], len(ids), "accounts")
        timed("summary", book.summary)
        timed("explain", lambda: book.explain(ids[0]))
    rows = whatifs(made, 10_000)
    table = pl.DataFrame(
        [(str(n), one[0], name, q) for n, one in enumerate(rows) for name, q in one[2].items()],
        schema=["whatif_id", "account_id", "instrument_id", "quantity"],
        orient="row",
    )
    legs = timed(
        "encode columns, 10 x 10,000",
        lambda: [book.encode_columns(table) for _ in range(10)].pop(),
        100_000,
        "what-ifs",
    )
    with book.turns.asking():
        timed("ask, 10 x 10,000", lambda: [book.ask(legs) for _ in range(10)], 100_000, "what-ifs")


def _changes(book: LiveBook, made: World, longest: Longest) -> None:
    coming = [Record(n + 1, "fills", fills(made, 1000, 1000 * n)) for n in range(60)]
    book.apply(coming[:10])
    longest.worst = 0.0
    timed("fills, 50 x 1,000", lambda: [book.apply([one]) for one in coming[10:]], 50_000, "fills")
    print(f"  {'longest turn':<44}{1e3 * longest.worst:9.3f} ms")
    singles = [Record(61 + n, "fills", fills(made, 1, 60_000 + n)) for n in range(1000)]
    timed("fills, one by one", lambda: [book.apply([one]) for one in singles], 1000, "fills")
    sequence = book.sequence
    for share in (0.0005, 0.05, 1.0):
        for _ in range(2):
            sequence += 1
            record = Record(sequence, "marks", marks(made, share, sequence))
            longest.worst = 0.0
            name = f"mark of {record.count} instruments"
            timed(name, partial(book.apply, [record]))
        print(f"  {'longest turn':<44}{1e3 * longest.worst:9.3f} ms")


def _together(book: LiveBook, made: World, longest: Longest, seconds: float = 6.0) -> None:
    """What-ifs in batches while the whole book is marked again and again."""
    small = [whatifs(made, 64, seed=n) for n in range(100)]
    taken: list[float] = []
    over = threading.Event()

    def ask_on() -> None:
        number = 0
        while not over.is_set():
            begun = time.perf_counter()
            asked(book, small[number % len(small)])
            taken.append(time.perf_counter() - begun)
            number += 1
            time.sleep(0.002)

    thread = threading.Thread(target=ask_on)
    longest.worst, done = 0.0, 0
    coming = _marks_on(book, made)
    thread.start()
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        book.apply([next(coming)])
        done += 1
    over.set()
    thread.join()
    late = np.sort(taken)
    print(
        f"  {done / seconds:.2f} marks of the whole book per second, longest turn "
        f"{1e3 * longest.worst:.1f} ms; {len(late)} batches of 64 meanwhile, "
        f"p50 {1e3 * late[len(late) // 2]:.1f} ms, p99 {1e3 * late[int(0.99 * len(late))]:.1f} ms, "
        f"longest {1e3 * late[-1]:.1f} ms"
    )


def _marks_on(book: LiveBook, made: World) -> Iterator[Record]:
    sequence = book.sequence
    while True:
        sequence += 1
        yield Record(sequence, "marks", marks(made, 1.0, sequence))


def _restart(book: LiveBook, made: World, backend: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "book"
        saved = timed("snapshot, copied", book.kept)
        timed("snapshot, written", partial(saved.write, path))
        print(f"  {path.stat().st_size / 2**20:.0f} MiB")
        del saved
        first = book.sequence + 1
        many = fills(made, 1_000_000, 10_000_000)
        rows = zip(*many.values(), strict=True)
        log = [
            Record(
                first + n, "fills", {name: [value] for name, value in zip(many, row, strict=True)}
            )
            for n, row in enumerate(rows)
        ]

        def restarted() -> LiveBook:
            again: LiveBook = timed(
                "restore", lambda: LiveBook.restore(path, backend, measured=False)
            )
            timed("replay of 1,000,000 fills", lambda: again.replay(iter(log)))
            return again

        timed("restore and replay", restarted)


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["100000x50x250"]
    main(Size.of(chosen[0]), *(chosen[1:] or ["numba"]))
