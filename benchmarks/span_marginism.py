"""marginism, a public SPAN calculator (MIT): how many accounts a second it margins.

    python benchmarks/span_marginism.py exchange.spn accounts.json

prints JSON: CPU seconds and memory of reading the file, accounts per CPU second after that (by its
`calculate`; and by `basket`, which margins every leg by itself as well), and the scan risk it finds
per account and commodity. Accounts are lists of [symbol, instrument,
quantity, expiry, strike]. Needs `pip install marginism` and nothing else, so it may run in an
environment of its own. Of SPAN's steps it has those of `STEPS`.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGE = "marginism"
STEPS = (
    "scan without tiers",
    "spreads between two months, once for the account's direction, without delta scaling",
    "short option minimum of all short options, without delta scaling",
    "net option value",
)
ROUNDS = 3


def positions(module: Any, accounts: list[list[list[Any]]]) -> list[list[Any]]:
    """What its `calculate` takes, account by account."""
    return [
        [module.Position(symbol, kind, quantity=size, expiry=expiry, strike=strike)
         for symbol, kind, size, expiry, strike in account]
        for account in accounts
    ]  # fmt: skip


def baskets(accounts: list[list[list[Any]]]) -> list[list[dict[str, Any]]]:
    """What its `basket` takes, which margins every leg by itself as well."""
    return [
        [{"symbol": symbol, "instrument": kind, "quantity": abs(size), "expiry": expiry,
          "strike": strike, "transaction_type": "BUY" if size > 0 else "SELL"}
         for symbol, kind, size, expiry, strike in account]
        for account in accounts
    ]  # fmt: skip


def best(work: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    """CPU seconds of the best of some rounds, and what the work gives."""
    seconds, results = [], []
    for _ in range(ROUNDS):
        start = time.process_time()
        results = work()
        seconds.append(time.process_time() - start)
    return min(seconds), results


def peak() -> int:
    """Most memory that this process has had; getrusage would count that of who started it."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def found(module: Any, path: Path, accounts: list[list[list[Any]]]) -> dict[str, Any]:
    """Everything that is printed; `ValueError` where it does not know a position."""
    start = time.process_time()
    calculator = module.SpanCalculator.from_file(str(path))
    reading, memory = time.process_time() - start, peak()
    held, asked = positions(module, accounts), baskets(accounts)
    engine = module.RiskEngine(calculator)
    seconds, results = best(lambda: [calculator.calculate(account) for account in held])
    longer, _ = best(lambda: [engine.basket(account) for account in asked])
    lost = sum(len(one.unmatched) for one in results)
    if lost:
        raise ValueError(f"marginism does not find {lost} positions in the file")
    return {
        "version": version(PACKAGE),
        "reading": reading,
        "memory": memory,
        "accounts_per_second": len(accounts) / seconds,
        "baskets_per_second": len(accounts) / longer,
        "scan": [{name: one.scan_risk for name, one in r.by_commodity.items()} for r in results],
        "steps": STEPS,
    }


def main(words: Sequence[str]) -> int:
    """Measure and print."""
    module = importlib.import_module(PACKAGE)
    accounts = json.loads(Path(words[1]).read_text(encoding="utf-8"))
    print(json.dumps(found(module, Path(words[0]), accounts)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
