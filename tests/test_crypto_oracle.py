"""The crypto oracle against every published case; the engine is held to it elsewhere."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import crypto_oracle
import crypto_oracle_deribit
import crypto_oracle_older
import crypto_oracle_vectors as vectors
import pytest
import vectors_case

Dict = dict[str, Any]

# Its skew scenario moves the spot price, which the rulebook forbids.
FORBIDDEN = "misc_skew_scenario_with_spot_move"


def _cases(reader: Any, *place: str) -> dict[str, Dict]:
    path = vectors_case.vectors().joinpath(*place)
    found: dict[str, Dict] = reader(path) if path.exists() else {}
    return found


@cache
def cases(rulebook: str) -> dict[str, Dict]:
    """Published cases by name; none where the folder is not there."""
    if rulebook == "derive_pm2":
        found = _cases(vectors.pm2_cases, "derive", "pm2")
        return {name: case for name, case in found.items() if FORBIDDEN not in name}
    if rulebook == "derive_pm1":
        return _cases(vectors.pm1_cases, "derive", "pm1_cases.json")
    if rulebook == "derive_standard":
        return _cases(vectors.standard_cases, "derive", "sm_cases.json")
    return _cases(vectors.deribit_cases, "deribit", "pme_simulate_vectors.json")


def each(rulebook: str) -> Any:
    """One test per case; a named skip where there are none."""
    names = [pytest.param(name, id=f"{rulebook}-{name}") for name in sorted(cases(rulebook))]
    return pytest.mark.parametrize("name", vectors_case.cases(rulebook, names))


def is_close(ours: float, theirs: float, to: float = 1e-10) -> bool:
    return abs(ours - theirs) <= to * max(1.0, abs(theirs))


@each("derive_pm2")
def test_pm2_oracle(name: str) -> None:
    case = cases("derive_pm2")[name]
    found = crypto_oracle.pm2(case["figures"], case["market"], case["account"])
    result = case["result"]
    kinds = ("reg_losses", "tail_losses", "skew_losses")
    losses = [float(loss[-1]) for kind in kinds for loss in result[kind]]
    assert len(losses) == len(found["scenarios"])
    assert all(map(is_close, found["scenarios"], losses))
    parts = found["parts"]
    printed = {
        "IM": found["IM"],
        "MM": found["MM"],
        "ForwardContingency": found["basis"],
        "PortfolioMTM": found["mark_to_market"] + case["account"]["cash"],
        "OptionMTM": found["options_value"],
        "CollateralMTM": found["coins_value"],
        "MMPerpCont": -parts["perpetual"],
        "IMPerpCont": -parts["perpetual_initial"],
        "MMOptionCont": -parts["options"],
        "IMOptionCont": -parts["options_initial"],
        "MMBaseCont": -parts["coins"],
        "IMBaseCont": -parts["coins_initial"],
        "OracleCont": -parts["confidence"],
    }
    assert {key: value for key, value in printed.items() if not is_close(value, result[key])} == {}


def as_printed(found: Dict, expected: Dict, cash: float) -> None:
    """IM and MM of a case, whose `_trunc` fields are integer parts."""
    value = found["mark_to_market"] + cash
    printed = {**found, "mtm": value, "mtm_incl_cash": value}
    for key, amount in expected.items():
        if key.endswith("_trunc"):
            assert math.trunc(printed[key.removesuffix("_trunc")]) == amount, key
        else:
            assert is_close(printed[key], amount), key


@each("derive_pm1")
def test_pm1_oracle(name: str) -> None:
    case = cases("derive_pm1")[name]
    found = crypto_oracle_older.pm1(case["figures"], case["market"], case["account"])
    as_printed(found, case["expected"], case["account"]["cash"])


@each("derive_standard")
def test_standard_oracle(name: str) -> None:
    case = cases("derive_standard")[name]
    shared, stable, cash = case["figures"], case["stable"], case["cash"]
    found = crypto_oracle_older.standard(case["markets"], shared, stable, cash)
    as_printed(found, case["expected"], cash)


@each("deribit_pm")
def test_deribit_oracle(name: str) -> None:
    case = cases("deribit_pm")[name]
    found = crypto_oracle_deribit.deribit(
        case["figures"], case["market"], case["account"], inverse=True
    )
    # A perpetual or future gains the same whatever volatility does.
    found["aggregated_standard"] = found["aggregated_standard"][::3]
    for key in set(found) & set(case["expected"]):
        printed = case["expected"][key]
        amounts = printed if isinstance(printed, list) else [printed]
        ours = found[key] if isinstance(printed, list) else [found[key]]
        assert len(ours) == len(amounts)
        assert all(abs(one - two) <= 1e-9 for one, two in zip(ours, amounts, strict=True)), key
