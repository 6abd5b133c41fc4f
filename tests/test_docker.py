"""The images: what the README says of them, and what their files ask of the project.

No image is built here: that wants a container engine and a base image.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
import typer.main

from gpu_margin import cli

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
(BLOCK,) = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [part for line in BLOCK.splitlines() for part in line.split(" && ")]
BUILDS = [shlex.split(one) for one in COMMANDS if one.startswith("docker build")]
RUNS = [shlex.split(one) for one in COMMANDS if one.startswith("docker run")]


@pytest.mark.parametrize("file", FILES, ids=lambda one: one.stem)
def test_an_image_takes_extras_that_there_are(file: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = re.findall(r'"gpu-margin\[([a-z,]+)\] @', file.read_text())
    assert set(wanted.split(",")) <= set(extras["optional-dependencies"])


def test_the_readme_builds_every_image() -> None:
    built = {one[one.index("--file") + 1]: one[one.index("--tag") + 1] for one in BUILDS}
    assert {ROOT / name for name in built} == set(FILES)
    assert {word for one in RUNS for word in one if word.startswith("gpu-margin:")} == set(
        built.values()
    )


@pytest.mark.parametrize("words", RUNS, ids=lambda one: " ".join(one[-4:]))
def test_the_readme_runs_commands_that_there_are(words: list[str]) -> None:
    """With options that they have, on the folder that is mounted."""
    place = next(n for n, word in enumerate(words) if word.startswith("gpu-margin:"))
    name, *given = words[place + 1 :]
    group = typer.main.get_command(cli.app)
    command = group.get_command(click.Context(group), name)  # type: ignore[attr-defined]
    assert command is not None
    options = {option for one in command.params for option in one.opts}
    assert {word for word in given if word.startswith("--")} <= options
    assert "/data" in " ".join(given)
    assert any(word.endswith(":/data") for word in words[:place])
