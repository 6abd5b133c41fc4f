"""The whole job, from Parquet to Parquet: `gpu_margin.run` and `save` beside a short script.

The book is made up: linear instruments on a hundred factors, and one model, expected shortfall over
the last so many returns. The engine also checks every row, and gives sets, groups, standalone
requirements and a report; the script computes one number per account and its worst scenario.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from gpu_margin import engine, saving
from gpu_margin.backend import Backend
from gpu_margin.bench.cases import (
    INSTRUMENTS,
    REFERENCE_CELLS,
    SLACK,
    Answer,
    Contender,
    Reference,
    Size,
    Work,
    sampled,
    zipf_rows,
)
from gpu_margin.bench.precision import FLOAT64, Precision

UNDERLYINGS = 100
_VALUATION = date(2024, 6, 28)
# Host bytes per position row: strings, joins, sorts, several tables at a time.
_ROW_BYTES = 300.0


class EndToEnd:
    """Positions, instruments and history in Parquet become margins in Parquet."""

    key = "d"
    title = "end to end"
    practitioners = ("polars + scipy script",)
    partial = ()
    precisions = (FLOAT64.name,)

    def work(self, size: Size, precision: Precision = FLOAT64) -> Work:
        """As the simulation margin, with tables of text around it."""
        entries, cells = size.accounts * size.positions, INSTRUMENTS * size.scenarios
        table = 24.0 * entries
        return Work(
            label=str(size),
            unit="accounts",
            units=size.accounts,
            gathered_bytes=entries * (24.0 + 8.0 * size.scenarios),
            compulsory_bytes=table + min(entries, INSTRUMENTS) * 8.0 * size.scenarios,
            flops=2.0 * entries * size.scenarios,
            # while the tables are made and the reference computed; little of it stays
            input_bytes=_ROW_BYTES / 2 * entries
            + 16.0 * cells
            + 8.0 * min(REFERENCE_CELLS, size.accounts * size.scenarios),
            backend_bytes=_ROW_BYTES * entries + 16.0 * cells + SLACK,
            baseline_bytes=_ROW_BYTES / 2 * entries
            + 8.0 * size.accounts * size.scenarios
            + 16.0 * cells,
            # reading, joining and writing a row costs about as much as a thousand scenarios
            steps=entries * (1_000.0 + size.scenarios),
            together=0,
        )

    def build(self, size: Size) -> EndToEndCase:
        """Write the tables into a temporary folder."""
        return EndToEndCase(self.work(size), size)


class EndToEndCase:
    """See `EndToEnd`."""

    def __init__(self, work: Work, size: Size) -> None:
        self.work, self.size = work, size
        self.folder = Path(tempfile.mkdtemp(prefix="gpu-margin-bench-"))
        try:
            write_tables(size, self.folder)
            self.reference = self._reference()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def practitioner(self, name: str, units: int | None = None) -> Contender:
        """The script, writing its table; always of all accounts."""

        def run() -> pl.DataFrame:
            margins = script(self.folder, self.size.scenarios)
            margins.write_parquet(self.folder / "script.parquet")
            return margins

        return Contender(name, self.work.units, run, self._answer)

    def backend(self, device: Backend, precision: Precision = FLOAT64) -> list[Contender]:
        """The engine on that backend, and all that it writes."""

        def run() -> pl.DataFrame:
            finished = engine.run(_config(self.folder, self.size.scenarios), backend=device)
            saving.save(finished, self.folder / "results", overwrite=True)
            return finished.margins

        return [Contender(device.name, self.work.units, run, self._answer)]

    def _answer(self, margins: pl.DataFrame) -> Answer:
        """By account, scenarios counted from the oldest."""
        rows = margins.sort("account_id")
        oldest = _VALUATION - timedelta(days=self.size.scenarios - 1)
        days = rows["worst_scenario"].cast(pl.String).str.to_date() - oldest
        return Answer(rows.select("requirement").to_numpy(), days.dt.total_days().to_numpy())

    def _reference(self) -> Reference:
        """The script's own code on as many accounts as fit."""
        sample = sampled(self.work.units, self.size.scenarios)
        parts = _inputs(self.folder, self.size.scenarios)
        book = parts.book[sample] if len(sample) < self.work.units else parts.book
        answer = self._answer(_margins(book, parts.unit_pnl, parts.accounts.gather(sample)))
        return Reference(sample, answer, abs(book) @ np.abs(parts.unit_pnl).mean(axis=1))


def write_tables(size: Size, folder: Path) -> None:
    """Positions, instruments and history of a made-up exchange as Parquet in `folder`."""
    rng = np.random.default_rng(4)
    rows = zipf_rows(size.accounts, size.positions, INSTRUMENTS, rng)
    accounts = pl.Series([f"A{i:07d}" for i in range(size.accounts)])
    instruments = pl.Series([f"I{i:05d}" for i in range(INSTRUMENTS)])
    owner = np.repeat(np.arange(size.accounts), size.positions)
    pl.DataFrame(
        {
            "account_id": accounts.gather(owner),
            "instrument_id": instruments.gather(rows.column),
            "quantity": rows.value,
        }
    ).write_parquet(folder / "positions.parquet")
    factor = np.arange(INSTRUMENTS) % UNDERLYINGS
    pl.DataFrame(
        {
            "instrument_id": instruments,
            "kind": "future",
            "underlying": [f"F{code:02d}" for code in factor],
            "product_group": [f"G{code % 5}" for code in factor],
            "currency": "USD",
            "multiplier": rng.integers(1, 50, INSTRUMENTS).astype(np.float64),
            "price": rng.uniform(10.0, 200.0, INSTRUMENTS),
        }
    ).write_parquet(folder / "instruments.parquet")
    history(size.scenarios, rng).write_parquet(folder / "history.parquet")


def history(scenarios: int, rng: np.random.Generator) -> pl.DataFrame:
    """Prices of every factor on `scenarios` + 1 days in a row."""
    days = [_VALUATION - timedelta(days=back) for back in range(scenarios, -1, -1)]
    steps = 0.01 * rng.standard_normal((len(days), UNDERLYINGS))
    steps += 0.01 * rng.standard_normal((len(days), 1))
    prices = 100.0 * np.exp(np.cumsum(np.clip(steps, -0.1, 0.1), axis=0))
    prices = np.clip(prices, 1e-6, 1e12)
    return pl.DataFrame(
        {
            "date": np.repeat(np.array(days, dtype="datetime64[D]"), UNDERLYINGS),
            "factor": [f"F{code:02d}" for code in range(UNDERLYINGS)] * len(days),
            "price": prices.ravel(),
        }
    )


class _Inputs:
    """The tables as a script needs them."""

    def __init__(self, accounts: pl.Series, book: csr_array, unit_pnl: NDArray[Any]) -> None:
        self.accounts, self.book, self.unit_pnl = accounts, book, unit_pnl


def script(folder: Path, scenarios: int) -> pl.DataFrame:
    """What a practitioner writes: read, join, multiply, partition."""
    parts = _inputs(folder, scenarios)
    return _margins(parts.book, parts.unit_pnl, parts.accounts)


def _inputs(folder: Path, scenarios: int) -> _Inputs:
    positions = pl.read_parquet(folder / "positions.parquet")
    instruments = pl.read_parquet(folder / "instruments.parquet").sort("instrument_id")
    table = pl.read_parquet(folder / "history.parquet").pivot("factor", index="date")
    prices = table.sort("date").drop("date")
    moves = prices.to_numpy()
    returns = (moves[1:] / moves[:-1] - 1.0)[-scenarios:]
    factor = {name: code for code, name in enumerate(prices.columns)}
    codes = instruments["underlying"].replace_strict(factor).to_numpy()
    scale = (instruments["multiplier"] * instruments["price"]).to_numpy()
    unit_pnl = scale[:, None] * returns.T[codes]
    accounts = positions["account_id"].unique().sort()
    numbered = positions.join(
        instruments.select("instrument_id").with_row_index("column"), on="instrument_id"
    ).join(accounts.to_frame().with_row_index("row"), on="account_id")
    where = (numbered["row"].to_numpy(), numbered["column"].to_numpy())
    shape = (len(accounts), len(instruments))
    book = csr_array((numbered["quantity"].to_numpy(), where), shape=shape)
    return _Inputs(accounts, book, unit_pnl)


def _margins(book: csr_array, unit_pnl: NDArray[Any], accounts: pl.Series) -> pl.DataFrame:
    profits = np.asarray(book @ unit_pnl)
    scenarios = profits.shape[1]
    k = max(1, int(np.ceil(round(0.025 * scenarios, 9))))
    worst = profits.argmin(axis=1)
    profits.partition(k - 1, axis=1)
    shortfall = -np.sort(profits[:, :k], axis=1).mean(axis=1)
    oldest = np.datetime64(_VALUATION) - (scenarios - 1)
    return pl.DataFrame(
        {
            "account_id": accounts,
            "requirement": np.maximum(shortfall, 0.0),
            "worst_scenario": oldest + worst.astype("timedelta64[D]"),
        }
    )


def _config(folder: Path, scenarios: int) -> dict[str, Any]:
    tables = ("positions", "instruments", "history")
    model = {
        "kind": "simulation",
        "scenarios": {"kind": "historical", "lookback": scenarios},
        "measure": {"kind": "es", "confidence": 0.975, "tail": "discrete"},
    }
    return {
        "valuation_date": _VALUATION,
        "currency": "USD",
        "inputs": {name: folder / f"{name}.parquet" for name in tables},
        "models": {"historical": model},
    }
