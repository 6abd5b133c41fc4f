"""TLS, mutual TLS, and where a server may listen at all."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from typing import Any

from pydantic import Field

from gpu_margin.failures import ConfigError
from gpu_margin.settings import Settings


class TlsSettings(Settings):
    """`[server.tls]`: PEM files. With `client_ca`, clients need a certificate of that authority."""

    certificate: Path = Field(description="the server's certificate, then those it depends on")
    key: Path = Field(description="its private key, without a password")
    client_ca: Path | None = Field(
        default=None, description="authorities whose certificates clients must show"
    )

    def resolved(self, folder: Path) -> TlsSettings:
        """The same with paths that count from `folder`."""
        client_ca = self.client_ca and folder / self.client_ca
        paths = {"certificate": folder / self.certificate, "key": folder / self.key}
        return self.model_copy(update={**paths, "client_ca": client_ca})


def uvicorn_options(settings: TlsSettings | None) -> dict[str, Any]:
    """Keyword arguments of `uvicorn.Config`; `ConfigError` where a file cannot be used."""
    if settings is None:
        return {}
    _check(settings)
    options: dict[str, Any] = {
        "ssl_certfile": str(settings.certificate),
        "ssl_keyfile": str(settings.key),
    }
    if settings.client_ca is not None:
        options["ssl_ca_certs"] = str(settings.client_ca)
        options["ssl_cert_reqs"] = ssl.CERT_REQUIRED
    return options


def check_binding(host: str, tls: bool, authenticated: bool, insecure: bool) -> None:
    """`ConfigError` if others could reach the server unprotected, and that was not asked for."""
    if insecure or is_loopback(host) or (tls and authenticated):
        return
    lacks = [
        *(["TLS ([server.tls] with certificate and key)"] if not tls else []),
        *(["authentication ([server.access] with keys or jwt)"] if not authenticated else []),
    ]
    raise ConfigError(
        f"--host {host}: others can reach it, and there is no {' and no '.join(lacks)}; add it, "
        "listen on 127.0.0.1, or say --insecure (behind a proxy that does both)"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it: 127.0.0.0/8, ::1, localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(settings: TlsSettings) -> None:
    for name in ("certificate", "key", "client_ca"):
        path: Path | None = getattr(settings, name)
        if path is not None:
            _check_readable(f"server.tls.{name}", path)
    _check_pair(settings)
    if settings.client_ca is not None:
        _check_authorities(settings.client_ca)


def _check_readable(where: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: {path}: {error.strerror or error}") from error


def _check_pair(settings: TlsSettings) -> None:
    def refuse() -> str:
        raise ConfigError(
            f"server.tls.key: {settings.key}: is encrypted; a server cannot ask for its password, "
            "so decrypt it into a file that only the server's user may read"
        )

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _check_certificates("certificate", settings.certificate)
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"server.tls.key: {settings.key}: is not the key of {settings.certificate}"
            ) from error
        raise ConfigError(
            f"server.tls.key: {settings.key}: not a private key in PEM ({_reason(error)})"
        ) from error


def _check_authorities(path: Path) -> None:
    _check_certificates("client_ca", path)


def _check_certificates(name: str, path: Path) -> None:
    """That there is at least one certificate in PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(
            f"server.tls.{name}: {path}: no certificate in PEM ({_reason(error)})"
        ) from error


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
