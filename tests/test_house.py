"""The house itself: what is imported when, what the wheel has in it, whether the docs are true."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from gpu_margin import cli

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


def python(code: str, folder: Path, executable: str = sys.executable) -> str:
    """The output of a Python program that runs elsewhere."""
    done = subprocess.run(
        [executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["gpu_margin", "gpu_margin.report", "gpu_margin.cli"])
def test_importing_the_package_loads_nothing_heavy(module: str, tmp_path: Path) -> None:
    heavy = "{'cupy', 'jax', 'numba', 'plotly', 'pandas', 'arch', 'sklearn'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    assert python(code, tmp_path).strip() == "[]"


@pytest.mark.parametrize("folder", ["kernels", "cpu_fallback"])
def test_device_folders_cannot_be_imported_by_accident(folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True
    )
    assert f"import gpu_margin.{folder}" in done.stderr


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_devices_know_only_the_contract() -> None:
    for path in [*ROOT.glob("kernels/*.py"), *ROOT.glob("cpu_fallback/*.py")]:
        ours = {name for name in imports(path) if name.startswith("gpu_margin.")}
        allowed = ("gpu_margin.backend", "gpu_margin.array_ops")
        assert all(name.startswith(allowed) for name in ours), (path, ours)


def test_nothing_imports_a_backend_statically() -> None:
    for path in ROOT.glob("gpu_margin/**/*.py"):
        names = imports(path)
        assert not any("kernels" in name or "cpu_fallback" in name for name in names), path


def test_the_package_list_is_the_tree() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    folders = {path.parent for path in ROOT.glob("gpu_margin/**/__init__.py")}
    tree = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert listed == tree | {"gpu_margin.kernels", "gpu_margin.cpu_fallback"}


def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    """Built, unpacked, and used by a Python that cannot see the checkout."""
    # A copy, for setuptools builds inside the tree and would pick up leftovers there.
    leftovers = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "gpu-margin-demo")
    shutil.copytree(ROOT, tmp_path / "checkout", ignore=leftovers)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path]
    subprocess.run([*build, tmp_path / "checkout"], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = archive.namelist()
    assert "gpu_margin/py.typed" in names
    for pattern in ("*.cu", "*.cuh"):
        for source in ROOT.glob(f"kernels/{pattern}"):
            assert f"gpu_margin/kernels/{source.name}" in names
    for table in ROOT.glob("gpu_margin/parameters/**/*.*"):
        assert str(table.relative_to(ROOT)) in names
    # -I and a path of our own: the editable install of the checkout is not to be found.
    code = f"""
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]
sys.path.insert(0, {str(site)!r})
from pathlib import Path
import gpu_margin
from gpu_margin import backend, demo, models
assert gpu_margin.__file__.startswith({str(site)!r}), gpu_margin.__file__
assert backend.load('numpy').__module__ == 'gpu_margin.cpu_fallback.numpy_backend'
run = gpu_margin.run(demo.write(demo.build(20), Path({str(tmp_path)!r})))
print(len(run.margins), models.kinds(), backend.backend_names())
"""
    kinds = [
        *("covariance", "deribit_pm", "derive_pm1", "derive_pm2", "derive_standard"),
        *("joint", "okx_pm", "simm", "simulation", "span", "tims"),
    ]
    assert python(code, tmp_path).strip() == f"40 {kinds} ['cupy', 'jax', 'numba', 'numpy']"


# ---------------------------------------------------------------- docs


def blocks(language: str) -> list[str]:
    """Code blocks of the README in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's examples can run: the demo exchange is there."""
    folder = tmp_path_factory.mktemp("readme")
    arguments = ["demo", "--accounts", "60", "--out", str(folder / "gpu-margin-demo"), "--quiet"]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    return folder


def test_the_readme_python_runs(documented: Path) -> None:
    code = blocks("python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    assert "requirement" in python(code, documented)
    assert (documented / "results-from-python" / "report.html").exists()


def test_the_readme_config_is_the_demos() -> None:
    from gpu_margin import demo

    (text,) = blocks("toml")
    assert tomllib.loads(text) == tomllib.loads(demo.CONFIG)


def test_the_readme_commands_run(documented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(documented)
    lines = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]
    ours = [line.split()[1:] for line in lines if line.startswith("gpu-margin ")]
    assert sorted({arguments[0] for arguments in ours} | {"audit", "serve"}) == COMMANDS
    for arguments in ours:
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == 0, (arguments, done.output)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_the_readme_server_answers(documented: Path) -> None:
    """The lines of the server's block one after another, then the client's ten lines."""
    (block,) = blocks("sh")
    port = str(free_port())
    serve, *asked, audit = block.replace("8080", port).splitlines()
    assert len(asked) == 5
    command = [sys.executable, "-m", "gpu_margin", *shlex.split(serve)[1:]]
    server = subprocess.Popen(command, cwd=documented, stderr=subprocess.DEVNULL)
    try:
        wait = f"from gpu_margin.client import Client\nClient('http://127.0.0.1:{port}')"
        python(f"{wait}.wait_until_ready()", documented)
        for line in asked:
            done = subprocess.run(shlex.split(line), capture_output=True, check=True)
            answer = json.loads(done.stdout)
            assert "title" not in answer, (line, answer)
        code = blocks("python")[1].replace("8080", port)
        assert len([line for line in code.splitlines() if line.strip()]) <= 10
        assert python(code, documented).split()[-1] == "1"
    finally:
        server.terminate()
        server.wait(30)
    done = CliRunner().invoke(
        cli.app, [*shlex.split(audit)[1:-1], str(documented / audit.split()[-1])]
    )
    assert done.exit_code == 0, done.output


def test_the_readme_make_targets_exist() -> None:
    targets = re.findall(r"`?make ([a-z]+)`?", README)
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test"} <= set(targets)
    assert all(f"\n{target}:" in makefile for target in targets)


def test_every_dependency_is_justified() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(name for extra in extras for name in extra)]
    for requirement in wanted:
        name = re.split(r"[<>=\[]", requirement)[0].replace("cupy-cuda13x", "cupy")
        assert name == "gpu-margin" or re.search(rf"^\|.*\b{name}\b.*\|", text, re.M), name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_a_place_in_the_readme(command: str) -> None:
    done = CliRunner().invoke(cli.app, [command, "--help"])
    assert done.exit_code == 0
    assert f"gpu-margin {command}" in README
    for parameter in re.findall(r"--([a-z-]+)", done.output):
        assert parameter


def test_every_option_has_help() -> None:
    todo = [("gpu-margin", typer.main.get_command(cli.app))]
    while todo:
        name, command = todo.pop()
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), (name, parameter.name)
        todo += getattr(command, "commands", {}).items()
