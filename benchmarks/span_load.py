"""SPAN of a whole clearing house, on this machine: what issue 8 wants, measured, beside others.

    python benchmarks/span_load.py --out benchmarks/results

writes synthetic exchanges (span_book.py) of 600,000 contracts as PA2 and of 57 MB as SPAN XML,
reads each in a process of its own, and margins 100,000 accounts of ten legs, half of them options,
with all steps: 2,000 combined commodities, 4,000 spreads between them, spreads of months and tiers
everywhere. Some of the accounts by Python and NumPy, one at a time, have to come to the same
figures. marginism, the best public calculator in Python, does those of the steps that it has on the
XML exchange, where it is installed (`pip install marginism`, or in an environment of its own:
--marginism its python). Prints what was measured beside what it is to reach; --out writes it with
machine and versions to span-<date>-<processor>.json. Rates are per CPU second, that of all threads,
the best of --rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import figures
import numpy as np
import polars as pl
import span_book
import span_contracts
import span_marginism
import span_plain
import span_positions
import span_reading
from figures import MEGABYTE, Bench, say
from span_contracts import Exchange
from span_xml_contracts import Writer

from gpu_margin.io.span_pa2 import read_pa2
from gpu_margin.io.span_positions import read_held
from gpu_margin.io.span_xml import read_spn
from gpu_margin.models.span.calculation import Prepared, prepare
from gpu_margin.span_book import SpanBook, SpanMargin
from gpu_margin.span_build import build
from gpu_margin.span_file import SpanFile
from gpu_margin.span_tables import SpanTables

# CPU seconds and megabytes to read in, by suffix; accounts a CPU second.
MOST_SECONDS, MOST_MEMORY = {".pa2": 10.0, ".spn": 5.0}, {".pa2": 1_500.0, ".spn": None}
TO_REACH = 50_000
# Money in which figures of ours and the plain ones may differ, as a share of it.
CLOSE = 1e-9


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for; ends the program where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--contracts", type=int, default=600_000, help="of the PA2 file")
    parser.add_argument("--xml", type=int, default=127_500, help="contracts of the XML file")
    parser.add_argument("--commodities", type=int, default=2_000)
    parser.add_argument("--spreads", type=int, default=4_000)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--legs", type=int, default=10)
    parser.add_argument("--plain", type=int, default=1_000, help="accounts in Python and NumPy")
    parser.add_argument("--public", type=int, default=5_000, help="accounts by marginism")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--marginism", default=sys.executable, help="python that has marginism")
    parser.add_argument("--out", type=Path, help="folder of the record")
    return parser.parse_args(words)


_TOLD = ("contracts", "xml", "commodities", "spreads", "accounts", "legs", "plain", "public")


def command_line(asked: argparse.Namespace) -> str:
    """The command that gives such a record, without paths of this machine."""
    words = [f"--{name} {getattr(asked, name)}" for name in (*_TOLD, "rounds", "backend")]
    return " ".join(["python benchmarks/span_load.py", *words, "--out benchmarks/results"])


# ---------------------------------------------------------------------------------- reading


def reading(bench: Bench, path: Path, contracts: int) -> None:
    """CPU time and memory of a reader, in fresh processes."""
    rounds = []
    for _ in range(bench.rounds):
        words = [sys.executable, span_reading.__file__, str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        rounds.append(json.loads(done.stdout))
    if rounds[0]["contracts"] != contracts or rounds[0]["bad"]:
        raise ValueError(f"{rounds[0]['contracts']} contracts and {rounds[0]['bad']} failures read")
    best = {name: min(one[name] for one in rounds) for name in rounds[0]}
    name, suffix = f"reading {path.suffix[1:]}, {contracts} contracts", path.suffix
    bench.add(name, "file", path.stat().st_size / MEGABYTE, "MB")
    bench.add(name, "CPU time", best["cpu"], "s", MOST_SECONDS[suffix], "most")
    bench.add(name, "time", best["wall"], "s")
    memory = max(one["memory"] for one in rounds) / MEGABYTE
    bench.add(name, "peak of the process", memory, "MB", MOST_MEMORY[suffix], "most")
    bench.add(name, "CPU time of coding what was read", best["build"], "s")


# -------------------------------------------------------------------------------- margining


def margined(prepared: Prepared, book: SpanBook) -> SpanMargin:
    """Margin of all accounts, netting their positions included."""
    found = prepared.margin(replace(book, portfolio=replace(book.portfolio)))
    if found.failed.any():
        raise ValueError(f"accounts failed: {found.failures['reason'][0]}")
    return found


def book_of(file: SpanFile, positions: pl.DataFrame) -> SpanBook:
    held = read_held(positions, file.contracts.ids)
    if len(held.failures):
        raise ValueError(f"positions failed: {held.failures['reason'][0]}")
    return held.book("hedger", False)


def ours(bench: Bench, file: SpanFile, book: SpanBook, name: str, target: int | None) -> float:
    """Accounts per CPU second, all steps."""
    prepared, accounts = prepare(file, bench.device), len(book.portfolio.accounts)
    found = margined(prepared, book)
    bench.add(name, "rows of the result", len(found.account))
    for part, what in (
        ("intra_spread_charge", "within commodities"),
        ("inter_spread_credit", "between commodities"),
    ):
        share = np.mean(getattr(found, part) != 0)
        bench.add(name, f"rows with spreads {what}", 100 * float(share), "%")
    return bench.rates(name, accounts, partial(margined, prepared, book), target)


def ceiling(bench: Bench, file: SpanFile, book: SpanBook, name: str) -> None:
    """What memory allows: copying, and getting every position's array."""
    full = np.ones(16 << 20)
    into = np.ones_like(full)
    copied = bench.best(lambda: np.copyto(into, full)).cpu
    bench.add("ceiling", "copying", 2 * full.nbytes / copied / 1e9, "GB per CPU s")
    matrix = np.ascontiguousarray(file.contracts.array)
    column, accounts = book.portfolio.rows.column, len(book.portfolio.accounts)
    into = np.empty((len(column), matrix.shape[1]), dtype=matrix.dtype)
    taken = bench.best(lambda: np.take(matrix, column, axis=0, out=into, mode="clip")).cpu
    bench.add("ceiling", f"{name}, gathering arrays only", accounts / taken, "/s")


def in_numpy(
    bench: Bench, tables: SpanTables, file: SpanFile, some: pl.DataFrame, rate: float
) -> None:
    """The same in Python and NumPy, which has to come to the same figures."""
    quant = span_plain.Practitioner(tables)
    held = span_plain.accounts_of(some)
    name = f"Python and NumPy, {len(held)} accounts"

    def work() -> list[Any]:
        return [quant.margin(one) for one in held]

    plain = bench.rates(name, len(held), work)
    bench.add(name, "ours to it", rate / plain)
    found = margined(prepare(file, bench.device), book_of(file, some))
    bench.add(name, "accounts that differ", differing(file, found, work()), "", 0, "most")


def differing(file: SpanFile, found: SpanMargin, plain: list[Any]) -> int:
    """Accounts of which a figure of a commodity or a total is not the same."""
    wrong: set[int] = set()
    ids = file.commodities.codes.to_list()
    seen: dict[int, set[str]] = {place: set() for place in range(len(plain))}
    for row, (account, code) in enumerate(
        zip(found.account.tolist(), found.commodity.tolist(), strict=True)
    ):
        seen[account].add(ids[code])
        theirs = plain[account][0].get(ids[code], {})
        for what in ("scan_risk", "intra_spread_charge", "delivery_charge", "inter_spread_credit",
                     "short_option_minimum", "risk", "net_option_value"):  # fmt: skip
            if not close(float(getattr(found, what)[row]), theirs.get(what, np.nan)):
                wrong.add(account)
    for account, currency, total in zip(
        found.total_account.tolist(), found.total_currency.tolist(), found.total, strict=True
    ):
        if not close(float(total), plain[account][1].get(file.currencies[currency], np.nan)):
            wrong.add(account)
    return len(wrong | {place for place, names in seen.items() if names != set(plain[place][0])})


def close(one: float, other: float) -> bool:
    return bool(np.isclose(one, other, rtol=CLOSE, atol=1e-5))


# -------------------------------------------------------------------------------- marginism


def beside_marginism(
    bench: Bench, exchange: Exchange, file: SpanFile, asked: argparse.Namespace, rate: float
) -> None:
    """marginism on the same exchange and accounts; named where it is not there."""
    path, given = bench.folder / "plain.spn", bench.folder / "accounts.json"
    with path.open("wb") as out:
        Writer(exchange, plain=True).write(out)
    row, quantity = span_positions.draw(exchange, asked.public, asked.legs)
    given.write_text(json.dumps(span_positions.plain_terms(exchange, row, quantity)))
    words = [asked.marginism, span_marginism.__file__, str(path), str(given)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    except OSError as error:
        say(f"marginism is left out: {error}")
        return
    except subprocess.CalledProcessError as error:
        say(f"marginism is left out: {(error.stderr.strip() or str(error)).splitlines()[-1]}")
        return
    theirs = json.loads(done.stdout)
    name = f"marginism {theirs['version']}, {asked.public} accounts ({len(theirs['steps'])} steps)"
    bench.add(name, "per CPU second", theirs["accounts_per_second"], "/s")
    bench.add(name, "ours to it", rate / theirs["accounts_per_second"])
    bench.add(name, "per CPU second, with legs alone", theirs["baskets_per_second"], "/s")
    bench.add(name, "CPU time of reading XML", theirs["reading"], "s")
    bench.add(name, "peak of the process", theirs["memory"] / MEGABYTE, "MB")
    some = span_positions.table(exchange, asked.public, asked.legs)
    found = margined(prepare(file, bench.device), book_of(file, some))
    apart = scans_apart(exchange, file, found, theirs["scan"])
    bench.add(name, "scan risks that differ", apart, "", 0, "most")


def scans_apart(
    exchange: Exchange, file: SpanFile, found: SpanMargin, theirs: list[dict[str, float]]
) -> int:
    """Scan risks unlike marginism's, of commodities that ask for nothing that it has not."""
    changed = {leg.commodity for one in exchange.spreads if one.method == "04" for leg in one.legs}
    changed |= {one.target for one in exchange.spreads if one.method == "04"}
    alike = {
        one.code
        for one in exchange.commodities
        if not one.scan and one.currency == one.settlement and one.place not in changed
    }
    names = file.commodities.codes.to_list()
    rows = zip(found.account.tolist(), found.commodity.tolist(), found.scan_risk, strict=True)
    mine = {(account, names[code]): float(risk) for account, code, risk in rows}
    return sum(
        not close(mine[account, name], risk)
        for account, one in enumerate(theirs)
        for name, risk in one.items()
        if name in alike
    )


# --------------------------------------------------------------------------------- together


def drawn(asked: argparse.Namespace, contracts: int) -> Exchange:
    return span_contracts.draw(contracts, asked.commodities, asked.spreads)


def measure(bench: Bench, asked: argparse.Namespace) -> None:
    """All of it."""
    exchange = drawn(asked, asked.contracts)
    path = bench.folder / "exchange.pa2"
    span_book.write(exchange, path, "pa2")
    reading(bench, path, asked.contracts)
    positions = span_positions.table(exchange, asked.accounts, asked.legs)
    tables = read_pa2(path)
    file = build(tables)
    book, name = book_of(file, positions), f"{asked.accounts} accounts of {asked.legs} legs"
    rate = ours(bench, file, book, name, TO_REACH)
    ceiling(bench, file, book, name)
    in_numpy(bench, tables, file, positions.head(asked.plain * asked.legs), rate)
    path.unlink()
    del tables, file, book
    from_xml(bench, asked)


def from_xml(bench: Bench, asked: argparse.Namespace) -> None:
    """The XML exchange: its reader, its accounts, and marginism on them."""
    exchange = drawn(asked, asked.xml)
    path = bench.folder / "exchange.spn"
    span_book.write(exchange, path, "xml")
    reading(bench, path, asked.xml)
    file = build(read_spn(path))
    book = book_of(file, span_positions.table(exchange, asked.accounts, asked.legs))
    name = f"{asked.accounts} accounts of {asked.legs} legs, from XML"
    rate = ours(bench, file, book, name, None)
    beside_marginism(bench, exchange, file, asked, rate)


def facts() -> dict[str, Any]:
    """Machine, versions, and the steps that marginism has."""
    return {**figures.about([]), "marginism_steps": span_marginism.STEPS}


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, record: 0, or 130 after Ctrl-C."""
    asked = arguments(words)
    return figures.run("span", asked, command_line(asked), measure, facts)


if __name__ == "__main__":
    sys.exit(main())
