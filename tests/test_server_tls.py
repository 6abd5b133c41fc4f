"""TLS files that cannot be used are found at the start; nothing listens unprotected by accident."""

from __future__ import annotations

import contextlib
import datetime
import ssl
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from access_case import private_key
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from gpu_margin.failures import ConfigError
from gpu_margin.server.tls import TlsSettings, check_binding, is_loopback, uvicorn_options


def write_key(path: Path, name: str, password: bytes | None = None) -> Path:
    cipher: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        cipher = serialization.BestAvailableEncryption(password)
    path.write_bytes(
        private_key(name).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher
        )
    )
    return path


def write_certificate(path: Path, name: str) -> Path:
    """Signed by itself."""
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    key = private_key(name)
    built = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(own)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_certificate(tmp_path / "server.pem", "one")
    write_key(tmp_path / "server.key", "one")
    write_certificate(tmp_path / "clients.pem", "two")
    return tmp_path


def options(folder: Path, **changes: str) -> dict[str, Any]:
    given = {"certificate": "server.pem", "key": "server.key", **changes}
    return uvicorn_options(TlsSettings.model_validate(given).resolved(folder))


def test_options_of_uvicorn(folder: Path) -> None:
    assert uvicorn_options(None) == {}
    pair = {
        "ssl_certfile": str(folder / "server.pem"),
        "ssl_keyfile": str(folder / "server.key"),
    }
    assert options(folder) == pair
    mutual = {"ssl_ca_certs": str(folder / "clients.pem"), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert options(folder, client_ca="clients.pem") == {**pair, **mutual}


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Both sides of a handshake, in memory; raises what the one says that refuses."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(there, back, server_side=True),
        client.wrap_bio(back, there, server_hostname="one"),
    ]
    for _ in range(5):
        for side in sides:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()


def test_uvicorn_asks_clients_for_a_certificate(folder: Path) -> None:
    config = uvicorn.Config(lambda: None, **options(folder, client_ca="clients.pem"))
    config.load()
    assert config.ssl is not None
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(folder / "server.pem")
    client.check_hostname = False
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake_hands(config.ssl, client)
    client.load_cert_chain(folder / "server.pem", folder / "server.key")  # of no known authority
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake_hands(config.ssl, client)
    client.load_cert_chain(folder / "clients.pem", write_key(folder / "client.key", "two"))
    shake_hands(config.ssl, client)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"certificate": "no.pem"}, r"tls\.certificate: .*no\.pem: No such file"),
        ({"key": "no.pem"}, r"tls\.key: .*no\.pem: No such file"),
        ({"client_ca": "no.pem"}, r"tls\.client_ca: .*no\.pem: No such file"),
        ({"certificate": "."}, r"tls\.certificate: .*: Is a directory"),
        ({"key": "other.key"}, r"tls\.key: .*other\.key: is not the key of .*server\.pem"),
        ({"key": "locked.key"}, r"tls\.key: .*locked\.key: is encrypted"),
        ({"key": "junk"}, r"tls\.key: .*junk: not a private key in PEM"),
        ({"key": "server.pem"}, r"tls\.key: .*server\.pem: not a private key in PEM"),
        ({"certificate": "junk"}, r"tls\.certificate: .*junk: no certificate in PEM"),
        ({"certificate": "server.key"}, r"tls\.certificate: .*key: no certificate in PEM"),
        ({"client_ca": "junk"}, r"tls\.client_ca: .*junk: no certificate in PEM"),
        ({"client_ca": "empty"}, r"tls\.client_ca: .*empty: no certificate in PEM"),
    ],
)
def test_files_that_cannot_be_used(folder: Path, changes: dict[str, str], message: str) -> None:
    write_key(folder / "other.key", "two")
    write_key(folder / "locked.key", "one", b"password")
    (folder / "junk").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (folder / "empty").write_text("")
    with pytest.raises(ConfigError, match=message):
        options(folder, **changes)


LOOPBACK = ["127.0.0.1", "127.8.9.10", "::1", "0:0:0:0:0:0:0:1", "localhost"]
ELSEWHERE = [
    "0.0.0.0",
    "::",
    "",
    "10.0.0.1",
    "192.168.1.1",
    "fe80::1",
    "example.org",
    "127.1",
    "localhost.example.org",
    "::ffff:10.0.0.1",
    "*",
]


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert all(is_loopback(host) for host in LOOPBACK)
    assert not any(is_loopback(host) for host in ELSEWHERE)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_others_may_reach_only_what_is_protected(host: str) -> None:
    check_binding(host, tls=True, authenticated=True, insecure=False)
    check_binding(host, tls=False, authenticated=False, insecure=True)
    with pytest.raises(ConfigError, match=r"no TLS \(.*\); add it, .*127.0.0.1, or say --insecure"):
        check_binding(host, tls=False, authenticated=True, insecure=False)
    with pytest.raises(ConfigError, match=r"no authentication \(\[server.access\]"):
        check_binding(host, tls=True, authenticated=False, insecure=False)
    with pytest.raises(ConfigError, match=r"no TLS \(.*\) and no authentication \("):
        check_binding(host, tls=False, authenticated=False, insecure=False)


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_is_always_allowed(host: str) -> None:
    check_binding(host, tls=False, authenticated=False, insecure=False)
