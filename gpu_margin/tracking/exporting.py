"""A state as a folder that `run` takes: tables in Parquet and the configuration that names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from gpu_margin.config import Config
from gpu_margin.io.outputs import write_atomically
from gpu_margin.tracking.toml_text import toml_text

CONFIG = "config.toml"


def write_state(tables: Mapping[str, pl.DataFrame], config: Config, folder: Path) -> Path:
    """Write the tables, and the configuration last: a folder that has it is whole.

    Of an older state nothing stays. Tables that are no input (`cash`) are written beside the others
    and not named. Returns the path of the configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG
    path.unlink(missing_ok=True)
    inputs = {}
    for name in (*config.inputs.model_dump(), *tables):
        file = folder / f"{name}.parquet"
        if name not in tables:
            file.unlink(missing_ok=True)
            continue
        write_atomically(file, tables[name].write_parquet)
        if name in type(config.inputs).model_fields:
            inputs[name] = file.name
    text = toml_text({**config.model_dump(), "inputs": inputs})
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path
