"""From where the running server may be asked: certificates, names of this machine, web pages."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from access_case import private_key
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from running_case import ACCESS, FUTURE, MINE, Running, demo_book, keys_in, problem, running

from gpu_margin.server.app import App
from gpu_margin.server.local import check_sender
from gpu_margin.server.problems import Problem

WHATIF = {"account_id": MINE, "positions": {FUTURE: 1}}


# ---------------------------------------------------------------- certificates


def write_pair(folder: Path, name: str, issuer: str) -> None:
    """A certificate of `name` signed with the key of `issuer`, and its key."""
    key, signer = private_key(name), private_key(issuer)
    named = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, issuer)]
    now = datetime.datetime.now(datetime.UTC)
    place = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder()
        .subject_name(named[0])
        .issuer_name(named[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
        .add_extension(place, critical=False)
        .sign(signer, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / f"{name}.key").write_bytes(text)


TLS = """
[server.tls]
certificate = "server.pem"
key = "server.key"
client_ca = "clients.pem"
"""


def trusting(folder: Path, certificate: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "house.pem")
    if certificate is not None:
        context.load_cert_chain(folder / f"{certificate}.pem", folder / f"{certificate}.key")
    return context


def test_a_client_without_the_right_certificate_is_refused(tmp_path: Path) -> None:
    for name, issuer in (
        ("house", "house"),
        ("server", "house"),
        ("clients", "clients"),
        ("alice", "clients"),
        ("others", "others"),
        ("mallory", "others"),
    ):
        write_pair(tmp_path, name, issuer)
    keys = keys_in(tmp_path)
    with running(demo_book(tmp_path, extra_toml=ACCESS + TLS)) as server:

        def ask(certificate: str | None, **more: Any) -> httpx.Response:
            context = trusting(tmp_path, certificate)
            with httpx.Client(base_url=server.url, verify=context) as client:
                return client.get("/v1/summary", **more)

        assert ask("alice", headers=keys["all"]).status_code == 200
        problem(ask("alice"), 401)  # a certificate is no key
        for certificate in (None, "mallory", "server"):
            with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
                ask(certificate, headers=keys["all"])
        # Nor is anything said without TLS, or for public routes.
        plain = server.url.replace("https", "http")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{plain}/health")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{server.url}/health", verify=trusting(tmp_path, None))
        assert ask("alice", headers=keys["all"]).status_code == 200


# ---------------------------------------------------------------- names, and pages


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Without keys: for this machine only."""
    with running(demo_book(tmp_path_factory.mktemp("local"))) as found:
        yield found


def ask(server: Running, method: str = "POST", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with server.client(named) as client:
        if method == "POST":
            return client.post("/v1/whatif", json=WHATIF)
        return client.request(method, f"/v1/accounts/{MINE}")


LOCAL_NAMES = ["127.0.0.1", "localhost", "127.0.0.1:8080", "LOCALHOST:1", "[::1]:80", "localhost."]
FOREIGN_NAMES = ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1"]
FOREIGN_NAMES += ["localhost.evil.example", "127.0.0.1@evil.example", "[::ffff:1.2.3.4]", "0.0.0.0"]
FOREIGN_NAMES += ["[", "x[]"]
FOREIGN_PAGES = ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1", "["]


@pytest.mark.parametrize("host", LOCAL_NAMES)
def test_this_machine_has_several_names(server: Running, host: str) -> None:
    assert ask(server, host=host).status_code == 200
    assert ask(server, "GET", host=host).status_code == 200


@pytest.mark.parametrize("host", FOREIGN_NAMES)
def test_a_name_that_was_made_to_point_here_is_refused(server: Running, host: str) -> None:
    for method in ("GET", "POST"):
        found = problem(ask(server, method, host=host), 403)
        assert found["field"] == "Host" and "127.0.0.1" in found["way_out"]
    with server.client({"host": host}) as client:
        for path in ("/", "/docs", "/openapi.json", "/metrics", "/v1/summary", "/nothing"):
            problem(client.get(path), 403)


@pytest.mark.parametrize("origin", FOREIGN_PAGES)
def test_a_page_of_elsewhere_may_change_nothing(server: Running, origin: str) -> None:
    assert problem(ask(server, origin=origin), 403)["field"] == "Origin"
    before = server.house.answering.book.sequence
    with server.client({"origin": origin}) as client:
        problem(client.post("/v1/admin/snapshot"), 403)
        change = {"Client-Sequence": "1", "Idempotency-Key": "x", "Content-Type": "text/plain"}
        problem(client.post("/v1/fills", headers=change, content=b"{}"), 403)
        # What it asks for it does not get to see: there is no header that lets it.
        answer = client.get("/v1/summary")
        preflight = client.options("/v1/fills", headers={"Access-Control-Request-Method": "POST"})
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert not any(name.startswith("access-control") for name in preflight.headers)
    problem(preflight, 405)
    assert server.house.answering.book.sequence == before
    assert server.house.saved is None


def test_the_servers_own_page_may(server: Running) -> None:
    own = f"http://127.0.0.1:{server.port}"
    assert ask(server, origin=own).status_code == 200
    assert ask(server, origin=own, sec_fetch_site="same-origin").status_code == 200
    assert ask(server, sec_fetch_site="none").status_code == 200
    # Another port of this machine is another page's.
    problem(ask(server, origin=own, sec_fetch_site="same-site"), 403)
    problem(ask(server, sec_fetch_site="cross-site"), 403)
    assert ask(server, "GET", sec_fetch_site="cross-site").status_code == 200


def test_what_is_refused_is_in_the_audit_log(server: Running) -> None:
    ask(server, host="audited.example")
    assert server.house.audit.flush()
    text = (server.house.settings.state / "audit.jsonl").read_text()
    assert "the header Host is no name of this machine" in text


def test_with_keys_any_name_will_do(tmp_path: Path) -> None:
    keys = keys_in(tmp_path)
    with running(demo_book(tmp_path, extra_toml=ACCESS)) as server:
        for headers in ({"host": "risk.example"}, {"origin": "https://other.example"}):
            assert ask(server, **headers, **keys["all"]).status_code == 200


def test_who_listens_to_everybody_has_names_of_any_kind() -> None:
    """With --insecure, behind a proxy that authenticates: only pages are held off."""
    headers = [(b"host", b"risk.example")]
    check_sender("POST", headers, ("10.0.0.1", 8080))
    check_sender("POST", [*headers, (b"origin", b"https://risk.example")], ("10.0.0.1", 8080))
    with pytest.raises(Problem, match="another origin"):
        check_sender("POST", [*headers, (b"origin", b"https://a.example")], ("10.0.0.1", 8080))
    for host in ([], [(b"host", b"127.0.0.1"), (b"host", b"evil.example")]):
        with pytest.raises(Problem, match="no name of this machine"):
            check_sender("GET", host, ("127.0.0.1", 8080))


def test_the_application_asks_for_the_check(server: Running) -> None:
    assert isinstance(server.app, App) and not server.app._access.authenticated
