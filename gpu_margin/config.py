"""The run's one configuration: a TOML file, or the same as a dict."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from gpu_margin import models
from gpu_margin.collateral import CollateralParameters
from gpu_margin.failures import ConfigError
from gpu_margin.settings import Settings


def _a_date(value: Any) -> Any:
    """A date or its ISO text; pydantic would take numbers for seconds since 1970."""
    if isinstance(value, date):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        return value
    raise ValueError("must be a date, as 2018-12-31")


class Inputs(Settings):
    """Files of the input tables; relative paths count from the TOML file."""

    positions: Path | None = None
    instruments: Path | None = None
    history: Path | None = None
    fx: Path | None = None
    collateral: Path | None = None
    assets: Path | None = None
    accounts: Path | None = None
    agreements: Path | None = None
    marks: Path | None = None


class Config(Settings):
    """Everything a run is told. `models` maps a name to the settings of its kind.

    `gate` has the settings of the order gate (`load_gate`) and `server` those of `gpu-margin serve`
    (`server.settings`), which a run does not need.
    """

    valuation_date: Annotated[date, BeforeValidator(_a_date)]
    currency: str = Field(min_length=1)
    inputs: Inputs = Inputs()
    models: dict[str, dict[str, Any]] = Field(min_length=1)
    collateral: CollateralParameters = CollateralParameters()
    gate: dict[str, Any] | None = None
    server: dict[str, Any] | None = None


class ModelOptions(Settings):
    """Settings of `[models.<name>]` that every kind on positions has."""

    maintenance: float = Field(
        default=0.8,
        ge=0,
        le=1,
        strict=True,
        description="maintenance requirement, as a share of the initial",
    )
    allocation: bool = Field(
        default=False, strict=True, description="write each position's contribution"
    )


@dataclass(frozen=True)
class Model:
    """One `[models.<name>]`: which rulebook, with which parameters, and what every kind has.

    A rulebook on files has no use for the options.
    """

    name: str
    kind: str
    parameters: Settings
    options: ModelOptions = field(default_factory=ModelOptions)

    @property
    def on_files(self) -> bool:
        """Whether its accounts come from files of its own, not from positions."""
        return bool(models.files(self.kind))


def load_config(source: str | Path | Mapping[str, Any]) -> Config:
    """Read and check a configuration; `ConfigError` says every key that is wrong."""
    if isinstance(source, Mapping):
        return _validated(dict(source), Path.cwd(), "config")
    path = Path(source)
    try:
        with path.open("rb") as stream:
            data = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return _validated(data, path.resolve().parent, str(path))


def load_models(config: Config) -> list[Model]:
    """The models of a configuration, in its order; `ConfigError` where one is wrong."""
    return [_model(name, settings) for name, settings in config.models.items()]


def on_positions(config: Config) -> Config:
    """The configuration with its models on positions only; `ConfigError` where there are none."""
    models = {model.name for model in load_models(config) if not model.on_files}
    if not models:
        names = ", ".join(config.models)
        raise ConfigError(
            f"no model is on positions: {names} has files of its own, which only run, validate "
            "and a command of its kind know; add a model of another kind"
        )
    kept = {name: settings for name, settings in config.models.items() if name in models}
    return config.model_copy(update={"models": kept})


def load_gate(config: Config) -> Settings | None:
    """The order gate's parameters, None without one; `ConfigError` where they are wrong."""
    if config.gate is None:
        return None
    from gpu_margin.gate import GateParameters

    try:
        gate = GateParameters.model_validate(config.gate)
    except ValidationError as error:
        raise ConfigError(_explain(error, "gate")) from error
    names = [model.name for model in load_models(config) if not model.on_files]
    if gate.model not in names:
        known = ", ".join(names) or "none"
        unknown = "a model without positions" if gate.model in config.models else "unknown model"
        raise ConfigError(f"gate.model: {unknown} {gate.model!r}; the models are {known}")
    return gate


def _validated(data: dict[str, Any], folder: Path, where: str) -> Config:
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from error
    load_models(config)
    load_gate(config)
    paths = {
        name: None if path is None else folder / path
        for name, path in config.inputs.model_dump().items()
    }
    located = {name: _located(settings, folder) for name, settings in config.models.items()}
    return config.model_copy(update={"inputs": Inputs(**paths), "models": located})


def _located(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a model, the paths of its own files counted from the folder."""
    given = {key: settings.get(key) for key in models.files(str(settings["kind"]))}
    paths = {
        key: [str(folder / one) for one in value]
        if isinstance(value, (list, tuple))
        else str(folder / value)
        for key, value in given.items()
        if value is not None
    }
    return {**settings, **paths}


def _model(name: str, settings: dict[str, Any]) -> Model:
    where = f"models.{name}"
    kind = settings.get("kind")
    if kind is None:
        raise ConfigError(f"{where}: kind is missing; known kinds: {', '.join(models.kinds())}")
    try:
        parameters, options = models.parameters(str(kind)), ModelOptions.model_fields
        shared = () if models.files(str(kind)) else tuple(options)
        common = {key: settings[key] for key in shared if key in settings}
        rest = {key: value for key, value in settings.items() if key not in ("kind", *common)}
        return Model(
            name,
            str(kind),
            parameters=parameters.model_validate(rest),
            options=ModelOptions.model_validate(common),
        )
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _explain(error: ValidationError, where: str) -> str:
    """One line per fault: where, what, and what was given."""
    lines = []
    for fault in error.errors(include_url=False):
        place = ".".join([where, *(str(part) for part in fault["loc"])])
        message = fault["msg"].removeprefix("Value error, ")
        given = fault["input"]
        shown = "" if isinstance(given, dict) else f" (given: {given!r})"
        lines.append(f"{place}: {message}{shown}")
    return "\n".join(lines)
