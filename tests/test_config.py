"""The configuration: what is wrong is said with its place, and before anything is computed."""

from __future__ import annotations

from copy import deepcopy
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import small_case
from small_case import CASE, DAYS, VALUATION, covariance, frames, simulation, toml, write_case
from typer.testing import CliRunner

import gpu_margin
from gpu_margin.cli import app
from gpu_margin.config import load_config, load_models

GONE = object()  # in place of a value: the key is taken away
NAN, INF = float("nan"), float("inf")
CONFIG = CASE.config | {"inputs": {"positions": "positions.csv"}}
EWMA = {"kind": "ewma", "decay": 0.97}
COUNTS = (0, -1, 1.0, 20.5, True, "20", NAN, None)
SHARES = (0, 1, 1.5, -0.1, NAN, INF, True, "0.99", None)


def changed(place: str, value: Any) -> dict[str, Any]:
    """The valid configuration with another value in one place ("models.es.measure.tail")."""
    config = deepcopy(CONFIG)
    table = config
    *folders, key = place.split(".")
    for folder in folders:
        table = table[folder]
    if value is GONE:
        del table[key]
    else:
        table[key] = value
    return config


def complaint(config: Any) -> str:
    with pytest.raises(gpu_margin.ConfigError) as caught:
        load_config(config)
    return str(caught.value)


def parameters(config: Any) -> dict[str, Any]:
    """The models' parameters with their defaults, by name."""
    return {model.name: model.parameters for model in load_models(load_config(config))}


def test_the_configuration_that_the_tests_change_is_valid() -> None:
    config = load_config(CONFIG)
    assert config.valuation_date == VALUATION
    assert [model.name for model in load_models(config)] == ["cov", "es"]


# ---------------------------------------------------------------- unknown and missing keys


@pytest.mark.parametrize(
    ("place", "nearest"),
    [
        ("input", "inputs"),
        ("modles", "models"),
        ("valuation_dat", "valuation_date"),
        ("curency", "currency"),
        ("inputs.position", "positions"),
        ("inputs.instrument", "instruments"),
        ("models.cov.lookbak", "lookback"),
        ("models.cov.confidnce", "confidence"),
        ("models.cov.horizon_day", "horizon_days"),
        ("models.cov.estimater", "estimator"),
        ("models.es.scenarois", "scenarios"),
        ("models.es.horizn", "horizon"),
        ("models.es.scenarios.lookbak", "lookback"),
        ("models.es.measure.confidnce", "confidence"),
        ("models.es.measure.tial", "tail"),
    ],
)
def test_unknown_key_names_the_nearest_known_one(place: str, nearest: str) -> None:
    message = complaint(changed(place, {}))
    *folders, key = place.split(".")
    assert f"unknown key '{key}'" in message
    assert f"did you mean '{nearest}'?" in message
    assert ".".join(folders) in message


def test_unknown_key_of_an_estimator() -> None:
    message = complaint(changed("models.cov.estimator", {"kind": "ewma", "decya": 0.97}))
    assert "models.cov.estimator" in message
    assert "unknown key 'decya'; did you mean 'decay'?" in message
    assert "unknown key 'decay'" in complaint(changed("models.cov.estimator.decay", 0.97))


def test_all_unknown_keys_of_a_table_are_named() -> None:
    config = changed("inputs.fxx", "a.csv")
    config["inputs"]["histroy"] = "b.csv"
    message = complaint(config)
    assert "did you mean 'fx'?" in message
    assert "did you mean 'history'?" in message


@pytest.mark.parametrize(
    "place",
    [
        *("valuation_date", "currency", "models"),
        *("models.cov.confidence", "models.cov.estimator", "models.cov.lookback"),
        *("models.cov.estimator.kind", "models.es.measure.kind", "models.es.scenarios.kind"),
        *("models.es.scenarios", "models.es.measure"),
        *("models.es.scenarios.lookback", "models.es.measure.confidence"),
    ],
)
def test_missing_key_is_named(place: str) -> None:
    *folders, key = place.split(".")
    message = complaint(changed(place, GONE))
    assert key in message
    assert ".".join(folders) in message


def test_missing_decay_is_named() -> None:
    assert "decay" in complaint(changed("models.cov.estimator", {"kind": "ewma"}))


def test_all_missing_keys_are_named() -> None:
    message = complaint({})
    assert all(key in message for key in ("valuation_date", "currency", "models"))


@pytest.mark.parametrize("value", ["covarianc", "", 5, True, ["covariance"], "__init__", GONE])
def test_unknown_or_missing_kind_lists_the_kinds(value: Any) -> None:
    message = complaint(changed("models.cov.kind", value))
    assert "models.cov" in message
    assert all(name in message for name in ("covariance", "derive_pm2", "simm", "simulation"))


@pytest.mark.parametrize(
    ("place", "known"),
    [
        ("models.cov.estimator.kind", ("sample", "ewma", "ledoit_wolf")),
        ("models.es.measure.kind", ("var", "es", "worst")),
        ("models.es.scenarios.kind", ("historical",)),
        ("models.es.measure.tail", ("discrete", "fractional")),
        ("models.es.horizon", ("overlapping", "sqrt_time")),
        ("models.es.precision", ("float64", "mixed", "float32")),
        ("models.es.repricing", ("host", "device")),
    ],
)
@pytest.mark.parametrize("value", ["other", "Historical", 5, ""])
def test_wrong_choice_lists_the_choices(place: str, known: tuple[str, ...], value: Any) -> None:
    message = complaint(changed(place, value))
    assert place.rsplit(".", 1)[0] in message
    assert all(repr(choice) in message for choice in known)


# ---------------------------------------------------------------- wrong values

WRONG: list[tuple[str, tuple[Any, ...]]] = [
    ("models.cov.lookback", COUNTS),
    ("models.cov.horizon_days", COUNTS),
    ("models.es.horizon_days", COUNTS),
    ("models.es.scenarios.lookback", COUNTS),
    ("models.cov.confidence", SHARES),
    ("models.es.measure.confidence", SHARES),
    ("currency", ("", 5, True, None, ["USD"])),
    ("valuation_date", (0, 86400, 20240301, 1.5, NAN, True, None, [], "", "soon", "1.3.2024")),
    ("valuation_date", ("2024-02-30", "20240301", "1545955200", datetime(2024, 3, 1, 17))),
    ("models", ({}, [], "covariance", 5)),
    ("models.cov", (5, "covariance", [covariance()])),
    ("inputs", ("positions.csv", 5, ["positions.csv"])),
    ("inputs.positions", (5, True, {}, ["positions.csv"])),
    ("models.cov.estimator", ("sample", 5, [], True)),
    ("models.es.measure", ("es", 5, [], True)),
    ("models.es.scenarios", ("historical", 5, [], True)),
]


@pytest.mark.parametrize(
    ("place", "value"), [(place, value) for place, values in WRONG for value in values]
)
def test_wrong_value_is_an_error_at_its_place(place: str, value: Any) -> None:
    assert place.rsplit(".", 1)[-1] in complaint(changed(place, value))


@pytest.mark.parametrize("decay", [0, 1, 1.5, -0.1, NAN, True, "0.97", None])
def test_wrong_decay(decay: Any) -> None:
    assert "decay" in complaint(changed("models.cov.estimator", EWMA | {"decay": decay}))


@pytest.mark.parametrize(
    ("measure", "culprit"),
    [
        ({"kind": "es", "confidence": 0.975, "tail": "hazen"}, "tail"),
        ({"kind": "worst", "confidence": 0.99}, "confidence"),
        ({"kind": "worst", "tail": "discrete"}, "tail"),
    ],
)
def test_measures_that_cannot_be(measure: dict[str, Any], culprit: str) -> None:
    message = complaint(changed("models.es.measure", measure))
    assert "models.es.measure" in message
    assert culprit in message


@pytest.mark.parametrize(
    "measure",
    [
        {"kind": "worst"},
        {"kind": "var", "confidence": 0.99, "tail": "hazen"},
        {"kind": "var", "confidence": 0.99, "tail": "fractional"},
        {"kind": "es", "confidence": 0.4},
        {"kind": "es", "confidence": 0.975, "tail": "fractional"},
    ],
    ids=str,
)
def test_measures_that_can_be(measure: dict[str, Any]) -> None:
    run = small_case.run(CASE.with_models(es=simulation(measure=measure)))
    assert run.margins["requirement"].null_count() == 0


# ---------------------------------------------------------------- defaults, dates, order


def test_defaults() -> None:
    models = parameters(CONFIG)
    assert models["cov"].horizon_days == models["es"].horizon_days == 1
    assert models["es"].horizon == "overlapping"
    assert (models["es"].precision, models["es"].repricing) == ("float64", "host")
    for kind in ("var", "es"):
        measure = {"kind": kind, "confidence": 0.9}
        assert parameters(changed("models.es.measure", measure))["es"].measure.tail == "discrete"


def test_defaults_compute_as_if_they_were_said() -> None:
    said = simulation(horizon_days=1, horizon="overlapping", precision="float64", repricing="host")
    said["measure"] = {**said["measure"], "tail": "discrete"}
    case = CASE.with_models(cov=covariance(horizon_days=1), es=said)
    assert small_case.run(case).margins.rows() == small_case.run(CASE).margins.rows()


@pytest.mark.parametrize("written", [VALUATION.isoformat(), f'"{VALUATION}"'])
def test_valuation_date_in_toml_as_date_or_text(written: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    rest = toml({key: value for key, value in CONFIG.items() if key != "valuation_date"})
    path.write_text(f"valuation_date = {written}\n{rest}", encoding="utf-8")
    assert load_config(path).valuation_date == date(2024, 3, 1)


def test_models_stand_side_by_side_in_the_order_given(tmp_path: Path) -> None:
    names = ["zulu", "alpha", "mike"]
    models = {"zulu": simulation(), "alpha": covariance(), "mike": simulation(horizon_days=2)}
    case = CASE.with_models(**models)
    run = gpu_margin.run(write_case(case, tmp_path), backend="numpy")
    for table in (run.margins, run.components):
        by_account = table.group_by("account_id", maintain_order=True).agg("model")
        assert by_account["model"].to_list() == [names] * 5
    assert run.margins["account_id"].unique(maintain_order=True).to_list() == list("ABCDE")
    assert [row["model"] for row in run.manifest["totals"]] == names
    alone = small_case.run(CASE.with_models(alpha=covariance()))
    assert run.margins.filter(pl.col("model") == "alpha").rows() == alone.margins.rows()


# ---------------------------------------------------------------- files


def test_relative_paths_count_from_the_toml_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(CASE, tmp_path / "data", "csv")
    folder, elsewhere = tmp_path / "configs", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    inputs = {name: f"../data/{name}.csv" for name in small_case.TABLES}
    inputs["fx"] = str(tmp_path / "data" / "fx.csv")
    path = folder / "nightly.toml"
    path.write_text(toml(CASE.config | {"inputs": inputs}), encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    expected = small_case.run(CASE).margins.rows()
    for source in (path, str(path), Path("../configs/nightly.toml")):
        run = gpu_margin.run(source, backend="numpy")
        assert run.margins.rows() == expected
        paths = {name: Path(given["path"]) for name, given in run.manifest["inputs"].items()}
        assert paths == {name: tmp_path / "data" / f"{name}.csv" for name in small_case.TABLES}


def test_frames_replace_the_files_of_the_configuration(tmp_path: Path) -> None:
    path = write_case(CASE, tmp_path)
    (tmp_path / "positions.parquet").unlink()
    run = gpu_margin.run(path, backend="numpy", positions=frames(CASE)["positions"])
    assert run.margins.rows() == small_case.run(CASE).margins.rows()
    with pytest.raises(gpu_margin.ConfigError, match="unknown input 'position'"):
        gpu_margin.run(path, backend="numpy", position=frames(CASE)["positions"])


@pytest.mark.parametrize("table", ["positions", "instruments", "history"])
def test_a_table_that_is_not_named_is_an_error(table: str) -> None:
    tables: dict[str, Any] = frames(CASE)
    del tables[table]
    config = {key: value for key, value in CONFIG.items() if key != "inputs"}
    with pytest.raises(gpu_margin.ConfigError, match=f"inputs.{table}"):
        gpu_margin.run(config, backend="numpy", **tables)


def test_something_that_is_no_table_is_an_error() -> None:
    tables: dict[str, Any] = {**frames(CASE), "positions": [1, 2, 3]}
    with pytest.raises(gpu_margin.ConfigError, match="positions: list"):
        gpu_margin.run(CONFIG, backend="numpy", **tables)


@pytest.mark.parametrize("line", ["currency = USD", 'currency = "USD', "[models.x", "a = 1\na = 2"])
def test_invalid_toml_names_the_file_and_the_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "nightly.toml"
    path.write_text(f"valuation_date = 2024-03-01\n\n{line}\n", encoding="utf-8")
    message = complaint(path)
    assert str(path) in message
    assert f"line {3 + line.count(chr(10))}" in message


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'currency = "\xa3"\n')
    for path in (latin, tmp_path / "absent.toml", tmp_path):
        assert str(path) in complaint(path)


def test_wrong_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "nightly.toml"
    path.write_text(toml(CONFIG | {"curency": "USD"}), encoding="utf-8")
    assert str(path) in complaint(path)


# ---------------------------------------------------------------- the data must serve the models


@pytest.mark.parametrize(
    ("model", "lookback", "step", "available"),
    [
        (covariance(DAYS), DAYS, 1, DAYS - 1),
        (covariance(DAYS, horizon_days=5), DAYS, 1, DAYS - 1),
        (simulation(DAYS), DAYS, 1, DAYS - 1),
        (simulation(DAYS - 4, horizon_days=5), DAYS - 4, 5, DAYS - 5),
        (simulation(5, horizon_days=DAYS), 5, DAYS, 0),
        (simulation(DAYS, horizon_days=5, horizon="sqrt_time"), DAYS, 1, DAYS - 1),
    ],
)
def test_too_short_a_history_says_how_many_returns_there_are(
    model: dict[str, Any], lookback: int, step: int, available: int
) -> None:
    with pytest.raises(gpu_margin.ConfigError) as caught:
        small_case.run(CASE.with_models(first=covariance(), night=model))
    message = str(caught.value)
    assert message.startswith("models.night:")
    assert f"asks for {lookback} returns over {step} day" in message
    assert f"only {available}:" in message


@pytest.mark.parametrize(
    "model",
    [
        covariance(DAYS - 1),
        covariance(DAYS - 1, horizon_days=5),
        simulation(DAYS - 1),
        simulation(DAYS - 5, horizon_days=5),
        simulation(1, horizon_days=DAYS - 1),
        simulation(DAYS - 1, horizon_days=5, horizon="sqrt_time"),
    ],
)
def test_a_history_that_is_just_long_enough(model: dict[str, Any]) -> None:
    run = small_case.run(CASE.with_models(night=model))
    assert run.margins["requirement"].null_count() == 0


def test_a_removed_date_can_make_the_history_too_short() -> None:
    case = CASE.with_models(cov=covariance(DAYS - 1)).changed("history", 40, price=-1.0)
    with pytest.raises(
        gpu_margin.ConfigError, match=f"only {DAYS - 2}: the history has {DAYS - 1}"
    ):
        small_case.run(case)


# ---------------------------------------------------------------- the command line


def broken(folder: Path, fault: str) -> Path:
    """A configuration with one fault."""
    path = write_case(CASE, folder)
    text = path.read_text(encoding="utf-8")
    if fault == "absent input":
        (folder / "history.parquet").unlink()
    elif fault == "short history":
        text = text.replace("lookback = 20", "lookback = 200")
    elif fault == "unknown key":
        text = f"curency = 'EUR'\n{text}"
    elif fault == "no TOML":
        text = "valuation_date: 2024-03-01"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("fault", ["absent input", "short history", "unknown key", "no TOML"])
def test_config_error_exits_2_before_any_output(fault: str, tmp_path: Path) -> None:
    path, out = broken(tmp_path / "in", fault), tmp_path / "new" / "out"
    result = CliRunner().invoke(app, ["run", str(path), "--out", str(out), "--quiet"])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert not out.parent.exists()
    assert CliRunner().invoke(app, ["validate", str(path)]).exit_code == 2


def test_config_error_leaves_older_results_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text("older", encoding="utf-8")
    path = broken(tmp_path / "in", "short history")
    result = CliRunner().invoke(app, ["run", str(path), "--out", str(out), "--overwrite"])
    assert result.exit_code == 2
    assert [file.read_text(encoding="utf-8") for file in out.iterdir()] == ["older"]


def test_unknown_backend_lists_the_backends(tmp_path: Path) -> None:
    with pytest.raises(gpu_margin.ConfigError, match=r"unknown backend 'cuda'.*auto.*cupy.*numpy"):
        small_case.run(CASE, backend="cuda")
    path, out = write_case(CASE, tmp_path), tmp_path / "out"
    result = CliRunner().invoke(app, ["run", str(path), "--out", str(out), "--backend", "cuda"])
    assert result.exit_code == 2
    assert "numpy" in result.stderr
    assert not out.exists()
