"""The commands `gpu-margin audit ...`: whether a server's audit log is as it was written."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gpu_margin import commands, console
from gpu_margin.failures import ConfigError
from gpu_margin.server.chain import Verified
from gpu_margin.server.chain import verify as verify_file

audit_app = typer.Typer(
    name="audit",
    no_args_is_help=True,
    help="Check the audit log of a server.",
)


@audit_app.callback()
def _audit() -> None:
    """With a callback, a group of one command stays a group."""


@audit_app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The audit log.")],
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            help="A hash that was the last one at some time: it must be in FILE, or lines were cut "
            "off or the chain was written anew.",
        ),
    ] = None,
    as_json: commands.AsJson = False,
) -> None:
    """Find any byte of an audit log that was changed, and any line removed, added or moved.

    Exit code 1 if there is one: the first line that is wrong is named. The last hash, kept where
    nobody who can write FILE can write, lets a later check find lines that were cut off.
    """
    with commands.errors():
        found = verify_file(file, _hash(expect))
    problem = _problem(found, expect)
    if as_json:
        commands.print_json({"intact": problem is None, "problem": problem, **asdict(found)})
    elif problem is not None:
        commands.complain(f"{file}: {problem}")
    else:
        _show(file, found)
    raise typer.Exit(commands.Exit.DONE if problem is None else commands.Exit.FAILED_ROWS)


def _hash(expect: str | None) -> str | None:
    if expect is None or re.fullmatch(r"[0-9a-f]{64}", expect.lower()):
        return expect and expect.lower()
    raise ConfigError(f"--expect {expect}: a hash is 64 hexadecimal digits")


def _problem(found: Verified, expect: str | None) -> str | None:
    if found.broken is not None:
        return f"line {found.broken.line} {found.broken.what}"
    if expect is not None and found.expected_at is None:
        return (
            f"no line has the hash {expect}: lines were cut off after line {found.lines}, or the "
            "chain was written anew"
        )
    return None


def _show(file: Path, found: Verified) -> None:
    console.say(f"{file}: {found.lines:,} lines, all as they were written")
    if found.first is not None and found.last is not None:
        console.say(f"first {found.first.time}, last {found.last.time}")
        console.say(f"last hash {found.last.hash}")
    if found.expected_at is not None:
        console.say(f"the expected hash is that of line {found.expected_at:,}")
