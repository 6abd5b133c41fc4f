"""Crypto portfolio margin of whole venues, on this machine: what issue 7 wants, measured.

    python benchmarks/crypto_load.py --out benchmarks/results

margins random accounts of 17 legs on one market by Derive's portfolio margin, with all that depends
on the market prepared; the same accounts by plain Python, and by NumPy and SciPy as a practitioner
writes it, have to come to the same figures. paradex-py, a public engine of another venue's
portfolio margin, is asked at 2 and at 51 legs, where it is installed (`pip install paradex-py`, or
in an environment of its own: --paradex its python). Prints what was measured beside what it is to
reach; --out writes it with machine and versions to crypto-<date>-<processor>.json. Rates are by the
clock, the best of --rounds, and per CPU second, that of all threads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import crypto_book
import crypto_paradex
import crypto_plain
import figures
import numpy as np
from figures import Bench, say

from gpu_margin import crypto_files
from gpu_margin.crypto_book import INITIAL, MAINTENANCE, CryptoBook, CryptoMargin
from gpu_margin.models import deribit_pm, derive_pm1, derive_pm2, derive_standard

LEGS, TO_REACH = 17, 100_000
PARADEX_LEGS = (2, 51)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for; ends the program where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--plain", type=int, default=500, help="accounts in plain Python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--paradex", default=sys.executable, help="python that has paradex-py")
    parser.add_argument("--out", type=Path, help="folder of the record")
    return parser.parse_args(words)


def command_line(asked: argparse.Namespace) -> str:
    """The command that gives such a record, without paths of this machine."""
    words = [f"--accounts {asked.accounts}", f"--plain {asked.plain}"]
    words += [f"--rounds {asked.rounds}", f"--backend {asked.backend}"]
    return " ".join(["python benchmarks/crypto_load.py", *words, "--out benchmarks/results"])


def rates(bench: Bench, scenario: str, accounts: int, work: Callable[[], Any], *rest: Any) -> float:
    """Measure and note accounts a second, by the clock and of CPU time; the former is returned."""
    seconds = bench.best(work)
    rate = accounts / seconds.wall
    bench.add(scenario, "accounts per second", rate, "/s", *rest)
    bench.add(scenario, "accounts per CPU second", accounts / seconds.cpu, "/s")
    return rate


def pm2_figures() -> dict[str, derive_pm2.Figures]:
    """The venue's own figures of the benchmark's market."""
    table = crypto_files.versioned("derive", "pm2", "mainnet")["markets"]
    return {crypto_book.UNDERLYING: derive_pm2.Figures(**table[crypto_book.UNDERLYING])}


def margined(prepared: Any, book: CryptoBook, **asked: bool) -> CryptoMargin:
    """What every account requires, netting its positions included."""
    found: CryptoMargin = prepared.margin(crypto_book.unnetted(book), **asked)
    if len(found.failures):
        raise ValueError(f"accounts failed: {found.failures['reason'][0]}")
    return found


def ours(bench: Bench, accounts: int) -> float:
    """Derive's portfolio margin; accounts a second."""
    market, table = crypto_book.market(), pm2_figures()
    seconds = bench.best(lambda: derive_pm2.prepare(table, market, bench.device)).wall
    bench.add("derive_pm2", "preparing the market", 1e3 * seconds, "ms")
    prepared = derive_pm2.prepare(table, market, bench.device)
    book = crypto_book.book(market, accounts, LEGS)
    name = f"derive_pm2, {accounts} accounts of {LEGS} legs"
    rate = rates(bench, name, accounts, partial(margined, prepared, book), TO_REACH)
    whole = f"{name}, with every scenario's P&L"
    rates(bench, whole, accounts, partial(margined, prepared, book, pnl=True))
    return rate


def in_plain_python(bench: Bench, accounts: int, rate: float) -> None:
    """The same in plain Python, which has to come to the same figures."""
    market, table = crypto_book.market(), pm2_figures()
    book, own = crypto_book.book(market, accounts, LEGS), table[crypto_book.UNDERLYING]
    oracle, given = crypto_plain.oracle(), crypto_plain.oracle_figures(own)
    theirs = crypto_plain.oracle_market(market)
    holders = crypto_plain.oracle_accounts(own, market, book, accounts)

    def work() -> list[dict[str, Any]]:
        return [oracle.pm2(given, theirs, one) for one in holders]

    name = f"plain Python, {accounts} accounts of {LEGS} legs"
    plain = rates(bench, name, accounts, work)
    bench.add(name, "ours to it", rate / plain)
    found = work()
    values = [np.array([one[level] for one in found]) for level in ("IM", "MM")]
    apart = differing(derive_pm2.prepare(table, market, bench.device).margin(book), *values)
    bench.add(name, "margins that differ", apart, "", 0, "most")


def in_numpy(bench: Bench, accounts: int, rate: float) -> None:
    """The same by NumPy and SciPy on one thread."""
    market, table = crypto_book.market(), pm2_figures()
    book = crypto_book.book(market, accounts, LEGS)
    quant = crypto_plain.Practitioner(table[crypto_book.UNDERLYING], market)
    name = f"NumPy and SciPy, {accounts} accounts of {LEGS} legs"
    plain = rates(bench, name, accounts, lambda: quant.margins(book))
    bench.add(name, "ours to it", rate / plain)
    found = derive_pm2.prepare(table, market, bench.device).margin(book)
    bench.add(name, "margins that differ", differing(found, *quant.margins(book)), "", 0, "most")


def differing(found: CryptoMargin, initial: Any, maintenance: Any) -> int:
    """Accounts whose margin values are not the same to 1e-10, or to 1e-6 USD."""
    same = [
        np.isclose(found.value(level), values, rtol=1e-10, atol=1e-6)
        for level, values in ((INITIAL, initial), (MAINTENANCE, maintenance))
    ]
    return int((~np.all(same, axis=0)).sum())


def beside_paradex(bench: Bench, accounts: int, python: str) -> None:
    """paradex-py at few legs and at many, and ours with as many; named where it is not there."""
    legs = [str(number) for number in PARADEX_LEGS]
    words = [python, crypto_paradex.__file__, *legs]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    except OSError as error:
        say(f"paradex-py is left out: {error}")
        return
    except subprocess.CalledProcessError as error:
        say(f"paradex-py is left out: {(error.stderr.strip() or str(error)).splitlines()[-1]}")
        return
    answer = json.loads(done.stdout)
    market, table = crypto_book.market(), pm2_figures()
    prepared = derive_pm2.prepare(table, market, bench.device)
    for number in PARADEX_LEGS:
        name = f"paradex-py {answer['version']}, {number} legs"
        theirs = answer["rates"][str(number)]
        bench.add(name, "accounts per second", theirs, "/s")
        book = crypto_book.book(market, accounts, number, coins=False)
        work = partial(margined, prepared, book)
        rate = rates(bench, f"derive_pm2, {accounts} accounts of {number} legs", accounts, work)
        bench.add(name, "ours to it", rate / theirs)


def others(bench: Bench, accounts: int) -> None:
    """The other rulebooks, each with its market prepared."""
    market = crypto_book.market()
    # The first portfolio margin knows no coin but the market's own.
    plain = crypto_book.book(market, accounts, LEGS, coins=False)
    table = crypto_files.versioned("derive", "pm1", "mainnet")["markets"]
    first = {crypto_book.UNDERLYING: derive_pm1.Figures(**table[crypto_book.UNDERLYING])}
    work = partial(margined, derive_pm1.prepare(first, market, bench.device), plain)
    rates(bench, f"derive_pm1, {accounts} accounts of {LEGS} legs", accounts, work)

    asked = derive_standard.Parameters(feeds=Path("-"), positions=Path("-"))
    prepared = derive_standard.prepare(derive_standard.figures(asked), market, bench.device)
    name = f"derive_standard, {accounts} accounts of {LEGS} legs"
    rates(bench, name, accounts, partial(margined, prepared, plain))

    inverse = crypto_book.market(inverse=True)
    book = crypto_book.book(inverse, accounts, LEGS, coins=False)
    answers = deribit_pm.Parameters(feeds=Path("-"), positions=Path("-"))
    recorded = deribit_pm.prepare(deribit_pm.figures(answers), inverse, bench.device)
    name = f"deribit_pm, {accounts} accounts of {LEGS} legs"
    rates(bench, name, accounts, partial(margined, recorded, book))


def measure(bench: Bench, asked: argparse.Namespace) -> None:
    """All of it."""
    rate = ours(bench, asked.accounts)
    in_plain_python(bench, min(asked.plain, asked.accounts), rate)
    in_numpy(bench, asked.accounts, rate)
    beside_paradex(bench, asked.accounts, asked.paradex)
    others(bench, asked.accounts)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, record: 0, or 130 after Ctrl-C."""
    asked = arguments(words)
    facts = partial(figures.about, [crypto_paradex.PACKAGE])
    return figures.run("crypto", asked, command_line(asked), measure, facts)


if __name__ == "__main__":
    sys.exit(main())
