"""Tokens: whatever RFC 8725 warns of is refused, and says why without helping to guess."""

from __future__ import annotations

import json
import os
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from access_case import (
    Clock,
    claims,
    hmac_token,
    jwk,
    private_key,
    public_pem,
    raw_token,
    sign,
    signed,
    token,
    write_jwks,
)
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from gpu_margin.failures import ConfigError
from gpu_margin.server import tokens
from gpu_margin.server.access_settings import JwtSettings
from gpu_margin.server.principal import SCOPES, Principal, Refused
from gpu_margin.server.tokens import Tokens, parse_jwks


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    return write_jwks(tmp_path / "jwks.json", jwk("one"), jwk("two"), jwk("ed", "EdDSA"))


def checker(jwks: Path, tenants: bool = True, **changes: Any) -> Tokens:
    given = {"issuer": "https://issuer.example", "audience": "gpu-margin", **changes}
    return Tokens(JwtSettings.model_validate({"jwks": jwks, **given}), tenants)


def refusal(checks: Tokens, sent: bytes) -> str:
    with pytest.raises(Refused) as refused:
        checks.find(sent, time.time())
    assert refused.value.status == 401
    assert 'error="invalid_token"' in refused.value.challenge
    return refused.value.reason


@pytest.mark.parametrize(("name", "algorithm"), [("one", "RS256"), ("ed", "EdDSA")])
def test_a_good_token_says_who_and_until_when(jwks: Path, name: str, algorithm: str) -> None:
    exp = int(time.time()) + 100
    principal, until = checker(jwks).find(token(name, algorithm, exp=exp), time.time())
    expected = Principal("jwt:desk:alice", frozenset({"read", "whatif"}), "desk", key=name)
    assert (principal, until) == (expected, exp)


def test_no_token_is_taken_that_is_not_signed_by_a_known_key(jwks: Path) -> None:
    """Each of them would be good, were it not for the signature."""
    checks = checker(jwks)
    header = {"alg": "none", "typ": "JWT", "kid": "one"}
    assert refusal(checks, signed(header, claims(), lambda body: b"")) == tokens.ALGORITHM
    for spelt in ("None", "NONE", "nOnE", "", None, 1, ["RS256"], {"RS256": 1}):
        unsigned = signed({**header, "alg": spelt}, claims(), lambda body: b"")
        assert refusal(checks, unsigned) in (tokens.ALGORITHM, tokens.UNREADABLE)
    for algorithm in ("HS256", "HS384", "HS512"):
        confused = hmac_token(claims(), public_pem("one"), "one", algorithm)
        assert refusal(checks, confused) == tokens.ALGORITHM
    assert refusal(checks, hmac_token(claims(), public_pem("one"), "one", "RS256")) == (
        tokens.SIGNATURE
    )
    assert refusal(checks, token("stranger", kid="one")) == tokens.SIGNATURE
    assert refusal(checks, token("one", kid="two")) == tokens.SIGNATURE
    assert refusal(checks, token("stranger")) == tokens.KEY
    assert refusal(checks, token("ed", "EdDSA", kid="one")) == tokens.KEY


def test_every_byte_of_a_token_counts(jwks: Path) -> None:
    checks, good = checker(jwks, new_per_second=1e6), token("ed", "EdDSA")
    checks.find(good, time.time())
    # Of the last of the signature's characters only the upper bits are used.
    for at in range(len(good) - 1):
        other = b"A" if good[at : at + 1] != b"A" else b"B"
        refusal(checks, good[:at] + other + good[at + 1 :])


def test_without_kid_there_must_be_one_key_for_the_algorithm(jwks: Path) -> None:
    checks = checker(jwks)
    assert checks.find(token("ed", "EdDSA", kid=None), time.time())[0].key == "ed"
    assert refusal(checks, token("one", kid=None)) == tokens.KEY


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": int(time.time()) - 10}, "the token has expired"),
        ({"exp": 0}, "the token has expired"),
        ({"exp": None}, tokens.CLAIM),
        ({"sub": None}, tokens.CLAIM),
        ({"iss": None}, tokens.CLAIM),
        ({"aud": None}, tokens.CLAIM),
        ({"nbf": int(time.time()) + 100_000}, "the token is not valid yet"),
        ({"iat": int(time.time()) + 100_000}, "the token is not valid yet"),
        ({"aud": "another"}, "the token is for another audience"),
        ({"aud": ["another", "third"]}, "the token is for another audience"),
        ({"iss": "https://elsewhere.example"}, "the token is from another issuer"),
        ({"sub": ""}, tokens.CLAIM),
        ({"sub": 7}, tokens.CLAIM),
        ({"sub": "a\nb"}, tokens.CLAIM),
        ({"sub": "x" * 201}, tokens.CLAIM),
        ({"tenant": None}, tokens.TENANT),
        ({"tenant": ""}, tokens.TENANT),
        ({"tenant": "a:b"}, tokens.TENANT),
        ({"tenant": ["desk"]}, tokens.TENANT),
        ({"tenant": 1}, tokens.TENANT),
    ],
)
def test_claims_that_do_not_do(jwks: Path, changes: dict[str, Any], reason: str) -> None:
    assert refusal(checker(jwks), token(**changes)) == reason


@pytest.mark.parametrize(
    "exp", [float("inf"), float("nan"), 1e400, 10**400, "soon", [], {}, "9" * 5000, True]
)
def test_an_end_that_is_no_time_is_refused_and_breaks_nothing(jwks: Path, exp: Any) -> None:
    refusal(checker(jwks), token(exp=exp))


@pytest.mark.parametrize("payload", [[], "text", 7, None, {"exp": 1e308}])
def test_a_payload_that_is_no_set_of_claims_is_refused(jwks: Path, payload: Any) -> None:
    refusal(checker(jwks), raw_token(payload, "one", "RS256", "one"))


@given(st.binary(max_size=200) | st.text(alphabet='eyJ.abc=-_{}"', max_size=60).map(str.encode))
def test_anything_else_is_refused(sent: bytes) -> None:
    refusal(patient(), sent)


@cache
def patient() -> Tokens:
    """It takes any number of new tokens."""
    with TemporaryDirectory() as folder:
        return checker(write_jwks(Path(folder) / "jwks.json", jwk("one")), new_per_second=1e9)


@pytest.mark.parametrize("members", [{"b64": True}, {"b64": False}, {"other": 1}, {}])
def test_what_must_be_understood_is_refused(jwks: Path, members: dict[str, Any]) -> None:
    """A header `crit` names extensions; none is known here."""
    key = private_key("one")
    header = {"alg": "RS256", "kid": "one", **members, "crit": list(members)}
    sent = signed(header, claims(), lambda body: sign(body, key))
    assert refusal(checker(jwks), sent) in (tokens.ALGORITHM, tokens.UNREADABLE)


def test_an_audience_must_be_expected_to_be_taken(jwks: Path) -> None:
    """RFC 7519: who does not know itself in aud must refuse the token."""
    checks = checker(jwks, audience=None, issuer=None)
    assert refusal(checks, token()) == "the token is for another audience"
    assert checks.find(token(aud=None, iss=None), time.time())[0].name == "jwt:desk:alice"


def test_clocks_may_differ_by_the_leeway(jwks: Path) -> None:
    now = int(time.time())
    late = token(exp=now - 5)
    assert refusal(checker(jwks), late) == "the token has expired"
    _, until = checker(jwks, leeway=60.0).find(late, time.time())
    assert until == now - 5 + 60


def test_algorithms_can_be_fewer_but_not_others(jwks: Path) -> None:
    assert refusal(checker(jwks, algorithms=["EdDSA"]), token()) == tokens.ALGORITHM
    for wrong in ("none", "HS256", "RS512", "ES256"):
        with pytest.raises(ValueError, match="RS256"):
            checker(jwks, algorithms=["RS256", wrong])
    with pytest.raises(ValueError, match="at least 1"):
        checker(jwks, algorithms=[])


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("read", {"read"}),
        ("openid read  trade", {"read", "trade"}),
        (["admin", "whatif", 3, None], {"admin", "whatif"}),
        ("Read READ readwhatif", set()),
        (None, set()),
        (7, set()),
        ({"read": True}, set()),
    ],
)
def test_scopes_that_are_known(jwks: Path, scope: Any, expected: set[str]) -> None:
    assert checker(jwks).find(token(scope=scope), time.time())[0].scopes == expected


def test_a_token_without_tenant_sees_all_only_where_that_was_meant(jwks: Path) -> None:
    none = token(tenant=None)
    assert refusal(checker(jwks), none) == tokens.TENANT
    admin = checker(jwks).find(token(tenant=None, scope=" ".join(SCOPES)), time.time())[0]
    assert admin.tenant is None
    for checks in (checker(jwks, tenants=False), checker(jwks, tenant_required=False)):
        assert checks.find(none, time.time())[0].tenant is None
    assert refusal(checker(jwks, tenants=False, tenant_required=True), none) == tokens.TENANT


def test_claims_may_have_other_names(jwks: Path) -> None:
    checks = checker(jwks, scope_claim="scp", tenant_claim="org")
    principal = checks.find(token(tenant=None, scp=["trade"], org="north"), time.time())[0]
    assert (principal.scopes, principal.tenant) == ({"trade"}, "north")


def test_no_two_subjects_have_one_name(jwks: Path) -> None:
    """The name numbers a client's requests."""
    checks = checker(jwks, tenants=False)
    pairs: list[tuple[str | None, str]] = [("a", "b"), (None, "a:b"), (None, "b"), ("a", ":b")]
    names = {checks.find(token(sub=sub, tenant=tenant), 0.0)[0].name for tenant, sub in pairs}
    assert len(names) == len(pairs)


def test_an_unknown_kid_reads_the_file_again(tmp_path: Path) -> None:
    path = write_jwks(tmp_path / "jwks.json", jwk("one"))
    checks = checker(path)
    assert refusal(checks, token("two")) == tokens.KEY
    write_jwks(path, jwk("two"))
    assert checks.find(token("two"), time.time())[0].key == "two"
    assert refusal(checks, token("one")) == tokens.KEY


def test_a_broken_new_file_leaves_the_old_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_jwks(tmp_path / "jwks.json", jwk("one"))
    checks = checker(path)
    path.write_text('{"keys": [')
    for _ in range(2):
        assert refusal(checks, token("two")) == tokens.KEY
    assert "not valid JSON" in (checks.file.fault or "")
    assert len(caplog.records) == 1
    path.unlink()
    checks.find(token("one"), time.time())
    assert refusal(checks, token("two")) == tokens.KEY
    write_jwks(path, jwk("two"))
    checks.find(token("two"), time.time())
    assert checks.file.fault is None


def test_new_tokens_are_checked_only_so_often(jwks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of forged ones must not take the loop's time; those that were seen pass by it."""
    clock = Clock(0.0)
    checks = checker(jwks, new_per_second=2.0)
    monkeypatch.setattr(checks._rates, "_clock", clock)
    forged = token("stranger", kid="one")
    assert [refusal(checks, forged) for _ in range(2)] == [tokens.SIGNATURE] * 2
    with pytest.raises(Refused) as refused:
        checks.find(forged, time.time())
    assert (refused.value.status, refused.value.reason) == (429, tokens.TOO_MANY)
    assert refused.value.retry_after == pytest.approx(0.5)
    clock.now += 0.5
    assert refusal(checks, forged) == tokens.SIGNATURE


# ---------------------------------------------------------------- the file


def small_rsa() -> dict[str, Any]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "small"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "not a set of keys"),
        ('{"keys": {}}', "not a set of keys"),
        ('{"keys": [1]}', "not a set of keys"),
        ('{"keys": []}', "no key for RS256 or EdDSA"),
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "x"}, "key 1: is secret"),
        ({**jwk("one"), "d": "AQAB"}, "key 1: is secret"),
        ({"kty": "RSA", "n": "!", "e": "AQAB"}, "key 1: cannot be read"),
        ({"kty": "RSA"}, "key 1: cannot be read"),
        ({**jwk("one"), "kid": 7}, "key 1: kid must be text"),
        (small_rsa(), "1024 bits, fewer than 2048"),
        ({**jwk("one"), "use": "enc"}, "no key for RS256"),
        ({**jwk("one"), "key_ops": ["encrypt"]}, "no key for RS256"),
        ({**jwk("one"), "alg": "RS512"}, "no key for RS256"),
        ({"kty": "OKP", "crv": "X25519", "x": "AAAA"}, "no key for RS256"),
        ({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}, "no key for RS256"),
    ],
)
def test_files_that_cannot_be_used(content: Any, message: str) -> None:
    text = content if isinstance(content, str) else json.dumps({"keys": [content]})
    with pytest.raises(ConfigError, match=message):
        parse_jwks(text.encode())


def test_a_kid_is_that_of_one_key(tmp_path: Path) -> None:
    path = write_jwks(tmp_path / "jwks.json", jwk("one"), {**jwk("two"), "kid": "one"})
    with pytest.raises(ConfigError, match=rf"{path}: two keys of the kid 'one'"):
        checker(path)
    with pytest.raises(ConfigError, match="No such file"):
        checker(tmp_path / "missing.json")


def test_a_file_written_to_within_a_tick_of_its_clock_is_new(jwks: Path) -> None:
    """Same size, same time, same file: only what is in it differs."""
    checks, times = checker(jwks), jwks.stat()
    jwks.write_text(jwks.read_text().replace('"two"', '"owt"'))
    os.utime(jwks, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert checks.file.refresh()
    assert [key.id for key in checks.file.value] == ["one", "owt", "ed"]


def test_a_file_that_is_touched_is_not_new(jwks: Path) -> None:
    checks = checker(jwks)
    os.utime(jwks, (1, 1))
    assert not checks.file.refresh()
    assert checks.file.version == 0
