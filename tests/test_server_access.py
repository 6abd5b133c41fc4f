"""Who is admitted, what they may see, and how often they may ask."""

from __future__ import annotations

import base64
import hmac
import time
from hashlib import sha256
from pathlib import Path

import pytest
from access_case import Case, basic, bearer, jwk, token, write_jwks
from pydantic import ValidationError

from gpu_margin.failures import ConfigError
from gpu_margin.server import access as module
from gpu_margin.server import keys
from gpu_margin.server.access import LOCAL, SCOPES, Access, Principal, Refused
from gpu_margin.server.access_settings import AccessSettings
from gpu_margin.server.keys import new_key, revoke_key


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


# ---------------------------------------------------------------- credentials


def test_without_settings_everyone_is_local_and_may_do_everything() -> None:
    access = Access(None)
    principal = access.principal([])
    assert principal == LOCAL and principal.scopes == {"read", "whatif", "trade", "admin"}
    assert access.principal(bearer("anything")) == LOCAL
    for scope in SCOPES:
        access.require(principal, scope)
    assert access.may_see(principal, "anything") and access.admit(principal, 10**9) == 0.0
    assert not access.authenticated and access.faults() == []


def test_a_key_is_taken_however_it_is_sent(case: Case) -> None:
    expected = Principal("desk", frozenset({"read", "whatif"}), "desk", key=case.id)
    key = case.key.encode()
    ways: list[list[tuple[bytes, bytes]]] = [
        bearer(key),
        [(b"authorization", b"bearer  " + key)],
        [(b"authorization", b"BEARER " + key)],
        [(b"x-api-key", key)],
        basic(key),
        basic(key, b"somebody"),
    ]
    for headers in ways * 2:
        assert case.access.principal(headers) == expected
    assert case.logins == [expected]  # once, however it was sent


def test_a_token_is_taken_however_it_is_sent(case: Case) -> None:
    sent = token(iss=None)
    for headers in (bearer(sent), basic(sent), [(b"x-api-key", sent)]):
        assert case.access.principal(headers).name == "jwt:desk:alice"
    assert len(case.logins) == 1


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], module.NOTHING),
        ([(b"cookie", b"key=1")], module.NOTHING),
        ([(b"authorization", b"")], module.UNREADABLE),
        ([(b"authorization", b"Bearer")], module.NOTHING),
        ([(b"authorization", b"Bearer ")], module.NOTHING),
        ([(b"x-api-key", b"")], module.NOTHING),
        ([(b"authorization", b"Digest x")], module.UNREADABLE),
        ([(b"authorization", b"Basic ???")], module.UNREADABLE),
        ([(b"authorization", b"Basic " + base64.b64encode(b"nobody"))], module.NOTHING),
        ([(b"authorization", b"Bearer " + b"x" * 9000)], keys.UNKNOWN),
        ([(b"authorization", b"Bearer gm_")], keys.UNKNOWN),
        ([(b"authorization", b"Bearer gm_" + b"0" * 12 + b"_" + b"0" * 64)], keys.UNKNOWN),
    ],
)
def test_what_is_no_credential(case: Case, headers: list[tuple[bytes, bytes]], reason: str) -> None:
    assert case.reason(*headers) == reason


def test_two_credentials_are_refused(case: Case) -> None:
    """Which of them counts must not depend on who reads the headers."""
    good = bearer(case.key)
    for other in (bearer(case.key), [(b"x-api-key", case.key.encode())]):
        assert case.reason(*good, *other) == module.TWO
        assert case.reason(*other, *good) == module.TWO


def test_a_refusal_does_not_help_to_guess(case: Case) -> None:
    """A wrong secret of an id that exists is refused as an id that does not exist."""
    wrong = case.key[:-1] + ("0" if case.key[-1] != "0" else "1")
    assert case.reason(*bearer(wrong)) == case.reason(*bearer("gm_" + "0" * 77)) == keys.UNKNOWN
    with pytest.raises(Refused) as refused:
        case.access.principal(bearer(wrong))
    assert refused.value.challenge.startswith('Bearer realm="gpu-margin", error="invalid_token"')
    assert wrong not in str(vars(refused.value))
    assert "error" not in Refused(401, "").challenge


def test_keys_are_compared_in_constant_time(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `hmac.compare_digest`, whether or not the id is known."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return hmac_compare(left, right)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    unknown = "gm_" + "0" * 12 + case.key[15:]
    for sent in (unknown, case.key[:-1] + "_", case.key):
        case.knows(sent)
    assert [len(right) for _, right in compared] == [32, 32, 32]
    assert compared[-1] == (sha256(case.key.encode()).digest(),) * 2


def test_scopes_do_not_include_each_other(case: Case) -> None:
    for owned in SCOPES:
        principal = Principal("x", frozenset({owned}))
        for scope in SCOPES - {owned}:
            with pytest.raises(Refused) as refused:
                case.access.require(principal, scope)
            assert refused.value.status == 403
            assert f'error="insufficient_scope", scope="{scope}"' in refused.value.challenge
        case.access.require(principal, owned)


# ---------------------------------------------------------------- until when


def test_a_key_is_taken_until_it_expires(tmp_path: Path) -> None:
    case = Case(tmp_path)
    until = "2100-01-01T00:00:00+00:00"
    _, key = new_key(case.file, "short", scopes=["read"], expires=until)
    case.clock.now += 2
    end = 4102444800.0
    assert case.knows(key)
    case.clock.now = end - 0.001
    assert case.knows(key) and case.knows(key)
    case.clock.now = end
    assert case.reason(*bearer(key)) == keys.EXPIRED
    assert case.knows(case.key)


def test_a_token_that_was_seen_is_taken_until_it_expires(case: Case) -> None:
    sent = token(exp=int(time.time()) + 100)
    assert case.knows(sent)
    case.clock.now += 98
    assert case.knows(sent)
    case.clock.now += 3
    assert case.reason(*bearer(sent)) == "the token has expired"


def test_a_revoked_key_is_refused_within_a_second(case: Case) -> None:
    assert case.knows(case.key)
    revoke_key(case.file, case.id)
    case.clock.now += 0.5
    assert case.knows(case.key)  # the file is looked at once a second
    case.clock.now += 0.5
    assert case.reason(*bearer(case.key)) == keys.UNKNOWN


def test_a_new_key_is_taken_within_a_second(case: Case) -> None:
    _, key = new_key(case.file, "new", scopes=["trade"])
    case.clock.now += 1.0
    assert case.knows(key) and case.knows(case.key)


def test_less_scope_counts_within_a_second_and_is_a_new_login(case: Case) -> None:
    assert case.knows(case.key)
    case.file.write_text(case.file.read_text().replace("'read', 'whatif'", "'read'"))
    case.clock.now += 1.0
    assert case.access.principal(bearer(case.key)).scopes == {"read"}
    assert [login.scopes for login in case.logins] == [{"read", "whatif"}, {"read"}]


def test_other_changes_of_the_file_are_no_login(case: Case) -> None:
    assert case.knows(case.key)
    new_key(case.file, "new", scopes=["trade"])
    case.clock.now += 1.0
    assert case.knows(case.key)
    assert len(case.logins) == 1


def test_a_broken_file_keeps_the_old_keys(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    case.file.write_text("[keys")
    case.clock.now += 1.0
    assert case.knows(case.key)
    assert "not valid TOML" in case.access.faults()[0]
    assert "keys.toml" in caplog.text and case.key not in caplog.text
    revoke_all = "# nobody\n"
    case.file.write_text(revoke_all)
    case.clock.now += 1.0
    assert not case.knows(case.key)
    assert case.access.faults() == []


def test_an_issuers_key_that_is_gone_counts_no_more(case: Case) -> None:
    """For tokens that were seen, too, whoever noticed that the file changed."""
    old = token(kid="one")
    assert case.knows(old)
    write_jwks(case.jwks, jwk("two"))
    case.clock.now += 1.0
    assert not case.knows(old)
    assert case.knows(token("two"))
    write_jwks(case.jwks, jwk("one"))
    assert case.knows(token("one", sub="bob"))  # the unknown kid makes it look at once
    assert not case.knows(token("two"))


def test_it_remembers_only_so_many(case: Case) -> None:
    access = case.open(keep=3)
    sent = [token(sub=f"s{n}") for n in range(5)]
    for one in sent:
        access.principal(bearer(one))
    assert len(access._seen) == 3
    case.logins.clear()
    access.principal(bearer(sent[2]))
    assert case.logins == []
    access.principal(bearer(sent[0]))
    access.principal(bearer(sent[2]))  # asked for lately, so it was kept
    assert [login.name for login in case.logins] == ["jwt:desk:s0"]


def test_refusals_are_not_remembered(case: Case) -> None:
    for n in range(100):
        assert not case.knows(f"gm_{n}")
    assert not case.access._seen


def test_a_token_that_was_seen_is_not_checked_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = token()
    case.knows(sent)
    monkeypatch.setattr(case.access._tokens, "find", None)
    assert case.knows(sent)


def test_settings_must_admit_someone_and_files_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="nobody could be admitted"):
        AccessSettings()
    with pytest.raises(ValidationError, match="sees no account"):
        AccessSettings.model_validate({"keys": "k", "tenants": {"a": {}}})
    with pytest.raises(ValidationError, match="pattern"):
        AccessSettings.model_validate({"keys": "k", "tenants": {"a:b": {"accounts": ["*"]}}})
    for one in ({"keys": "k"}, {"jwt": {"jwks": "k"}}):
        settings = AccessSettings.model_validate(one).resolved(tmp_path)
        with pytest.raises(ConfigError, match=f"{tmp_path / 'k'}: No such file"):
            Access(settings)


def test_without_jwt_or_without_keys_the_others_are_unknown(tmp_path: Path) -> None:
    case = Case(tmp_path)
    only_keys = case.settings.model_copy(update={"jwt": None})
    with pytest.raises(Refused, match=keys.UNKNOWN):
        Access(only_keys).principal(bearer(token()))
    only_jwt = case.settings.model_copy(update={"keys": None})
    with pytest.raises(Refused, match=keys.UNKNOWN):
        Access(only_jwt).principal(bearer(case.key))
