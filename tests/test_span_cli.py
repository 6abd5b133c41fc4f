"""The commands `gpu-margin span ...`: what they show, write and refuse, the README's."""

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
from gpu_margin import cli, demo_span
from gpu_margin.commands import Exit
from gpu_margin.span_figures import COLUMNS

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
FILE = "gpu-margin-demo/span.pa2"
FILES = [
    *(FILE, "--positions", "gpu-margin-demo/span_positions.csv"),
    *("--accounts", "gpu-margin-demo/span_accounts.csv"),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the demo leaves, where the README says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("gpu-margin-demo").mkdir()
    for name, text in demo_span.files().items():
        Path("gpu-margin-demo", name).write_text(text)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["span", *arguments])


def told(*arguments: str) -> Any:
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def margined(**options: Any) -> gpu_margin.SpanRun:
    return gpu_margin.span(FILE, FILES[2], FILES[4], **options)


# ---------------------------------------------------------------- contracts


def test_contracts_line_up_and_are_written() -> None:
    done = invoke("contracts", FILE, "--product", "LCR", "--out", "c.csv")
    assert done.exit_code == 0, done.output
    shown = lines(done.stdout)
    assert shown[0] == "Contracts, DMO 20261120"
    assert "10 more; --out or --json has all" in shown
    table = [line for line in done.stdout.splitlines() if "DMO:LCR" in line or "─" in line]
    assert len(table) == 21 and len({len(line) for line in table}) == 1
    written = pl.read_csv("c.csv", schema_overrides={"future_month": str, "option_month": str})
    assert written.columns == [
        *("contract_id", "exchange", "combined_commodity", "product", "type", "future_month"),
        *("option_month", "right", "strike", "price", "multiplier", "delta"),
        *("scan_long", "scan_short"),
    ]
    assert len(written) == 30 and Path("c.failures.csv").exists()
    assert invoke("contracts", FILE, "--out", "c.parquet", "--quiet").stdout == ""
    assert len(pl.read_parquet("c.parquet")) == 84
    assert len(told("contracts", FILE)["contracts"]) == 84


def test_wrong_lines_of_the_file_are_told() -> None:
    text = demo_span.pa2()
    Path(FILE).write_text(text.replace("6 ALL00040550000", "6 ALL0004x550000"))
    done = invoke("contracts", FILE)
    assert done.exit_code == 0 and "Failed rows: 3" in done.stdout
    # The line, and the two combined commodities that it is about.
    assert "malformed spread credit rate" in done.stdout
    assert told("contracts", FILE)["failures"][0]["row"] == len(text.splitlines())


# ---------------------------------------------------------------- margin


def test_margins_by_requirement() -> None:
    done = invoke("margin", *FILES, "--currency", "USD")
    assert done.exit_code == 0, done.output
    shown = lines(done.stdout)
    assert shown[0] == "SPAN maintenance margin, DMO 20261120"
    assert [line.split()[0] for line in shown[3:]] == [
        *("omnibus", "power-desk", "refiner", "strangle-seller", "calendar-trader", "collar")
    ]
    assert len({len(line) for line in done.stdout.splitlines()[1:-1] if line.strip()}) == 1


def test_json_is_the_call() -> None:
    found, run = told("margin", *FILES), margined()
    assert found["margins"] == run.margins.to_dicts() and found["failures"] == []
    assert found["totals"] == run.totals.to_dicts()
    assert found["level"] == "maintenance" and "formed" not in found
    found, run = told("margin", *FILES, "--initial"), margined(level="initial")
    assert found["totals"] == run.totals.to_dicts() and found["level"] == "initial"


def test_one_account_has_its_commodities_spreads_and_positions() -> None:
    done = invoke("margin", *FILES, "--account", "refiner", "--formed", "--standalone")
    assert done.exit_code == 0, done.output
    for words in (
        "By combined commodity",
        "A 3 CRUDE / B 2 PETROL",
        "Position by position",
        "4.00",
    ):
        assert words in done.stdout
    assert "collar" not in done.stdout
    found = told("margin", *FILES, "--account", "refiner", "--formed", "--standalone")
    assert {row["account_id"] for name in ("margins", "formed") for row in found[name]} == {
        "refiner"
    }
    assert len(found["positions"]) == 3 and found["alone"][0]["times"] == 4.0


def test_tables_are_written_and_not_overwritten() -> None:
    done = invoke("margin", *FILES, "--out", "m.csv", "--standalone", "--formed")
    assert done.exit_code == 0, done.output
    run = margined(standalone=True, formed=True)
    assert_frame_equal(pl.read_csv("m.csv"), run.margins)
    assert tuple(pl.read_csv("m.csv").columns) == COLUMNS
    for name in ("totals", "formed", "positions", "alone", "failures"):
        assert f"written: m.{name}.csv" in done.stdout
    assert_frame_equal(pl.read_csv("m.totals.csv"), run.totals)
    again = invoke("margin", *FILES, "--out", "m.csv")
    assert again.exit_code == Exit.BAD_USAGE and "--overwrite" in again.stderr
    assert invoke("margin", *FILES, "--out", "m.csv", "--overwrite").exit_code == 0
    parquet = invoke("margin", *FILES, "--out", "m.parquet", "--quiet")
    assert parquet.exit_code == 0 and parquet.stdout == ""
    assert_frame_equal(pl.read_parquet("m.parquet"), run.margins)
    assert not Path("m.formed.parquet").exists()


def test_accounts_may_be_told_on_the_command_line() -> None:
    told_so = told("margin", *FILES[:3], "--account-type", "speculator", "--gross", "--initial")
    run = gpu_margin.span(FILE, FILES[2], level="initial", account_type="speculator", gross=True)
    assert told_so["totals"] == run.totals.to_dicts()
    assert told_so["totals"] != told("margin", *FILES, "--initial")["totals"]


def test_failures_count_only_when_strict() -> None:
    with Path(FILES[2]).open("a") as stream:
        stream.write("refiner,DMO:GX:FUT:202702,1\n")
    for command in (("margin",), ("whatif", "--add", "DMO:GO:FUT:202702=1")):
        done = invoke(*command, *FILES)
        assert done.exit_code == Exit.DONE, done.output
        assert (
            "Failed rows: 1" in done.stdout and "did you mean 'DMO:GO:FUT:202702'?" in done.stdout
        )
        assert invoke(*command, *FILES, "--strict").exit_code == Exit.FAILED_ROWS
    assert "incomplete" in invoke("margin", *FILES).stdout


def test_nothing_computed_is_exit_code_3() -> None:
    Path("p.csv").write_text("account_id,contract_id,quantity\na,ES,1\n")
    done = invoke("margin", FILE, "--positions", "p.csv")
    assert done.exit_code == Exit.NOTHING_COMPUTED, done.output
    assert "nothing computed" in done.stderr and "unknown contract" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--account-type", "broker"], "account_type"),
        (["--currency", "CHF"], "no rate into 'CHF'"),
        (["--account", "nobody"], "there is no such account"),
        (["--account-class", "reserve"], "a PA2 file is of one class"),
        (["--own-rates"], "which has one set of rates"),
        (["--out", "x.txt"], "ends in .parquet or .csv"),
        (["--backend", "abacus"], "unknown backend"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], message: str) -> None:
    done = invoke("margin", *FILES, *arguments)
    assert done.exit_code == Exit.BAD_USAGE, done.output
    assert message in done.stderr and "Traceback" not in done.output


def test_files_that_are_not_there_or_something_else_are_told() -> None:
    done = invoke("margin", "none.pa2", *FILES[1:])
    assert done.exit_code == Exit.BAD_USAGE and "none.pa2" in done.stderr
    done = invoke("margin", FILES[2], *FILES[1:])
    assert done.exit_code == Exit.BAD_USAGE and "no SPAN risk parameter file" in done.stderr


# ---------------------------------------------------------------- SPAN XML of several rates


def test_xml_is_read_as_well_and_agrees_with_pa2(tmp_path: Path) -> None:
    """One random exchange in both formats: the same table to the last figure."""
    from span_random import model
    from span_random_pa2 import as_pa2
    from span_random_xml import as_xml

    drawn = model(20)
    Path("x.pa2").write_text(as_pa2(drawn))
    Path("x.spn").write_text(as_xml(drawn))
    first = told("contracts", "x.pa2")["contracts"]
    names = [row["contract_id"] for row in first if row["type"] != "CMB"]
    rows = [f"a{n % 7},{name},{n % 5 - 2}\n" for n, name in enumerate(names)]
    Path("x.csv").write_text("account_id,contract_id,quantity\n" + "".join(rows))
    pa2, spn = (told("margin", name, "--positions", "x.csv") for name in ("x.pa2", "x.spn"))
    assert pa2["totals"] == spn["totals"]
    again = told("margin", "x.spn", "--positions", "x.csv", "--own-rates")
    assert again["totals"] == spn["totals"]
    Path("a.csv").write_text("account_id,account_type\na1,member\n")
    files = ("x.spn", "--positions", "x.csv", "--accounts", "a.csv")
    mixed = invoke("margin", *files, "--own-rates")
    assert mixed.exit_code == Exit.BAD_USAGE and "not all of account type hedger" in mixed.stderr


# ---------------------------------------------------------------- what-if


def test_changes_of_the_command_line() -> None:
    found = told(
        *("whatif", *FILES, "--account", "collar", "--remove", "DMO:LCR:OOF:202704:202704:P:65"),
        *("--add", "DMO:LCR:OOF:202704:202704:P:60=25"),
    )
    (row,) = found["whatifs"]
    assert row["account_id"] == "collar" and row["after"] > row["before"]
    (alone,) = told("whatif", *FILES, "--add", "DMO:CR:FUT:202702=-2")["whatifs"]
    assert alone["before"] is None and alone["after"] == 10_000.0


def test_changes_of_a_file() -> None:
    changes = ("--changes", "gpu-margin-demo/span_changes.csv")
    done = invoke("whatif", *FILES, *changes, "--out", "w.csv")
    assert done.exit_code == 0, done.output
    table = pl.read_csv("w.csv")
    assert table.columns == [
        *("whatif_id", "account_id", "currency", "before", "after", "change", "complete")
    ]
    assert table["whatif_id"].to_list() == ["buy wings", "no gasoil", "a crack by itself"]
    assert Path("w.failures.csv").exists() and "What if, SPAN maintenance" in done.stdout
    assert told("whatif", *FILES, *changes, "--initial")["level"] == "initial"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --changes FILE, or --add or --remove"),
        (["--add", "X=1", "--changes", "x.csv"], "but not both"),
        (["--changes", "x.csv"], "x.csv"),
        (["--add", "X"], "write CONTRACT=QTY"),
        (["--add", "X=much"], "write CONTRACT=QTY"),
        (["--add", "=1"], "write CONTRACT=QTY"),
        (["--remove", "X"], "name the account"),
    ],
)
def test_wrong_changes_are_exit_code_2(arguments: list[str], message: str) -> None:
    done = invoke("whatif", *FILES, *arguments)
    assert done.exit_code == Exit.BAD_USAGE and message in done.stderr


def test_an_unknown_contract_of_a_whatif_is_exit_code_3() -> None:
    done = invoke("whatif", *FILES, "--account", "collar", "--add", "DMO:CR:FUT:20270=1")
    assert done.exit_code == Exit.NOTHING_COMPUTED
    assert "did you mean 'DMO:CR:FUT:20270" in done.stdout and "failed" in done.stdout


# ---------------------------------------------------------------- help, README


def test_help_says_what_is_written() -> None:
    for command in ("contracts", "margin", "whatif"):
        done = invoke(command, "--help")
        assert done.exit_code == 0 and "FILE.failures.csv" in done.output


def section() -> str:
    found = re.search(r"^## SPAN\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_readme_shows_what_the_commands_print() -> None:
    blocks = re.findall(r"```console\n(.*?)```", section(), re.DOTALL)
    examples = re.findall(r"^\$ gpu-margin span (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.M)
    assert len(examples) >= 5 and sum(bool(output) for _, output in examples) >= 3
    for arguments, output in examples:
        done = invoke(*arguments.split())
        assert done.exit_code == 0, done.output
        if output:
            assert lines(done.stdout) == lines(output)


def test_the_readme_python_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", section(), re.DOTALL)[0]
    exec(compile(code, "README", "exec"), {})
    assert capsys.readouterr().out.count("shape: (") == 4
