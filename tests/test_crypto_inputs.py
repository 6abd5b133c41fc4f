"""Markets and books through files of ours and back; crypto models in a run, beside others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import deribit_case
import derive_case
import derive_venue
import numpy as np
import polars as pl
import pytest
import small_case
from crypto_case import POSITIONS, Row, document_of, read, rows_of, write
from test_crypto_files import flat, told
from typer.testing import CliRunner

import gpu_margin
from gpu_margin import backend
from gpu_margin.cli import app
from gpu_margin.crypto_book import CryptoBook, CryptoMarket
from gpu_margin.crypto_files import Inputs, read_crypto
from gpu_margin.failures import ConfigError, failure_table
from gpu_margin.io.deribit import is_deribit, read_deribit
from gpu_margin.models import derive_pm2

NUMPY = backend.load("numpy")


def through_files(folder: Path, market: CryptoMarket, book: CryptoBook) -> Inputs:
    positions, balances = rows_of(book, market)
    return read(folder, document_of(market), positions, balances, suffix="parquet")


def equal(inputs: Inputs, market: CryptoMarket, book: CryptoBook) -> None:
    """The same market and book, bit for bit; how many rows there were is not."""
    found = flat(inputs)
    for name, value in flat(Inputs(market, book, [], failure_table())).items():
        if name in ("Portfolio.good", "Portfolio.bad", "CryptoMarket.time"):
            continue
        same = value.to_list() if isinstance(value, pl.Series) else value
        np.testing.assert_array_equal(found[name], same, err_msg=name)


def test_any_market_and_book_come_back(tmp_path: Path) -> None:
    market = derive_venue.venue()
    book = derive_venue.random_book(market, 30)
    inputs = through_files(tmp_path, market, book)
    assert told(inputs) == []
    equal(inputs, market, book)


def priced(name: str) -> bool:
    """Some cases have a perpetual without a price, of which nobody holds any."""
    return not (derive_case.pm2_case(name).market.instruments.price == 0).any()


@pytest.mark.parametrize("name", [*filter(priced, derive_case.pm2_names()[::10])])
def test_vectors_are_as_good_through_files(tmp_path: Path, name: str) -> None:
    case = derive_case.pm2_case(name)
    inputs = through_files(tmp_path, case.market, case.book)
    assert told(inputs) == []
    equal(inputs, case.market, case.book)


# ---------------------------------------------------------------- Deribit's answers


def answers(folder: Path) -> Path:
    case = next(iter(deribit_case.recorded().values()))
    path = folder / "answer.json"
    path.write_text(json.dumps(deribit_case.answer(case)))
    return path


def test_deribits_answers_are_known_by_what_they_say(tmp_path: Path) -> None:
    path = answers(tmp_path)
    assert is_deribit(path)
    inputs, found = read_crypto(path, path), read_deribit(path)
    assert len(inputs.book.portfolio.rows.value) > 0
    equal(inputs, found.market, found.book)
    assert told(inputs) == found.failures.select("source", "row", "field", "value", "reason").rows()


def test_deribits_balances_are_its_own(tmp_path: Path) -> None:
    path = answers(tmp_path)
    balances = write(tmp_path / "c")["balances"]
    with pytest.raises(ConfigError, match=r"balances.*leave it out"):
        read_crypto(path, path, balances)


# ---------------------------------------------------------------- runs


def model(folder: Path, kind: str = "derive_pm2", **other: Any) -> Row:
    return {"kind": kind, **{name: str(path) for name, path in write(folder).items()}, **other}


def alone(models: Row, **other: Any) -> gpu_margin.Run:
    config = {"valuation_date": "2026-01-21", "currency": "USD", "models": models, **other}
    return gpu_margin.run(config, backend="numpy")


def requirements(run: gpu_margin.Run, name: str) -> dict[tuple[str, str], float | None]:
    rows = run.margins.filter(pl.col("model") == name)
    return {(a, b): c for a, b, c in rows.select("account_id", "level", "requirement").iter_rows()}


def test_a_run_has_the_margin_of_every_account(tmp_path: Path) -> None:
    run = alone({"pm": model(tmp_path)})
    inputs = read(tmp_path / "again")
    prepared = derive_pm2.prepare(
        derive_pm2.figures(derive_pm2.Parameters.model_validate(write(tmp_path))),
        inputs.market,
        NUMPY,
    )
    found = prepared.margin(inputs.book)
    initial = found.levels["initial"].requirement
    assert requirements(run, "pm")[("A", "initial")] == initial[0]
    assert requirements(run, "pm")[("B", "initial")] == initial[1] + initial[2]
    assert requirements(run, "pm")[("C", "maintenance")] == 0.0
    assert run.margins["complete"].all() and run.failures.is_empty()
    assert run.crypto is not None and len(run.crypto) == 10
    parts = run.components.filter(pl.col("level") == "initial").group_by("account_id")
    for account, amount in parts.agg(pl.col("amount").sum()).iter_rows():
        assert amount == pytest.approx(requirements(run, "pm")[(account, "initial")], rel=1e-12)


def test_a_run_is_in_its_own_currency(tmp_path: Path) -> None:
    dollars = requirements(alone({"pm": model(tmp_path)}), "pm")
    fx = tmp_path / "fx.csv"
    fx.write_text("currency,rate\nUSD,0.5\n")
    euros = alone({"pm": model(tmp_path)}, currency="EUR", inputs={"fx": str(fx)})
    assert requirements(euros, "pm") == {key: 0.5 * amount for key, amount in dollars.items()}
    assert euros.crypto is not None and set(euros.margins["currency"]) == {"EUR"}
    with pytest.raises(ConfigError, match=r"margin is in USD.*inputs\.fx"):
        alone({"pm": model(tmp_path)}, currency="EUR")


def test_bad_rows_and_failed_sets_are_incomplete(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        None,
        [*POSITIONS, ("C", None, "NOPE", 1.0), ("A", None, "ETH-PERP", 1.0)],
    )
    run = alone({"pm": {"kind": "derive_pm2", **{key: str(path) for key, path in paths.items()}}})
    complete = dict(run.margins.select("account_id", "complete").iter_rows())
    assert complete == {"A": False, "B": True, "C": False, "D": True}
    found = requirements(run, "pm")
    assert found[("A", "initial")] is None and found[("C", "initial")] == 0.0
    reasons = run.failures.select("source", "field").rows()
    assert reasons == [("positions.csv", "instrument_id"), ("A", "market")]


@pytest.mark.parametrize("pieces", [1, 4])
def test_pieces_change_no_bit(tmp_path: Path, pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = alone({"pm": model(tmp_path)})
    monkeypatch.setattr("gpu_margin.crypto_files._SETS", 5 / pieces)
    cut = alone({"pm": model(tmp_path)})
    assert cut.margins.equals(whole.margins) and cut.components.equals(whole.components)
    assert cut.crypto is not None and cut.crypto.equals(whole.crypto)


def test_a_model_beside_one_on_positions(tmp_path: Path) -> None:
    config = small_case.CASE.config
    both = {**config, "models": {**config["models"], "pm": model(tmp_path)}}
    run = gpu_margin.run(both, backend="numpy", **small_case.frames(small_case.CASE))
    plain = small_case.run(small_case.CASE)
    assert requirements(run, "cov") == requirements(plain, "cov")
    assert requirements(run, "pm") == requirements(alone({"pm": model(tmp_path)}), "pm")
    # A is an account of both.
    assert set(run.margins.filter(pl.col("account_id") == "A")["model"]) == {"cov", "es", "pm"}
    assert {one["input"] for one in run.manifest["on_files"]["pm"]["files"]} == {
        "feeds",
        "positions",
        "balances",
    }


def test_paths_of_a_toml_count_from_it(tmp_path: Path) -> None:
    paths = write(tmp_path / "data")
    lines = [f'{name} = "data/{path.name}"' for name, path in paths.items()]
    (tmp_path / "run.toml").write_text(
        'valuation_date = 2026-01-21\ncurrency = "USD"\n[models.pm]\nkind = "derive_pm2"\n'
        + "\n".join(lines)
        + "\n[models.pm.figures.BTC]\nim_factor = 2.0\n"
    )
    found = CliRunner().invoke(
        app,
        ["run", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out"), "--backend", "numpy"],
    )
    assert found.exit_code == 0, found.output
    table = pl.read_parquet(tmp_path / "out" / "crypto.parquet")
    assert table["account_id"].unique().sort().to_list() == ["A", "B", "C", "D"]
    margins = pl.read_parquet(tmp_path / "out" / "margins.parquet")
    plain = requirements(alone({"pm": model(tmp_path)}), "pm")
    mine = margins.filter(pl.col("account_id") == "A", pl.col("level") == "initial")
    assert mine["requirement"][0] > 1.3 * (plain[("A", "initial")] or math.inf)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feeds": "absent.json"}, r"models\.pm: feeds: no such file"),
        ({"positions": "absent.csv"}, r"models\.pm: .*positions: no such file"),
        ({"table": "moon"}, r"models\.pm.*unknown version 'moon'"),
        ({"figures": {"BTC": {"im_facto": 1}}}, r"did you mean 'im_factor'"),
        ({"feed": "x"}, r"did you mean 'feeds'"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(tmp_path: Path, change: Row, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        alone({"pm": {**model(tmp_path), **change}})


def test_validate_says_what_there_is(tmp_path: Path) -> None:
    paths = write(tmp_path, None, [*POSITIONS, ("C", None, "NOPE", 1.0)])
    (tmp_path / "run.toml").write_text(
        'valuation_date = 2026-01-21\ncurrency = "USD"\n[models.pm]\nkind = "derive_pm2"\n'
        + "\n".join(f'{name} = "{path.name}"' for name, path in paths.items())
    )
    found = CliRunner().invoke(app, ["validate", str(tmp_path / "run.toml")])
    assert "unknown instrument" in " ".join(found.output.split()), found.output
