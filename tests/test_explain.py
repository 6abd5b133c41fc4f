"""Explanations: contributions add up, agree with the loops, and refuse changed inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracle
import polars as pl
import pytest
from random_tables import Case, random_case, write_case

import gpu_margin
from gpu_margin.explain import Explanation, explain
from gpu_margin.failures import ConfigError, InputError
from gpu_margin.saving import save


def finished(case: Case, folder: Path) -> Path:
    config = write_case(case, folder / "inputs", "parquet")
    save(gpu_margin.run(config, backend="numpy"), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    case = random_case(21)
    return case, finished(case, tmp_path_factory.mktemp("explain"))


@pytest.mark.parametrize("seed", [21, 22, 23, 24])
def test_contributions_add_up_and_agree_with_the_loops(seed: int, tmp_path: Path) -> None:
    case = random_case(seed)
    folder = finished(case, tmp_path)
    margins = pl.read_parquet(folder / "margins.parquet")
    expected = oracle.compute(case.config, case.positions, case.instruments, case.history, case.fx)
    for account in margins["account_id"].unique():
        for explanation in explain(folder, account):
            row = margins.filter(
                (pl.col("account_id") == account) & (pl.col("model") == explanation.model)
            ).row(0, named=True)
            assert explanation.figures == row
            adds_up(explanation)
            key = (account, explanation.model)
            if expected.stability[key] > 1e-6:
                same_contributions(explanation, expected.contributions[key])


def adds_up(explanation: Explanation) -> None:
    positions, figures = explanation.positions, explanation.figures
    slack = 1e-12 * figures["gross_exposure"]
    # Covariance: near an exact hedge the root magnifies rounding.
    for name, total in (("contribution", "requirement"), ("standalone", "standalone")):
        assert positions[name].sum() == pytest.approx(figures[total], rel=1e-9, abs=slack)
    assert positions["exposure"].sum() == pytest.approx(figures["net_exposure"], abs=slack)
    assert len(positions) == figures["positions"] == explanation.groups["positions"].sum()


def same_contributions(explanation: Explanation, expected: dict[tuple[str, str], float]) -> None:
    scale = explanation.figures["gross_exposure"]
    got = {
        (row["netting_set"], row["instrument_id"]): row["contribution"]
        for row in explanation.positions.iter_rows(named=True)
    }
    assert got.keys() == expected.keys()
    for key, amount in expected.items():
        assert got[key] == pytest.approx(amount, rel=1e-8, abs=1e-9 * scale)


def test_worst_scenario_is_the_accounts_loss_there(small: tuple[Case, Path]) -> None:
    case, folder = small
    expected = oracle.compute(case.config, case.positions, case.instruments, case.history, case.fx)
    simulated = [(key, losses) for key, losses in expected.losses.items() if losses]
    assert simulated
    for (account, model), losses in simulated:
        (explanation,) = explain(folder, account, model)
        loss = -explanation.positions["worst_pnl"].sum()
        scale = explanation.figures["gross_exposure"]
        assert loss == pytest.approx(max(losses.values()), rel=1e-9, abs=1e-9 * scale)


def test_covariance_has_no_worst_scenario(small: tuple[Case, Path]) -> None:
    case, folder = small
    account = case.positions[0]["account_id"]
    explanations = {e.model: e for e in explain(folder, account)}
    assert list(explanations) == list(case.config["models"])
    for model, settings in case.config["models"].items():
        if settings["kind"] == "covariance":
            assert explanations[model].figures["worst_scenario"] is None
            assert explanations[model].positions["worst_pnl"].is_null().all()


def test_changed_inputs_are_refused(tmp_path: Path) -> None:
    case = random_case(25, max_instruments=5, max_accounts=2)
    folder = finished(case, tmp_path)
    account = case.positions[0]["account_id"]
    history = tmp_path / "inputs" / "history.parquet"
    pl.read_parquet(history).reverse().write_parquet(history)
    with pytest.raises(InputError, match=r"history: .* has changed since the run"):
        explain(folder, account)
    history.unlink()
    with pytest.raises(InputError, match="no longer there"):
        explain(folder, account)


def test_unknown_account_model_and_folder(small: tuple[Case, Path], tmp_path: Path) -> None:
    case, folder = small
    with pytest.raises(ConfigError, match="no account 'nobody'"):
        explain(folder, "nobody")
    with pytest.raises(ConfigError, match="no model 'nothing'"):
        explain(folder, case.positions[0]["account_id"], "nothing")
    with pytest.raises(InputError, match="not the manifest of a finished run"):
        explain(tmp_path, "anyone")


def test_runs_on_frames_cannot_be_explained(tmp_path: Path) -> None:
    case = random_case(26, max_instruments=5, max_accounts=2)
    config = write_case(case, tmp_path, "parquet")
    positions = pl.read_parquet(tmp_path / "positions.parquet")
    save(gpu_margin.run(config, positions=positions), tmp_path / "out")
    with pytest.raises(InputError, match="positions was a table in memory"):
        explain(tmp_path / "out", "anyone")


def test_failed_rows_of_the_account_are_shown(tmp_path: Path) -> None:
    case = random_case(27, max_instruments=5, max_accounts=3)
    account = case.positions[0]["account_id"]
    bad = {"account_id": account, "instrument_id": "no such thing", "quantity": 1.0}
    case.positions.append(bad)
    case.positions.append({**bad, "account_id": "somebody else"})
    (first, *_) = explain(finished(case, tmp_path), account)
    assert first.failures["row"].to_list() == [len(case.positions) - 1]
    assert not first.figures["complete"]
    with pytest.raises(InputError, match="no good position row"):
        explain(tmp_path / "out", "somebody else")


def test_contributions_of_a_floored_requirement_are_zero(tmp_path: Path) -> None:
    """A bought option that cannot lose in any scenario: nothing depends on its size."""
    case = random_case(28, max_instruments=5, max_accounts=2)
    folder = finished(case, tmp_path)
    margins = pl.read_parquet(folder / "margins.parquet")
    zero = margins.filter(pl.col("requirement") == 0.0)
    for account, model in zero.select("account_id", "model").iter_rows():
        (explanation,) = explain(folder, account, model)
        assert not np.any(explanation.positions["contribution"].to_numpy())
