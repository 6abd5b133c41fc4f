"""The commands `gpu-margin crypto ...`: what they show, write and refuse, the README's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import gpu_margin
from gpu_margin import cli, demo_crypto
from gpu_margin.commands import Exit

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
FILES = [
    "gpu-margin-demo/crypto_feeds.json",
    *("--positions", "gpu-margin-demo/crypto_positions.csv"),
    *("--balances", "gpu-margin-demo/crypto_balances.csv"),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the demo leaves, where the README says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("gpu-margin-demo").mkdir()
    for name, text in demo_crypto.files().items():
        Path("gpu-margin-demo", name).write_text(text)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["crypto", *arguments])


def told(*arguments: str) -> Any:
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


# ---------------------------------------------------------------- margin


def test_margins_nearest_to_liquidation_first() -> None:
    done = invoke("margin", *FILES)
    assert done.exit_code == 0, done.output
    shown = lines(done.stdout)
    assert shown[0] == "Margin, derive_pm2, USD, 2026-01-21 00:00:00 UTC"
    assert [line.split()[0] for line in shown[3:]] == [
        *("put-buyer", "straddle-seller", "straddle-seller", "overwriter")
    ]
    assert len({len(line) for line in done.stdout.splitlines() if "─" in line}) == 1


def test_json_is_the_call() -> None:
    found = told("margin", *FILES)
    run = gpu_margin.crypto("derive_pm2", FILES[0], FILES[2], FILES[4])
    assert found["margins"] == run.margins.to_dicts()
    assert found["rulebook"] == "derive_pm2" and found["failures"] == []
    assert "components" not in found and "scenarios" not in found


def test_one_account_has_components_and_on_request_scenarios() -> None:
    done = invoke("margin", *FILES, "--account", "put-buyer", "--scenarios")
    assert done.exit_code == 0
    assert "scenario_loss" in done.stdout and "spot x0.865 vol down" in done.stdout
    assert "overwriter" not in done.stdout
    found = told("margin", *FILES, "--account", "put-buyer", "--scenarios")
    assert {row["account_id"] for row in found["components"]} == {"put-buyer"}
    assert len(found["scenarios"]) >= 33


def test_tables_are_written_and_not_overwritten() -> None:
    done = invoke("margin", *FILES, "--out", "m.csv", "--scenarios")
    assert done.exit_code == 0, done.output
    run = gpu_margin.crypto("derive_pm2", FILES[0], FILES[2], FILES[4])
    assert_frame_equal(pl.read_csv("m.csv"), run.margins)
    for name in ("components", "figures", "scenarios", "failures"):
        assert f"written: m.{name}.csv" in done.stdout and Path(f"m.{name}.csv").exists()
    again = invoke("margin", *FILES, "--out", "m.csv")
    assert again.exit_code == Exit.BAD_USAGE and "--overwrite" in again.stderr
    assert invoke("margin", *FILES, "--out", "m.csv", "--overwrite").exit_code == 0
    parquet = invoke("margin", *FILES, "--out", "m.parquet", "--quiet")
    assert parquet.exit_code == 0 and parquet.stdout == ""
    assert_frame_equal(pl.read_parquet("m.parquet"), run.margins)


def test_single_numbers_are_set() -> None:
    plain = {row["netting_set"]: row for row in told("margin", *FILES)["margins"]}
    found = told(
        *("margin", *FILES, "--set", "BTC.im_factor=2", "--set", "figures.ETH.option_mm=0"),
        *("--set", "table=mainnet"),
    )
    assert found["settings"]["figures"] == {"BTC": {"im_factor": 2}, "ETH": {"option_mm": 0}}
    assert found["settings"]["table"] == "mainnet"
    dearer = {row["netting_set"]: row for row in found["margins"] if row["level"] == "maintenance"}
    assert dearer["btc"]["requirement"] == plain["btc"]["requirement"]
    assert dearer["eth"]["requirement"] < plain["eth"]["requirement"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rulebook", "derive_pm9"], "did you mean 'derive_pm"),
        (["--table", "x"], "unknown version 'x'"),
        (["--set", "BTC.im_factor"], "write KEY=VALUE"),
        (["--set", ".x=1"], "write KEY=VALUE"),
        (["--set", "BTC.im_factr=1"], "did you mean 'im_factor'"),
        (["--set", "BTC=1", "--set", "BTC.im_factor=1"], "has a value already"),
        (["--account", "nobody"], "there is no such account"),
        (["--out", "x.txt"], "ends in .parquet or .csv"),
        (["--backend", "abacus"], "unknown backend"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], message: str) -> None:
    done = invoke("margin", *FILES, *arguments)
    assert done.exit_code == Exit.BAD_USAGE
    assert message in done.stderr and "Traceback" not in done.output


def test_a_missing_file_is_told() -> None:
    done = invoke("margin", "none.json", *FILES[1:])
    assert done.exit_code == Exit.BAD_USAGE and "none.json" in done.stderr


def test_failures_count_only_when_strict() -> None:
    with Path(FILES[2]).open("a") as stream:
        stream.write("overwriter,eth,ETH-PERPETUAL,1\n")
    for command in (("margin",), ("liquidation",), ("whatif", "--trade", "BTC-PERP=1")):
        done = invoke(*command, *FILES)
        assert done.exit_code == Exit.DONE, done.output
        assert "Failed rows: 1" in done.stdout and "ETH-PERPETUAL" in done.stdout
        assert invoke(*command, *FILES, "--strict").exit_code == Exit.FAILED_ROWS


def test_nothing_computed_is_exit_code_3() -> None:
    Path("p.csv").write_text("account_id,instrument_id,quantity\na,BTX,1\n")
    for command in ("margin", "liquidation"):
        done = invoke(command, FILES[0], "--positions", "p.csv")
        assert done.exit_code == Exit.NOTHING_COMPUTED, done.output
        assert "nothing computed" in done.stderr and "BTX" in done.stdout
    done = invoke("whatif", *FILES, "--trade", "BTX=1")
    assert done.exit_code == Exit.NOTHING_COMPUTED and "unknown instrument" in done.stdout


# ---------------------------------------------------------------- what-if


def test_a_trade_of_the_command_line() -> None:
    trade = ["--account", "put-buyer", "--trade", "BTC-PERP=-1@89500", "--cash", "100"]
    found = told("whatif", *FILES, *trade)
    plain = told("whatif", *FILES, *trade[:2], "--trade", "BTC-PERP=-1")
    assert [row["whatif_id"] for row in found["whatifs"]] == ["trades"] * 2
    mark = next(
        i["price"] for i in demo_crypto.feeds()["instruments"] if i["instrument_id"] == "BTC-PERP"
    )
    for paid, free in zip(found["whatifs"], plain["whatifs"], strict=True):
        assert paid["after"] == free["after"]
        assert paid["margin_value"] == pytest.approx(free["margin_value"] - mark + 89_500 + 100)


def test_a_trade_of_nobody_is_a_portfolio_by_itself() -> None:
    found = told("whatif", *FILES, "--trade", "ETH-20260327-3600-C=-30", "--currency", "ETH")
    assert all(row["before"] is None and row["after"] > 0 for row in found["whatifs"])
    only = told(
        *("whatif", *FILES, "--trade", "ETH-20260327-3600-C=-30"),
        *("--account", "overwriter", "--only"),
    )
    assert all(row["before"] is not None for row in only["whatifs"])


def test_whatifs_of_a_file() -> None:
    done = invoke(
        "whatif", *FILES, "--requests", "gpu-margin-demo/crypto_whatifs.json", "--out", "w.csv"
    )
    assert done.exit_code == 0, done.output
    names = pl.read_csv("w.csv")["whatif_id"].to_list()
    assert names == [name for name in ("wings", "hedge half", "calls alone") for _ in range(2)]
    assert Path("w.failures.csv").exists()
    assert lines(done.stdout)[0].startswith("What if, derive_pm2, USD")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --requests FILE, or --trade"),
        (["--trade", "BTC=1", "--requests", "x.json"], "but not both"),
        (["--requests", "x.json"], "x.json"),
        (["--trade", "BTC"], "write INSTRUMENT=QTY"),
        (["--trade", "BTC=much"], "write INSTRUMENT=QTY"),
        (["--trade", "BTC=1@"], "write INSTRUMENT=QTY"),
        (["--trade", "BTC=1", "--trade", "BTC=2"], "each once"),
    ],
)
def test_wrong_whatifs_are_exit_code_2(arguments: list[str], message: str) -> None:
    done = invoke("whatif", *FILES, *arguments)
    assert done.exit_code == Exit.BAD_USAGE and message in done.stderr


# ---------------------------------------------------------------- liquidation


def test_liquidation_prices_are_shown_and_written() -> None:
    done = invoke("liquidation", *FILES, "--underlying", "ETH", "--out", "l.csv")
    assert done.exit_code == 0, done.output
    assert "none between 600.00 and 9,000.00" in done.stdout and "auction share" in done.stdout
    prices = pl.read_csv("l.csv")
    assert prices["underlying"].unique().to_list() == ["ETH"] and prices["side"].to_list() == [
        *("below", "above")
    ]
    for name in ("distance", "nearest", "failures"):
        assert Path(f"l.{name}.csv").exists()


def test_at_a_liquidation_price_the_margin_value_is_zero() -> None:
    """The feeds moved by hand, and margined anew: the demo's perpetuals gain as they say."""
    found = told("liquidation", *FILES, "--underlying", "ETH")
    (own,) = [row for row in found["nearest"] if row["account_id"] == "straddle-seller"]
    for price in (own["below"], own["above"]):
        factor, feeds = price / own["spot"], demo_crypto.feeds()
        moved = feeds["underlyings"]["ETH"]
        moved["spot"] *= factor
        for expiry in moved["expiries"]:
            expiry["forward"] *= factor
        for one in feeds["instruments"]:
            if one.get("underlying") == "ETH" and "price" in one:
                one["price"] *= factor
        Path("moved.json").write_text(json.dumps(feeds))
        there = told("margin", "moved.json", *FILES[1:], "--account", "straddle-seller")
        value = {
            (row["netting_set"], row["level"]): row["margin_value"] for row in there["margins"]
        }
        assert abs(value["eth", "maintenance"]) < 1e-4
        assert value["btc", "maintenance"] > 1.0


def test_one_account_has_all_its_prices() -> None:
    done = invoke("liquidation", *FILES, "--account", "straddle-seller")
    assert "All liquidation prices" in done.stdout and "overwriter" not in done.stdout
    done = invoke("liquidation", *FILES, "--underlying", "ETX")
    assert done.exit_code == Exit.BAD_USAGE and "did you mean 'ETH'" in done.stderr


# ---------------------------------------------------------------- rulebooks, help, README


def test_rulebooks_are_listed_with_their_tables() -> None:
    found = told("rulebooks")
    assert {"derive_pm1", "derive_pm2", "derive_standard", "deribit_pm", "okx_pm"} <= {
        row["rulebook"] for row in found
    }
    shown = invoke("rulebooks").stdout
    assert all(row["rulebook"] in shown and row["date"] in shown for row in found)


def test_help_has_examples_of_what_is_written() -> None:
    for command in ("margin", "whatif", "liquidation", "rulebooks"):
        done = invoke(command, "--help")
        assert done.exit_code == 0
    assert "components" in invoke("margin", "--help").output


def section() -> str:
    found = re.search(r"^## Crypto portfolio margin\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_readme_shows_what_the_commands_print() -> None:
    blocks = re.findall(r"```console\n(.*?)```", section(), re.DOTALL)
    examples = re.findall(r"^\$ gpu-margin crypto (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.M)
    assert len(examples) >= 5 and sum(bool(output) for _, output in examples) >= 3
    for arguments, output in examples:
        done = invoke(*arguments.split())
        assert done.exit_code == 0, done.output
        if output:
            assert lines(done.stdout) == lines(output)


def test_the_readme_python_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", section(), re.DOTALL)[0]
    exec(compile(code, "README", "exec"), {})
    assert capsys.readouterr().out.count("shape: (") == 5


def test_the_readme_says_what_is_not_covered() -> None:
    for words in ("correlation contingency", "MR3, MR5, MR8 and MR9", "Business Source"):
        assert words in " ".join(section().split())
