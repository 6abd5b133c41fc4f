"""What rulebooks would have asked for long-short books of coins before four crashes.

`python benchmarks/joint_study.py --data DIR [--out benchmarks/results]`, DIR holding daily closes,
<COIN>-USD_1d_to_2023-07.csv (Date, ..., Close) and <COIN>-USD_1d_2020-2025.csv (three lines of
headings), of BTC, ETH and SOL. A book is set up at the close of the day before a crash, margined
with prices up to that close, and loses what the next closes bring. In the second part the linear
books are set up anew every day, margined and measured.

Writes joint-study-<date>.json and .md into the folder. Options are an assumption: at the money, 30
days, at the volatility realised over the last 30 days (at least 40%).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import joint_venues
import numpy as np
from joint_books import (
    BOOKS,
    LOOKBACK,
    Book,
    Floats,
    Prices,
    loss,
    market_at,
    quantities,
    read_prices,
    rows_of,
)
from joint_page import page

from gpu_margin import backend as backends
from gpu_margin import models
from gpu_margin.market import Market
from gpu_margin.models import joint
from gpu_margin.portfolio import Rows

CRASHES = (date(2020, 3, 12), date(2021, 5, 19), date(2022, 11, 9), date(2025, 10, 10))
_BACKEND = backends.load("numpy")
_EWMA = {"kind": "ewma", "decay": 0.97}
# The price moves that Derive publishes for SOL; those for BTC and ETH are the defaults.
_WIDE = {"SOL": {"price_moves": [way * step * 0.0675 for way in (-1, 1) for step in (1, 2, 3, 4)]}}


def required(market: Market, rows: Rows) -> tuple[dict[str, Floats], Mapping[str, Floats]]:
    """[row] requirements by rulebook, and every term of `joint`.

    Of joint the defaults, its stress days the crashes known by then. The same grids joined by the
    correlations alone are "grid base", and added up coin by coin, as venues do, "grid sum".
    """
    measure = {"kind": "es", "confidence": 0.975}
    scenarios = {"kind": "historical", "lookback": LOOKBACK}
    settings = {"confidence": 0.99, "estimator": _EWMA, "lookback": LOOKBACK}
    terms = joint_terms(market, rows)
    found = {
        "covariance": _prepared("covariance", market, **settings).require(rows).amount,
        "shortfall": _prepared("simulation", market, scenarios=scenarios, measure=measure)
        .require(rows)
        .amount,
        "grid base": terms["grid_base"],
        "grid sum": terms["gross_grid"],
        "joint": terms["requirement"],
    }
    if "SOL" in market.history.factors:
        found["joint, SOL 27%"] = joint_terms(market, rows, underlyings=_WIDE)["requirement"]
    return found, terms


def joint_terms(market: Market, rows: Rows, **settings: Any) -> Mapping[str, Floats]:
    """[row] every term of `joint`."""
    stress = [day for day in CRASHES if day in market.history.dates[1:]]
    prepared = _prepared("joint", market, lookback=LOOKBACK, stress_days=stress, **settings)
    found: Mapping[str, Floats] = prepared.figures(rows)
    return found


def _prepared(kind: str, market: Market, **settings: Any) -> Any:
    rulebook = models.load(kind)
    parameters = rulebook.Parameters.model_validate(settings)
    rulebook.check(parameters, market)
    return rulebook.prepare(parameters, market, _BACKEND)


def before_crashes(folder: Path) -> list[dict[str, Any]]:
    """A row per crash and book: requirements at the close before, and losses after it."""
    found = []
    for day in CRASHES:
        for coins in sorted({book.coins for book in BOOKS}):
            prices = read_prices(folder, coins)
            if day not in prices.days or prices.place(day) <= LOOKBACK + 1:
                continue
            books = [book for book in BOOKS if book.coins == coins]
            found += _before(day, books, prices)
    return found


def _before(day: date, books: list[Book], prices: Prices) -> list[dict[str, Any]]:
    place = prices.place(day)
    market = market_at(prices, place - 1)
    held = [quantities(book, prices, place - 1) for book in books]
    rows = rows_of(held)
    asked, terms = required(market, rows)
    asked |= joint_venues.requirements(market, held)
    wide = joint_terms(market, rows, two_sided=0.5)["requirement"]
    one, two = prices.close[place], prices.close[min(place + 1, len(prices.days) - 1)]
    return [
        {
            "day": day.isoformat(),
            "book": book.name,
            "required": {
                name: float(amount[number])
                for name, amount in asked.items()
                if not np.isnan(amount[number])
            },
            "terms": {name: float(amount[number]) for name, amount in terms.items()},
            "two_sided": float(wide[number]),
            "loss": loss(market, quantity, one, 1),
            "loss_two_days": max(loss(market, quantity, one, 1), loss(market, quantity, two, 2)),
            "loss_volatility_up": loss(market, quantity, one, 1, 1.5),
            "moves": _moves(prices, place),
        }
        for number, (book, quantity) in enumerate(zip(books, held, strict=True))
    ]


def _moves(prices: Prices, place: int) -> dict[str, float]:
    """Returns of the coins on a day."""
    move = prices.close[place] / prices.close[place - 1] - 1.0
    return dict(zip(prices.coins, move.tolist(), strict=True))


def every_day(folder: Path, every: int) -> list[dict[str, Any]]:
    """A row per linear book: how often and by how much each rulebook was passed."""
    found = []
    for coins in sorted({book.coins for book in BOOKS if not book.straddle}):
        prices = read_prices(folder, coins)
        books = [book for book in BOOKS if book.coins == coins and not book.straddle]
        places = range(LOOKBACK + 1, len(prices.days) - 2, every)
        if not places:
            continue
        asked: dict[str, Floats] = {}
        lost = np.zeros((2, len(places), len(books)))
        for row, place in enumerate(places):
            market = market_at(prices, place)
            held = [quantities(book, prices, place) for book in books]
            rows = rows_of(held)
            for name, amount in required(market, rows)[0].items():
                asked.setdefault(name, np.zeros((len(places), len(books))))[row] = amount
            for number, quantity in enumerate(held):
                for after in (1, 2):
                    close = prices.close[place + after]
                    lost[after - 1, row, number] = loss(market, quantity, close, after)
        lost[1] = np.maximum(lost[0], lost[1])
        days = [prices.days[place + 1].isoformat() for place in places]
        for number, book in enumerate(books):
            own = {name: amount[:, number] for name, amount in asked.items()}
            found.append(_passed(book, days, own, lost[:, :, number]))
    return found


def _passed(
    book: Book, days: list[str], asked: Mapping[str, Floats], lost: Floats
) -> dict[str, Any]:
    return {
        "book": book.name,
        "first": days[0],
        "last": days[-1],
        "days": len(days),
        "worst": [float(lost[0].max()), days[int(lost[0].argmax())]],
        "worst_two_days": [float(lost[1].max()), days[int(lost[1].argmax())]],
        "rulebooks": {
            name: {
                "mean": float(amount.mean()),
                "passed": int((lost[0] > amount).sum()),
                "passed_in_two_days": int((lost[1] > amount).sum()),
                "most": float((lost[0] / amount).max()),
            }
            for name, amount in asked.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of daily closes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--every", type=int, default=1, help="of how many days one, second part")
    arguments = parser.parse_args()
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "crashes": before_crashes(arguments.data),
        "every_day": every_day(arguments.data, arguments.every),
        "notes": joint_venues.notes(),
        "parameters": joint.Parameters(lookback=LOOKBACK).model_dump(mode="json"),
    }
    command = f"python benchmarks/joint_study.py --data DIR --every {arguments.every}"
    texts = {
        ".json": json.dumps(found, indent=1, allow_nan=False) + "\n",
        ".md": page(found, command),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for ending, text in texts.items():
        (arguments.out / f"joint-study-{found['date']}{ending}").write_text(text, encoding="utf-8")
    print(texts[".md"])


if __name__ == "__main__":
    main()
