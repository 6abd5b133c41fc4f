"""What the commands share: exit codes, errors as messages, files that are asked for, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich.console import Console

from gpu_margin.failures import ConfigError, GpuMarginError, InputError
from gpu_margin.io.outputs import write_atomically

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's TOML file.")]
BackendName = Annotated[str, typer.Option(help="auto, or a name from [bold]gpu-margin devices[/].")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no tables.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 if any row failed.")]
Results = Annotated[Path, typer.Argument(metavar="DIR", help="Results of a finished run.")]
AccountId = Annotated[str, typer.Argument(metavar="ACCOUNT", help="An account_id.")]
OneModel = Annotated[str | None, typer.Option(help="One model; default: all.")]
OneAccount = Annotated[
    str | None, typer.Option(metavar="ID", help="Show this account only, with all there is.")
]
Tables = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write tables: .parquet or .csv.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace FILE and what is beside it.")]

_FORMATS = (".parquet", ".csv")


class Exit(IntEnum):
    """What a command's exit code means."""

    DONE = 0
    FAILED_ROWS = 1
    BAD_USAGE = 2
    NOTHING_COMPUTED = 3


@contextmanager
def errors() -> Iterator[None]:
    """Our own errors as a message and an exit code; anything else is a bug and shows itself."""
    try:
        yield
    except InputError as error:
        complain(str(error))
        raise typer.Exit(Exit.NOTHING_COMPUTED) from error
    except GpuMarginError as error:
        complain(str(error))
        raise typer.Exit(Exit.BAD_USAGE) from error


def complain(message: str) -> None:
    """A message on standard error."""
    Console(stderr=True).print(f"error: {message}", style="red", markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """JSON on standard output."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse, before anything is computed, a table's file that could not or may not be written."""
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"--out {path}: name a file that ends in {' or '.join(_FORMATS)}")
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--out {path}: name a file in a folder that is there")
    if path.exists() and not overwrite:
        raise ConfigError(f"--out {path}: is there already; choose another or say --overwrite")


def write_file(table: pl.DataFrame, path: Path) -> None:
    """Write a table as the file's name says."""
    csv = path.suffix.lower() == ".csv"
    write_atomically(path, table.write_csv if csv else table.write_parquet)


@dataclass(frozen=True)
class Files:
    """Where the first table goes, and those beside it."""

    out: Path | None
    beside: Mapping[str, Path]

    def write(self, tables: Mapping[str, pl.DataFrame]) -> list[Path]:
        """Write all, those beside first."""
        if self.out is None:
            return []
        for name, path in self.beside.items():
            write_file(tables[name], path)
        write_file(next(iter(tables.values())), self.out)
        return [self.out, *self.beside.values()]


def checked_files(out: Path | None, names: Sequence[str], overwrite: bool) -> Files:
    """Refused before anything is computed where one cannot or may not be written."""
    if out is None:
        return Files(None, {})
    named = {name: beside(out, name) for name in names}
    for path in (out, *named.values()):
        check_file(path, overwrite)
    return Files(out, named)


def beside(out: Path, name: str) -> Path:
    """Where a table goes that is written beside FILE: FILE.name, with its ending."""
    return out.with_name(f"{out.stem}.{name}{out.suffix}")


def exit_code(figures: pl.Series, failures: pl.DataFrame, strict: bool, who: str) -> Exit:
    """How a command ends whose `figures` (null where there is none) are of `who`."""
    if figures.is_null().all():
        complain(f"nothing computed: {who}; see the failures")
        return Exit.NOTHING_COMPUTED
    return Exit.FAILED_ROWS if strict and len(failures) else Exit.DONE
