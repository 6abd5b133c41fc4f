"""`gpu-margin serve` as a command: what it says, what it refuses, how it ends."""

from __future__ import annotations

import builtins
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from serve_process import Caller, Lost, ServerProcess, keys_in, server_process, small_book
from tracker_case import fill, mark
from typer.testing import CliRunner

from gpu_margin.cli import app

OPTIONS = ("--host", "--port", "--backend", "--replay", "--insecure", "--quiet", "CONFIG")


def told(*arguments: str) -> tuple[int, str]:
    """Exit code and what is said, of a command that does not come to serve."""
    found = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["serve", *arguments])
    return found.exit_code, found.output


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a book that no test here changes."""
    return small_book(tmp_path_factory.mktemp("book"))


# ---------------------------------------------------------------- what it refuses


def test_the_help_names_every_option() -> None:
    code, said = told("--help")
    assert code == 0
    assert all(name in said for name in OPTIONS), said


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_it_listens_beyond_this_machine_only_with_tls_and_keys(host: str, tmp_path: Path) -> None:
    config = small_book(tmp_path)
    code, said = told(str(config), "--host", host)
    assert code == 2 and "TLS" in said and "--insecure" in said
    keys_in(tmp_path, "one")
    config.write_text(config.read_text() + '[server.access]\nkeys = "keys.toml"\n')
    code, said = told(str(config), "--host", host)
    assert code == 2 and "TLS" in said
    assert not (tmp_path / "server-state").exists()


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[server]\nsnapshot_row = 1\n", ("server", "'snapshot_row'", "snapshot_rows")),
        ("[server.limits]\nmax_leg = 1\n", ("server.limits", "'max_leg'", "max_legs")),
        ("[server]\nstale_seconds = -1.0\n", ("server.stale_seconds", "greater than 0")),
        ("[server]\nsnapshot_rows = 1.5\n", ("server.snapshot_rows", "integer")),
        ("[server.limits]\nmark_ahead_seconds = -1\n", ("mark_ahead_seconds", "or equal to 0")),
        ("[server.limits]\nmark_ahead_seconds = inf\n", ("mark_ahead_seconds", "finite")),
    ],
)
def test_a_wrong_setting_is_named(toml: str, words: tuple[str, ...], tmp_path: Path) -> None:
    config = small_book(tmp_path, toml)
    code, said = told(str(config), "--port", "0")
    assert code == 2 and all(word in said for word in words), said
    assert not (tmp_path / "server-state").exists()


def test_files_that_are_missing_are_named(config: Path, tmp_path: Path) -> None:
    code, said = told(str(tmp_path / "none.toml"))
    assert code == 2 and "none.toml" in said
    code, said = told(str(config), "--replay", str(tmp_path / "none.jsonl"))
    assert code == 2 and "none.jsonl" in said


def test_without_the_packages_of_the_server_it_says_how_to_get_them(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normal = builtins.__import__

    def without(name: str, *more: Any, **other: Any) -> Any:
        if name.partition(".")[0] == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return normal(name, *more, **other)

    for name in [one for one in sys.modules if one.startswith("gpu_margin.server.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    code, said = told(str(config))
    assert code == 2 and "uvicorn" in said and "gpu-margin[serve]" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_told_before_anything_is_loaded(config: Path, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = told(str(config), "--host", host, "--port", str(port))
    assert code == 2 and f"--port {port}" in said and "in use" in said
    assert not (config.parent / "server-state").exists()


def test_a_host_that_is_not_ours_is_told(config: Path) -> None:
    code, said = told(str(config), "--host", "192.0.2.1", "--insecure", "--port", "0")
    assert code == 2 and "192.0.2.1" in said and "Traceback" not in said


# ---------------------------------------------------------------- a book that never comes


def ends_with(config: Path, code: int, *words: str) -> str:
    """It ends by itself, soon, with this code and these words as its message."""
    with server_process(config, wait=False) as server:
        assert server.ended(60) == code, server.said
        message = server.said[server.said.rindex("error: ") :]
        assert all(word in message for word in words), message
        assert "Traceback" not in server.said
        return server.said


def test_inputs_that_cannot_be_read_end_it(tmp_path: Path) -> None:
    config = small_book(tmp_path)
    (tmp_path / "history.parquet").write_bytes(b"no table")
    assert "history.parquet" in ends_with(config, 3, "no instrument is valid")


def test_a_log_of_no_known_kind_ends_it(tmp_path: Path) -> None:
    ends_with(small_book(tmp_path, "[server.log]\nurl = 'mysql://x'\n"), 2, "server.log.url")


def test_the_log_of_another_book_ends_it(tmp_path: Path) -> None:
    config = small_book(tmp_path)
    with server_process(config) as server:
        assert server.stop() == 0
    text = config.read_text()
    assert "2024-03-01" in text
    config.write_text(text.replace("2024-03-01", "2024-02-29"))
    ends_with(config, 3, "the log of another book")


def test_a_second_server_on_the_same_state_is_refused(tmp_path: Path) -> None:
    config = small_book(tmp_path)
    with server_process(config) as first, Caller(first.port) as caller:
        folder = str(tmp_path / "server-state")
        told = ends_with(config, 2, f"{folder}: another server has", "[server] state", "stop it")
        assert "audit.jsonl" not in told
        assert caller.send("GET", "/ready")[0] == 200
        assert first.stop() == 0


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(number: int, tmp_path: Path) -> None:
    """What is asked at that moment is answered, streams end, the exit code is that of success."""
    config = small_book(tmp_path)
    with server_process(config) as server:
        ended: dict[str, Any] = {}
        asking = Thread(target=ask_until_refused, args=(server, ended))
        listening = Thread(target=listen, args=(server, ended))
        asking.start()
        listening.start()
        while "listening" not in ended or ended.get("answers", 0) < 20:
            time.sleep(0.005)
        begun = time.monotonic()
        assert server.stop(number) == 0
        seconds = time.monotonic() - begun
        asking.join(30)
        listening.join(30)
    assert ended["wrong"] == [] and ended["stream"] == "ended"
    assert seconds < 8.0  # it was not thrown out
    assert "Traceback" not in server.said
    with server_process(config) as server, Caller(server.port) as caller:
        # Whoever was told nothing was not booked, but the one who was cut off.
        state_seq = caller.send("GET", "/v1/summary")[1]["state_seq"]
        assert state_seq in (ended["answers"], ended["answers"] + 1)
        assert server.stop() == 0


def ask_until_refused(server: ServerProcess, ended: dict[str, Any]) -> None:
    ended["wrong"] = []
    with Caller(server.port) as caller:
        for number in range(1, 100_000):
            rows = [fill(f"f{number}", "A", "FUTX", 1.0, 100.0)]
            try:
                status, found = caller.change("/v1/fills", number, f"k{number}", {"fills": rows})
            except Lost:
                return
            if status == 503:
                return
            if status != 200 or found["state_seq"] != number:
                ended["wrong"].append(found)
            ended["answers"] = number


def listen(server: ServerProcess, ended: dict[str, Any]) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as stream:
        stream.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        content = b""
        while part := stream.recv(65_536):
            content += part
            ended["listening"] = True
    # The last chunk of a body, not a connection that broke.
    ended["stream"] = "ended" if content.endswith(b"0\r\n\r\n") else content[-200:]


def test_a_signal_while_it_starts_ends_it_too(tmp_path: Path) -> None:
    config = small_book(tmp_path)
    with server_process(config, wait=False) as server:
        while "Application startup complete" not in (
            server.said if server._output.exists() else ""
        ):
            time.sleep(0.001)
        assert server.stop() == 0
        assert "Traceback" not in server.said


# ---------------------------------------------------------------- what it is fed with


def test_a_file_that_is_replayed_twice_is_booked_once(tmp_path: Path) -> None:
    limits = "[server.limits]\nmark_ahead_seconds = 1000.0\n"
    config, lines, now = small_book(tmp_path, limits), tmp_path / "day.jsonl", time.time()
    written = [
        {"kind": "fills", **fill("f1", "A", "FUTX", 2.0, 100.0)},
        {"kind": "fills", "rows": [fill("f2", "A", "FUTX", 3.0, 100.0)]},
        {"kind": "marks", **mark("FUTX", "price", 105.0)},
        # Of the future: taken as far as the setting has it.
        {"kind": "marks", **mark("FUTX", "price", 106.0, now + 500.0)},
        {"kind": "marks", **mark("FUTX", "price", 107.0, 1e3 * now)},
    ]
    lines.write_text("".join(json.dumps(one) + "\n" for one in written))
    for _ in range(2):
        with server_process(config, "--replay", str(lines)) as server:
            with Caller(server.port) as caller:
                before = time.monotonic() + 30
                while '"replayed"' not in server.said.rpartition("listening")[2]:
                    assert time.monotonic() < before, server.said
                    time.sleep(0.01)
                assert caller.send("GET", "/v1/summary")[1]["state_seq"] == 4
                found = caller.send("GET", "/v1/accounts/A/explain?model=es")[1]
                (model,) = found["models"].values()
                held = {one["instrument_id"]: one["quantity"] for one in model["positions"]}
                assert held["FUTX"] == 1.0 + 5.0
            assert server.stop() == 0


def test_the_command_itself_answers(tmp_path: Path) -> None:
    """Not by way of the tests' own processes: as a person starts it, on any port that is free."""
    config = small_book(tmp_path)
    command = [sys.executable, "-m", "gpu_margin", "serve", str(config), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = next(line["url"] for line in map(json.loads, process.stderr) if "url" in line)
            with Caller(int(url.rpartition(":")[2])) as caller:
                ends = time.monotonic() + 60
                while not answers(caller):
                    assert time.monotonic() < ends
                    time.sleep(0.01)
                assert caller.send("GET", "/v1/accounts/A")[1]["account_id"] == "A"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def answers(caller: Caller) -> bool:
    try:
        return caller.send("GET", "/ready")[0] == 200
    except Lost:
        return False
