"""Cures of finished runs: what the plan says is what a run of the traded book says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from small_case import (
    CASE,
    EXPIRY,
    VALUATION,
    Case,
    Row,
    covariance,
    instrument,
    position,
    toml,
    write_tables,
)
from small_case import simulation as simulated
from typer.testing import CliRunner

import gpu_margin
from gpu_margin import backend as backends
from gpu_margin.cure_cli import cure as cure_command
from gpu_margin.curing import neutral as residual
from gpu_margin.curing.book import default_lot
from gpu_margin.curing.finished import Cures, cure_account
from gpu_margin.curing.model import requires
from gpu_margin.curing.planning import Cure, CureParameters
from gpu_margin.curing.risk import required
from gpu_margin.engine import prepare
from gpu_margin.failures import ConfigError, InputError
from gpu_margin.reopening import reopen
from gpu_margin.saving import save


def measured(kind: str, **more: Any) -> Row:
    return {"kind": kind, **({} if kind == "worst" else {"confidence": 0.9}), **more}


MODELS: dict[str, Row] = {
    "cov": covariance(),
    "es": simulated(),
    "fractional": simulated(measure=measured("es", confidence=0.87, tail="fractional")),
    "worst": simulated(measure=measured("worst")),
    "var": simulated(measure=measured("var")),
    "hazen": simulated(measure=measured("var", tail="hazen")),
    "mixed": simulated(precision="mixed"),
    "single": simulated(precision="float32"),
    "capped": simulated(offset_cap=0.4),
    "capped_cov": covariance(offset_cap=0.4),
    "clusters": simulated(offset_cap=0.5, offset_clusters=[["X"], ["Y"]]),
}
# The spot asset falls with X; its haircut grows with what the set loses when it does.
ASSETS: list[Row] = [
    {"asset": "USD", "price": 1.0, "currency": "USD", "haircut": 0.0},
    {
        **{"asset": "COIN", "price": 20.0, "currency": "USD", "haircut": 0.05},
        **{"factor": "X", "wrong_way_factor": 4.0},
    },
]
POSITIONS = [
    position("A", "FUTX", 7.0),
    position("A", "CALLX", -30.0),
    position("A", "PERPY", 90.0),
    position("A", "FUTY", -25.0),
    position("B", "FUTY", 20.0, "s1"),
    position("B", "PUTY", 50.0, "s1"),
    position("B", "FUTX", -3.0, "s2"),
    position("C", "SPOTX", 40.0),
    position("C", "PERPY", -7.25),
    position("D", "FUTX", 4.0),
    position("D", "LONE", -40.9),
    position("D", "CALLX", 2.0),
]


def holding(account: str, amount: float, asset: str = "USD", netting_set: Any = None) -> Row:
    return {"account_id": account, "asset": asset, "amount": amount, "netting_set": netting_set}


HOLDINGS = [
    holding("A", 60.0),
    holding("A", 2.0, "COIN"),
    holding("B", 5.0, netting_set="s1"),
    holding("B", 1.0, "COIN", "s2"),
    holding("C", -231.0),
    holding("D", 1.0),
]


class Book:
    """A case with collateral, in a folder, run."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.case: Case = CASE.with_rows("positions", changes.get("positions", POSITIONS))
        models = changes.get("models", MODELS)
        self.config = {**CASE.config, "models": models, **changes.get("config", {})}
        self.holdings: list[Row] = changes.get("holdings", HOLDINGS)
        self.assets: list[Row] = changes.get("assets", ASSETS)
        self.more: dict[str, list[Row]] = {}

    def run(self, name: str = "out") -> Path:
        """Run and saved; its folder."""
        inputs = write_tables(self.case, self.folder / name / "inputs", "parquet")
        more = {"collateral": self.holdings, "assets": self.assets, **self.more}
        for table, rows in more.items():
            inputs[table] = self.folder / name / "inputs" / f"{table}.parquet"
            pl.DataFrame(rows, infer_schema_length=None).write_parquet(inputs[table])
        paths = {table: str(path) for table, path in inputs.items()}
        config = self.folder / name / "config.toml"
        config.write_text(toml({**self.config, "inputs": paths}))
        save(gpu_margin.run(config, backend="numpy"), self.folder / name / "run")
        return self.folder / name / "run"

    def after(self, cure: Cure, name: str) -> Row:
        """How the set stands in a run of the book with the trades done and paid."""
        traded = Book(self.folder, models={cure.model: self.config["models"][cure.model]})
        traded.config = {**self.config, "models": traded.config["models"]}
        own = None if cure.netting_set == cure.account else cure.netting_set
        traded.case = self.case.added(
            "positions",
            *(
                position(cure.account, row["instrument_id"], row["trade"], own)
                for row in cure.trades.iter_rows(named=True)
            ),
        )
        cash = math.fsum(cure.trades["cash"].to_list())
        traded.holdings = [*self.holdings, holding(cure.account, cash, netting_set=own)]
        traded.assets = self.assets
        return row_of(traded.run(name), cure)


def row_of(folder: Path, cure: Cure) -> Row:
    table = pl.read_parquet(folder / "accounts.parquet").filter(
        account_id=cure.account, model=cure.model
    )
    own = table.filter(pl.col("netting_set") == cure.netting_set)
    return (own if len(own) else table).row(0, named=True)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> tuple[Book, Path]:
    made = Book(tmp_path_factory.mktemp("cure"))
    return made, made.run()


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> tuple[Book, Path]:
    made = Book(tmp_path_factory.mktemp("inside"), config={"collateral": {"mode": "in_scenarios"}})
    return made, made.run()


def holds(book: Book, cure: Cure, name: str) -> None:
    """The plan's figures are those of the run of the traded book, which is ok."""
    plan, row = cure.plan, book.after(cure, name)
    assert plan.verified
    assert row["initial"] == pytest.approx(plan.requirement_after, rel=1e-9)
    assert row["collateral_value"] == pytest.approx(plan.value_after, rel=1e-9)
    assert row["initial"] <= cure.target * row["collateral_value"] * (1 + 1e-9)
    assert cure.trades["cost"].sum() == pytest.approx(plan.cost, rel=1e-12)


@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("account", ["A", "B", "C", "D"])
def test_plans_hold_in_a_run_of_the_traded_book(
    book: tuple[Book, Path], account: str, model: str
) -> None:
    made, folder = book
    found = cure_account(folder, account, model=model)
    assert len(found.plans) == (2 if account == "B" else 1)
    for number, cure in enumerate(found.plans):
        row = row_of(folder, cure)
        assert cure.plan.requirement_before == pytest.approx(row["initial"], rel=1e-12)
        assert cure.plan.value_before == pytest.approx(row["collateral_value"], rel=1e-12)
        assert (cure.plan.status == "fine") == (row["status"] == "ok")
        if cure.plan.status == "cured":
            holds(made, cure, f"{account}-{model}-{number}")


@pytest.mark.parametrize("model", ["cov", "es", "var", "capped"])
@pytest.mark.parametrize("account", ["A", "B"])
def test_plans_hold_with_collateral_in_the_scenarios(
    inside: tuple[Book, Path], account: str, model: str
) -> None:
    made, folder = inside
    for number, cure in enumerate(cure_account(folder, account, model=model).plans):
        row = row_of(folder, cure)
        assert cure.plan.requirement_before == pytest.approx(row["initial"], rel=1e-12)
        assert "COIN" not in cure.trades["instrument_id"]
        if cure.plan.status == "cured":
            holds(made, cure, f"{account}-{model}-{number}")


def test_targets_hedges_and_precisions(book: tuple[Book, Path]) -> None:
    made, folder = book
    wanted = CureParameters(target=0.5, hedges=True)
    (hedged,) = cure_account(folder, "D", wanted, model="es").plans
    (reduced,) = cure_account(folder, "D", CureParameters(target=0.5), model="es").plans
    assert hedged.plan.status == "cured"
    assert hedged.plan.utilisation_after is not None and hedged.plan.utilisation_after <= 0.5
    holds(made, hedged, "hedged")
    # What may be done with hedges may cost no more.
    if reduced.plan.status == "cured":
        assert hedged.plan.cost <= reduced.plan.cost * (1 + 1e-6)


def test_accounts_come_with_their_worst_set_first(book: tuple[Book, Path]) -> None:
    _, folder = book
    found = cure_account(folder, "B", model="es").plans
    used = [row_of(folder, cure)["utilisation"] for cure in found]
    assert used == sorted(used, reverse=True)
    assert {cure.netting_set for cure in found} == {"s1", "s2"}


def test_value_at_risk_is_said_to_be_bounded(book: tuple[Book, Path]) -> None:
    _, folder = book
    for model, said in (("var", True), ("hazen", True), ("es", False)):
        (cure,) = cure_account(folder, "A", model=model).plans
        assert any("value-at-risk" in note for note in cure.notes) == said
    assert any("wrong-way" in note for note in cure.notes)


def test_what_a_wrong_way_asset_loses_is_recomputed(tmp_path: Path) -> None:
    """Short X beside a coin on X, hedged too far by closing the short: the coin's haircut grows."""
    made = Book(
        tmp_path,
        positions=[position("A", "FUTX", -6.0), position("A", "LONE", 20.0)],
        holdings=[holding("A", 2.0, "COIN")],
        assets=[{**ASSETS[1], "wrong_way_factor": 30.0}, ASSETS[0]],
        models={"es": MODELS["es"]},
    )
    lots = costs(
        tmp_path,
        {"instrument_id": "FUTX", "cost": 1.0, "lot": 5},
        {"instrument_id": "LONE", "cost": 1.0},
    )
    cure = cured(cure_account(made.run(), "A", costs=lots))
    plan = cure.plan
    assert plan.status == "cured"
    # 38 with the haircut as it was, by which 5 contracts closed would be enough.
    assert plan.value_before == pytest.approx(38.0)
    assert plan.value_after < 30.0
    assert set(cure.trades["instrument_id"]) == {"FUTX", "LONE"}
    holds(made, cure, "after")


@pytest.mark.parametrize("model", list(MODELS))
def test_a_programme_knows_what_the_model_requires(book: tuple[Book, Path], model: str) -> None:
    """Its parts are the requirement of any positions; under value-at-risk, a bound of it."""
    loaded = reopen(book[1])
    one = next(one for one in loaded.models if one.name == model)
    double = one.parameters
    if "precision" in type(double).model_fields:
        double = double.model_copy(update={"precision": "float64"})
    numpy = backends.load("numpy")
    prepared, exact = (
        prepare(loaded, replace(one, parameters=parameters), numpy)
        for parameters in (one.parameters, double)
    )
    columns = np.array([0, 1, 3, 4, 6])
    asked = requires(prepared, exact, columns)
    rng = np.random.default_rng(1)
    for _ in range(20):
        positions = rng.integers(-5, 6, len(columns)) * 1.0
        known, amount = required(asked.parts, positions), asked.amount(positions)
        if model in ("var", "hazen"):
            assert asked.bound
            assert known >= amount * (1 - 1e-12)
        else:
            assert not asked.bound
            rounding = 1e-6 if model in ("mixed", "single") else 1e-12
            assert known == pytest.approx(amount, rel=rounding)


def test_the_share_of_an_owner_counts(tmp_path: Path) -> None:
    """Long at one venue, short at the other: together they require next to nothing."""
    made = Book(
        tmp_path,
        positions=[position("A", "FUTX", 3.0), position("B", "FUTX", -3.0)],
        holdings=[holding("A", 30.0), holding("B", 1e-3)],
        models={"es": MODELS["es"]},
    )
    made.more = {
        "accounts": [
            {"account_id": name, "owner": "O", "venue": venue} for name, venue in ("AV", "BW")
        ],
        "agreements": [{"owner": "O", "venues": "V;W", "max_offset": 0.9}],
    }
    folder = made.run()
    fine, poor = (cured(cure_account(folder, name)) for name in "AB")
    assert (fine.plan.status, fine.plan.cost) == ("fine", 0.0)
    assert fine.plan.requirement_before == row_of(folder, fine)["initial"] < 30.0
    assert poor.plan.status == "cured"
    assert any("share" in note for note in poor.notes)


# ---------------------------------------------------------------- terms of trading


def costs(folder: Path, *rows: Row) -> Path:
    path = folder / "costs.csv"
    names = ("instrument_id", "cost", "lot", "tradable", "limit")
    lines = [",".join(str(row.get(name, "")) for name in names) for row in rows]
    path.write_text("\n".join([",".join(names), *lines]) + "\n")
    return path


def cured(found: Cures) -> Cure:
    (cure,) = found.plans
    return cure


def test_default_costs_are_values(book: tuple[Book, Path]) -> None:
    _, folder = book
    cure = cured(cure_account(folder, "C", model="worst"))
    price = {"SPOTX": 100.0, "PERPY": 25.25}
    for row in cure.trades.iter_rows(named=True):
        assert row["cost"] == pytest.approx(abs(row["trade"]) * price[row["instrument_id"]])
        paid = -row["trade"] * 100.0 if row["instrument_id"] == "SPOTX" else 0.0
        assert row["cash"] == pytest.approx(paid)
    (_, options) = cure_account(folder, "B", model="es").plans
    ((name, trade, cost, cash),) = options.trades.select(
        "instrument_id", "trade", "cost", "cash"
    ).rows()
    assert (name, cash) == ("PUTY", cost)
    assert cost == pytest.approx(-trade * 1.1 * put_on_y(), rel=1e-12)


def put_on_y() -> float:
    """Black-76 of the put PUTY, whose forward is the last price of Y."""
    forward = CASE.history[-2]["price"]
    deviation = 0.3 * math.sqrt((EXPIRY - VALUATION).days / 365.0)
    high = math.log(forward / 45.0) / deviation + deviation / 2.0
    below = [(1.0 + math.erf(-d / math.sqrt(2.0))) / 2.0 for d in (high, high - deviation)]
    return 45.0 * below[1] - forward * below[0]


def test_listed_instruments_are_hedges_with_lots_and_limits(
    book: tuple[Book, Path], tmp_path: Path
) -> None:
    made, folder = book
    listed = {"instrument_id": "LONE", "cost": 0.01, "lot": 2, "limit": 5}
    (cure, _) = cure_account(folder, "B", costs=costs(tmp_path, listed), model="es").plans
    # Two of three contracts of 1010 and four of 99: 614 of 3030 are left, of which 19 are covered.
    traded = dict(cure.trades.select("instrument_id", "trade").iter_rows())
    assert traded == {"FUTX": 2.0, "LONE": 4.0}
    assert cure.plan.cost == pytest.approx(2 * 1010.0 + 4 * 0.01)
    holds(made, cure, "listed")
    (cure,) = cure_account(folder, "A", costs=costs(tmp_path, listed), model="es").plans
    assert dict(cure.trades.select("instrument_id", "after").iter_rows())["LONE"] == -4.0
    not_tradable = costs(tmp_path, {**listed, "tradable": "no"})
    (cure, _) = cure_account(folder, "B", costs=not_tradable, model="es").plans
    assert dict(cure.trades.select("instrument_id", "trade").iter_rows()) == {"FUTX": 3.0}


def test_what_is_held_may_go_beyond_where_it_is_tradable(
    book: tuple[Book, Path], tmp_path: Path
) -> None:
    _, folder = book
    held = {"instrument_id": "CALLX", "cost": 1e-3}
    names = ("FUTX", "LONE")
    dear = [{"instrument_id": name, "cost": 1e6} for name in names]
    kept = cured(cure_account(folder, "D", costs=costs(tmp_path, held, *dear), model="es"))
    free = costs(tmp_path, {**held, "tradable": "TRUE"}, *dear)
    beyond = cured(cure_account(folder, "D", costs=free, model="es"))
    assert beyond.plan.cost <= kept.plan.cost
    after = dict(kept.trades.select("instrument_id", "after").iter_rows())
    assert 0.0 <= after.get("CALLX", 2.0) <= 2.0


def test_failed_rows_of_the_costs_are_not_traded(book: tuple[Book, Path], tmp_path: Path) -> None:
    _, folder = book
    rows = [
        {"instrument_id": "SPOTX", "cost": "NaN"},
        {"instrument_id": "PERPY", "cost": 1.0, "lot": -1},
        {"instrument_id": "NOWHERE", "cost": 1.0},
        {"instrument_id": "FUTX", "cost": "free"},
        {"instrument_id": "FUTY", "cost": 1.0, "tradable": "maybe"},
        {"instrument_id": "CALLX", "cost": -1.0},
        {"instrument_id": "PUTY", "cost": 1.0},
        {"instrument_id": "PUTY", "cost": 2.0},
        {"instrument_id": "", "cost": 2.0},
    ]
    found = cure_account(folder, "C", costs=costs(tmp_path, *rows), model="worst")
    assert sorted(found.failures["row"].to_list()) == list(range(1, 10))
    plan = cured(found).plan
    assert plan.status == "infeasible"
    assert "limits bind in PERPY, SPOTX" in plan.reason


def test_the_lot_that_divides_what_is_held() -> None:
    held = np.array([3.0, -2.5, 0.07, 1.0 / 3.0, 0.0, 1e-7])
    assert default_lot(held).tolist() == [1.0, 0.1, 0.01, 1e-8, 1.0, 1e-7]


# ---------------------------------------------------------------- books without a direction


def test_delta_neutral_books_show_what_is_left(tmp_path: Path) -> None:
    """A straddle on X, hedged; a spread of Y: the greeks are those of the formulas."""
    at_the_money = {"strike": 100.0, "expiry": EXPIRY, "implied_vol": 0.2, "forward": 100.0}
    case = CASE.added(
        "instruments",
        instrument("CX", "call", "X", **at_the_money),
        instrument("PX", "put", "X", **at_the_money),
    )
    days = (EXPIRY - VALUATION).days / 365.0
    d1 = 0.2 * math.sqrt(days) / 2.0
    density = math.exp(-d1 * d1 / 2.0) / math.sqrt(2.0 * math.pi)
    delta = math.erf(d1 / math.sqrt(2.0))  # of call and put together
    book = [
        position("N", "CX", 10.0),
        position("N", "PX", 10.0),
        position("N", "SPOTX", -10.0 * delta),
        position("N", "FUTY", 1.0),
        position("N", "PERPY", -51.0 / 25.25),
    ]
    made = Book(tmp_path, positions=book, holdings=[holding("N", 1.0)])
    made.case = case.with_rows("positions", book)
    cure = cured(cure_account(made.run(), "N", model="es"))
    left = cure.neutral
    assert left is not None
    x, y = left.greeks.iter_rows(named=True)
    assert (x["factor"], y["factor"]) == ("X", "Y")
    assert x["net_exposure"] == pytest.approx(0.0, abs=1e-9)
    assert x["gross_exposure"] > 1000.0
    gamma = 20.0 * density / (100.0 * 0.2 * math.sqrt(days)) * 100.0 * 1.0
    assert x["gamma"] == pytest.approx(gamma, rel=2e-3)
    assert x["vega"] == pytest.approx(20.0 * 100.0 * density * math.sqrt(days) * 0.01, rel=1e-4)
    assert (y["gamma"], y["vega"]) == (0.0, 0.0)
    kinds = left.basis.select("factor", "kind", "expiry").rows()
    assert kinds == [
        ("X", "call", EXPIRY),
        ("X", "put", EXPIRY),
        ("X", "spot", None),
        ("Y", "future", None),
        ("Y", "perpetual", None),
    ]
    assert left.basis["net_exposure"].sum() == pytest.approx(0.0, abs=1e-9)
    assert left.requirement == cure.plan.requirement_before
    alone = [cured(run_alone(tmp_path, made, part)).plan.requirement_before for part in "XY"]
    assert left.uncorrelated == pytest.approx(math.hypot(*alone), rel=1e-9)


def run_alone(folder: Path, book: Book, factor: str) -> Cures:
    names = {"X": ("CX", "PX", "SPOTX"), "Y": ("FUTY", "PERPY")}[factor]
    rows = [row for row in book.case.positions if row["instrument_id"] in names]
    part = Book(folder, holdings=book.holdings)
    part.case = book.case.with_rows("positions", rows)
    return cure_account(part.run(f"only-{factor}"), "N", model="es")


def test_books_with_a_direction_are_not_neutral(book: tuple[Book, Path]) -> None:
    _, folder = book
    assert cured(cure_account(folder, "A", model="es")).neutral is None
    assert residual.NEUTRAL == 0.01


# ---------------------------------------------------------------- what is refused


def test_runs_without_collateral_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    tables = write_tables(CASE, tmp_path, "parquet")
    inputs = {name: str(place) for name, place in tables.items()}
    path.write_text(toml({**CASE.config, "inputs": inputs}))
    save(gpu_margin.run(path, backend="numpy"), tmp_path / "run")
    with pytest.raises(InputError, match=r"accounts\.parquet: not there: .* inputs\.collateral"):
        cure_account(tmp_path / "run", "A")


def test_unknown_accounts_and_models_are_refused(book: tuple[Book, Path]) -> None:
    _, folder = book
    with pytest.raises(ConfigError, match="no positions of an account 'nobody'"):
        cure_account(folder, "nobody")
    with pytest.raises(ConfigError, match="no model 'nothing'"):
        cure_account(folder, "A", model="nothing")


def test_failed_positions_are_said(tmp_path: Path) -> None:
    bad = [position("A", "NOWHERE", 1.0), position("Z", "NOWHERE", 1.0)]
    made = Book(
        tmp_path,
        positions=[*POSITIONS, *bad],
        holdings=[*HOLDINGS, holding("Z", 1.0)],
        models={"es": MODELS["es"]},
    )
    folder = made.run()
    assert any("rows failed" in note for note in cured(cure_account(folder, "A")).notes)
    lost = cure_account(folder, "Z")
    assert (lost.plans, lost.unknown) == ([], [("Z", "es")])
    done = invoke(folder, "Z")
    assert done.exit_code == 3
    assert "no requirement that is known" in done.stderr


# ---------------------------------------------------------------- the command


def invoke(folder: Path, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(cure_command)
    return CliRunner().invoke(app, [str(folder), *arguments])


@pytest.fixture
def command(book: tuple[Book, Path]) -> Callable[..., Any]:
    return lambda *arguments: invoke(book[1], *arguments)


def test_the_command_shows_plans(command: Callable[..., Any]) -> None:
    done = command("A", "--model", "es")
    assert done.exit_code == 0, done.output
    assert command("nobody").exit_code == 2
    for text in ("Account A, netting set A, model es", "cured", "Trades", "recomputed"):
        assert text in done.output


def test_the_command_speaks_json(command: Callable[..., Any], tmp_path: Path) -> None:
    bad = costs(tmp_path, {"instrument_id": "NOWHERE", "cost": 1.0})
    done = command("B", "--model", "es", "--json", "--cost", str(bad))
    found = json.loads(done.output)
    assert len(found["failures"]) == 1
    for plan in found["plans"]:
        assert plan["verified"] == (plan["status"] in ("fine", "cured"))
        assert plan["account"] == "B"


def test_the_command_fails_where_there_is_no_cure(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    locked = [
        {"instrument_id": name, "cost": 1.0, "tradable": "false"} for name in ("SPOTX", "PERPY")
    ]
    done = command("C", "--model", "worst", "--cost", str(costs(tmp_path, *locked)))
    assert done.exit_code == 1
    assert "no cure: collateral -231.00 is not positive, nor after any trades" in done.output
