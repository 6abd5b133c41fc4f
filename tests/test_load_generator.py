"""The generator of load is honest: what it sends, what it counts, from when it measures."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve_case import ROOT, driving, needs_compiler, process, wire
from toy_server import ToyServer, serving


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_compiler()
    return driving.compile_generator(tmp_path_factory.mktemp("load"))


@pytest.fixture
def load(program: Path, tmp_path: Path) -> Callable[..., driving.Counts]:
    """Runs the generator on requests against a port."""

    def run(port: int, requests: wire.Lanes, **options: Any) -> driving.Counts:
        file = wire.write(tmp_path / "requests", requests)
        return driving.Generator(program, port).run(file, **options)

    return run


def gets(count: int) -> wire.Lanes:
    return [(0, wire.request("GET", f"/v1/accounts/{n}", "k")) for n in range(count)]


def test_a_closed_loop_asks_for_everything_in_turn(load: Any) -> None:
    server = ToyServer()
    with serving(server) as port:
        found = load(port, gets(10), seconds=0.5, connections=4)
    asked = Counter(path for _, path, _, _ in server.seen)
    assert set(asked) == {f"/v1/accounts/{n}" for n in range(10)}
    assert max(asked.values()) - min(asked.values()) <= 1
    assert found["statuses"] == {"200": len(server.seen)}
    assert found["rate"] == pytest.approx(len(server.seen) / 0.5, rel=0.1)
    assert found["latency_ms"]["count"] == len(server.seen)
    assert driving.errors(found) == {} and driving.offered(found) == len(server.seen)


def test_what_is_asked_while_it_warms_up_does_not_count(load: Any) -> None:
    server = ToyServer()
    with serving(server) as port:
        found = load(port, gets(1), seconds=1.0, warmup=0.7, connections=2)
    assert found["seconds"] == pytest.approx(0.3, abs=0.01)
    assert sum(found["statuses"].values()) < 0.6 * len(server.seen)


def test_an_open_loop_keeps_its_pace(load: Any) -> None:
    server = ToyServer()
    with serving(server) as port:
        found = load(port, gets(5), seconds=1.0, rate=300, connections=8)
    assert len(server.seen) == found["statuses"]["200"] == 300
    # The last ones may be answered after the end.
    assert sum(found["per_second"]) == 300


def test_answers_after_the_end_are_of_their_second(load: Any) -> None:
    server = ToyServer()
    server.plan.extend(["ok"] * 9 + ["1.5"])
    with serving(server) as port:
        found = load(port, gets(5), seconds=1.0, rate=10, connections=1)
    assert found["statuses"] == {"200": 10}
    assert sum(found["per_second"]) == 10
    assert len(found["per_second"]) >= 3 and found["per_second"][-1] >= 1


def test_an_open_loop_sees_a_server_that_stood_still(load: Any) -> None:
    """Those who came meanwhile waited too: a closed loop would have left them out."""
    server = ToyServer()
    server.plan.extend(["ok"] * 100 + ["0.6"])
    with serving(server) as port:
        found = load(port, gets(5), seconds=2.0, rate=200, connections=4)
    assert found["statuses"] == {"200": 400}
    due, sent = found["latency_ms"], found["from_sending_ms"]
    # 0.6 s of 200 a second: 120 of 400 waited, a twelfth of them for over half a second.
    assert due["max"] > 550 and due["p90"] > 250
    assert due["p50"] < 100
    # From when they were sent, only those that the four connections had under way were slow.
    assert sent["p90"] < 100 and sent["max"] > 550


def test_a_closed_loop_does_not_see_it(load: Any) -> None:
    server = ToyServer()
    server.plan.extend(["ok"] * 100 + ["0.6"])
    with serving(server) as port:
        found = load(port, gets(5), seconds=2.0, connections=4)
    assert found["latency_ms"]["max"] > 550 and found["latency_ms"]["p90"] < 100


def test_what_found_no_connection_is_given_up(load: Any) -> None:
    server = ToyServer()
    server.plan.append("0.8")
    with serving(server) as port:
        found = load(port, gets(5), seconds=1.0, rate=100, connections=2, patience=0.2)
    assert found["unsent"] == pytest.approx(60, abs=12)
    assert found["unsent"] + found["statuses"]["200"] == 100 == driving.offered(found)


def test_answers_are_counted_by_status(load: Any) -> None:
    server = ToyServer()
    server.plan.extend([503, 429, 500, 503])
    with serving(server) as port:
        found = load(port, gets(3), seconds=0.3, connections=1)
    assert found["statuses"] == {"429": 1, "500": 1, "503": 2, "200": len(server.seen) - 4}
    assert driving.errors(found) == {"429": 1, "500": 1, "503": 2}
    assert driving.errors(found, ("429", "503")) == {"500": 1}
    assert driving.shed(found) == found["shed_ms"]["count"] == 3
    assert found["rate"] == pytest.approx((len(server.seen) - 4) / 0.3, rel=0.1)


def fill_requests(lanes: int, each: int) -> wire.Lanes:
    for lane in range(lanes):
        for number in range(each):
            fill = wire.json_body({"fills": [{"fill_id": f"{lane}-{number}"}]})
            key = f"client-{lane}"
            headers = {"Client_Sequence": number + 1, "Idempotency_Key": f"{lane}-{number}"}
            yield lane, wire.request("POST", "/v1/fills", key, fill, **headers)


def test_an_ordered_lane_is_sent_once_and_in_order(load: Any) -> None:
    server = ToyServer()
    server.plan.extend(["ok", "after", 503, "before", "ok", 429, "after"])
    with serving(server) as port:
        found = load(port, fill_requests(3, 50), seconds=20.0, connections=3, ordered=True)
    assert found["acknowledged"] == [50, 50, 50]
    assert found["seconds"] < 10.0  # it ends when all is done
    assert found["pauses"] == 2 and driving.shed(found) == 2
    for lane in range(3):
        own = [name for name in server.booked if name.startswith(f"{lane}-")]
        assert own == [f"{lane}-{number}" for number in range(50)]


def test_an_ordered_lane_ends_where_it_is_refused(load: Any) -> None:
    server = ToyServer()
    server.numbers["Bearer client-1"] = 7
    with serving(server) as port:
        found = load(port, fill_requests(2, 5), seconds=5.0, connections=2, ordered=True)
    assert found["acknowledged"] == [5, 0] and found["statuses"] == {"200": 5, "409": 1}


def test_a_broken_connection_is_an_error_but_not_the_end(load: Any) -> None:
    server = ToyServer()
    server.plan.extend(["ok", "before", "ok", "before"])
    with serving(server) as port:
        found = load(port, gets(3), seconds=0.5, connections=1)
    assert found["dropped"] == 2 and found["statuses"]["200"] == len(server.seen) - 2
    assert driving.errors(found) == {"dropped": 2}


def test_nobody_answers(load: Any) -> None:
    found = load(process.free_port(), gets(1), seconds=0.4, connections=2, rate=20)
    assert found["refused"] >= 2 and found["statuses"] == {}
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        begun = time.monotonic()
        port = deaf.getsockname()[1]
        found = load(port, gets(1), seconds=0.5, connections=2, timeout=0.2, grace=0.5)
    assert found["timeouts"] >= 2 and time.monotonic() - begun < 5.0


@contextmanager
def speaking(*answers: bytes | None, piece: int = 1) -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives these answers in turn, then OK, in pieces; None closes the connection."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        coming = iter(answers)
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while asked := connection.recv(65536):
                    heard.append(asked)
                    answer = next(coming, OK)
                    if answer is None:
                        break
                    for place in range(0, len(answer), piece):
                        connection.sendall(answer[place : place + piece])
                        time.sleep(0.0005)
                    if answer == CLOSING:  # as it said, whatever comes meanwhile
                        time.sleep(0.02)
                        break

    threading.Thread(target=work, daemon=True).start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5;x=y\r\nhello\r\n1\r\n\n\r\n0\r\nTrailer: 1\r\n\r\n"
)
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + OK
CLOSING = b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_answers_in_all_forms_and_pieces(load: Any, piece: int) -> None:
    forms = [OK, CHUNKED, EMPTY, CONTINUED, OK, CLOSING, OK, CHUNKED]
    with speaking(*forms, piece=piece) as (port, heard):
        requests = [(0, request) for _, request in gets(len(forms))]
        found = load(port, requests, seconds=0.8, connections=1, grace=0.2)
    assert heard[: len(forms)] == [request for _, request in requests]
    assert found["statuses"] == {"200": len(heard) - 2, "204": 1, "503": 1}
    assert found["nonsense"] == found["resent"] == 0


def test_a_connection_that_was_closed_meanwhile_is_told_from_one_that_broke(load: Any) -> None:
    with speaking(OK, None, OK) as (port, heard):
        found = load(port, gets(1), seconds=0.3, connections=1, grace=0.2)
    assert (found["resent"], found["dropped"]) == (1, 0)
    assert found["statuses"] == {"200": len(heard) - 1}
    assert driving.errors(found) == {"resent": 1}
    with speaking(None, OK) as (port, _):
        found = load(port, gets(1), seconds=0.3, connections=1, grace=0.2)
    assert (found["resent"], found["dropped"]) == (0, 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 abc\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nwithout length",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ntoo much",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9000,
    ],
)
def test_what_is_no_answer_is_no_success(load: Any, answer: bytes) -> None:
    with speaking(answer, piece=16384) as (port, heard):
        found = load(port, gets(1), seconds=0.3, connections=1, grace=0.2)
    assert found["nonsense"] == 1 and found["statuses"] == {"200": len(heard) - 1}


def test_times_are_counted_within_a_part_in_128(tmp_path: Path) -> None:
    needs_compiler()
    source = tmp_path / "histogram.c"
    source.write_text(
        f'#include "{ROOT}/benchmarks/serve/histogram.h"\n'
        "#include <stdlib.h>\nint main(void) { static struct histogram all; char line[64];\n"
        "while (fgets(line, 64, stdin)) add(&all, strtoull(line, NULL, 10));\n"
        'printf("{"); print_times("t", &all); printf("}"); return 0; }\n'
    )
    subprocess.run(["cc", "-o", tmp_path / "histogram", source], check=True)
    times = np.random.default_rng(3).lognormal(14.0, 3.0, 10_001).astype(np.int64)
    given = "\n".join(map(str, times)) + "\n"
    done = subprocess.run([tmp_path / "histogram"], input=given, capture_output=True, text=True)
    found = json.loads(done.stdout)["t"]
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
        exact = 1e-6 * np.sort(times)[int(share * len(times))]
        assert exact <= found[name] * (1 + 1e-3) + 1e-4
        assert found[name] <= exact * (1 + 1 / 128) + 1e-4
    assert found["max"] == pytest.approx(1e-6 * times.max(), rel=1e-4)
    assert found["mean"] == pytest.approx(1e-6 * times.mean(), rel=1e-4)
