"""API keys: made once, kept as hashes, listed, revoked; the file is private and always whole."""

from __future__ import annotations

import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from gpu_margin.failures import ConfigError
from gpu_margin.keys_cli import keys_app
from gpu_margin.server import keys
from gpu_margin.server.keys import ApiKey, KeyRing, new_key, parse_keys, read_keys, revoke_key
from gpu_margin.server.principal import SCOPES, Principal, Refused

NAMES = st.from_regex(keys.NAME.strip("^$"), fullmatch=True).filter(lambda name: name != "local")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(keys_app, [str(one) for one in arguments], env={"COLUMNS": "200"})


def find(file: Path, key: str, now: float = 1e9) -> Principal:
    return KeyRing(read_keys(file)).find(key.encode(), now)[0]


# ---------------------------------------------------------------- the file


def test_the_file_never_has_the_secret(file: Path) -> None:
    made = [new_key(file, f"n{n}", scopes=["read"]) for n in range(5)]
    text = file.read_text()
    for key_id, key in made:
        secret = key.split("_")[2]
        assert key_id in text and sha256(key.encode()).hexdigest() in text
        assert len(secret) == 64 and secret not in text
        assert not any(secret[at : at + 8] in text for at in range(0, 64, 8))
    assert len({key for _, key in made} | {key_id for key_id, _ in made}) == 10


def test_only_its_owner_can_read_the_file(file: Path) -> None:
    before = os.umask(0)
    try:
        for _ in range(2):
            new_key(file, "a", scopes=["read"])
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            file.chmod(0o644)
    finally:
        os.umask(before)
    assert [one.name for one in file.parent.iterdir()] == ["keys.toml"]


@given(
    NAMES,
    st.sets(st.sampled_from(sorted(SCOPES)), min_size=1),
    st.none() | NAMES,
    st.none() | st.floats(1e-9, 1e300),
    st.none() | st.floats(1, 1e300),
    st.none() | st.datetimes(datetime(2000, 1, 1), timezones=st.just(UTC)),
)
def test_a_key_is_read_as_it_was_written(
    name: str,
    scopes: set[str],
    tenant: str | None,
    rate: float | None,
    burst: float | None,
    expires: datetime | None,
) -> None:
    given = {"name": name, "hash": "0" * 64, "scopes": scopes, "tenant": tenant, "rate": rate}
    given |= {"burst": burst, "expires": expires, "created": datetime(2026, 1, 1, tzinfo=UTC)}
    key = ApiKey.model_validate(given)
    assert parse_keys(keys._table("0" * 12, key).encode()) == {"0" * 12: key}


def test_a_revoked_key_is_gone_and_the_others_stay(file: Path) -> None:
    (one, first), (two, second) = (new_key(file, name, scopes=["read"]) for name in "ab")
    kept = read_keys(file)[two]
    assert revoke_key(file, one).name == "a"
    assert read_keys(file) == {two: kept}
    with pytest.raises(Refused, match=keys.UNKNOWN):
        find(file, first)
    assert find(file, second).name == "b"
    with pytest.raises(ConfigError, match=f"has no key '{one}'"):
        revoke_key(file, one)
    revoke_key(file, two)
    assert read_keys(file) == {}


def test_edits_at_the_same_time_lose_nothing(file: Path) -> None:
    start = Barrier(6)

    def add(name: str) -> None:
        start.wait()
        for _ in range(5):
            new_key(file, name, scopes=["read"])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(add, "abcdef"))
    assert sorted(key.name for key in read_keys(file).values()) == sorted("abcdef" * 5)


def test_an_edit_that_fails_changes_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_key(file, "a", scopes=["read"])
    before = file.read_bytes()

    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        new_key(file, "b", scopes=["read"])
    assert file.read_bytes() == before
    assert [one.name for one in file.parent.iterdir()] == ["keys.toml"]


def test_the_owner_stays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root edits the file of a server that is not root."""
    new_key(file, "a", scopes=["read"])
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    monkeypatch.setattr(os, "chown", lambda _, user, group: given.append((user, group)))
    new_key(file, "b", scopes=["read"])
    assert given == [(file.stat().st_uid, file.stat().st_gid)]


GOOD = f"""
[keys.000000000001]
name = "desk"
hash = "{"0" * 64}"
scopes = ["read"]
created = 2026-01-01
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[keys.000000000001]", "[keys.1]", "keys.1: an id is 12 hexadecimal digits"),
        ('name = "desk"', "", "keys.000000000001.name: Field required"),
        ('"desk"', '"a:b"', "keys.000000000001.name: String should match"),
        ('"desk"', '"local"', "the name 'local' is taken"),
        ("0" * 64, "0" * 63, "hash: String should match"),
        ('["read"]', "[]", "scopes: Frozenset should have at least 1"),
        ('["read"]', '["write"]', "scopes.0: Input should be 'read', 'whatif', 'trade' or 'admin'"),
        ("2026-01-01", "2026-01-01T00:00:00", "created: Input should have timezone info"),
        ("2026-01-01", "2026-01-01\nrate = 0", "rate: Input should be greater than 0"),
        ("2026-01-01", "2026-01-01\nrate = inf", "rate: Input should be a finite number"),
        ("2026-01-01", "2026-01-01\nexpire = 2", "unknown key 'expire'; did you mean 'expires'?"),
        ("[keys", "[key", "it has more than tables"),
        ("[keys.000000000001]", "keys = 1", "it has more than tables"),
        ("[keys.000000000001]", "[keys", "not valid TOML"),
    ],
)
def test_files_that_cannot_be_used(file: Path, old: str, new: str, message: str) -> None:
    file.write_text(GOOD)
    assert list(read_keys(file)) == ["000000000001"]
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        read_keys(file)
    assert str(refused.value).startswith(str(file))
    assert "0" * 63 not in str(refused.value)


def test_a_name_is_of_one_tenant(file: Path) -> None:
    new_key(file, "a", scopes=["read"], tenant="x")
    new_key(file, "a", scopes=["trade"], tenant="x")
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="of several tenants"):
        new_key(file, "a", scopes=["read"])
    assert file.read_bytes() == before


def test_a_day_of_expiry_is_its_first_moment(file: Path) -> None:
    file.write_text(GOOD + "expires = 2027-01-01\n")
    assert read_keys(file)["000000000001"].expires == datetime(2027, 1, 1, tzinfo=UTC)


@given(st.binary(max_size=90))
def test_nothing_but_the_key_finds_it(sent: bytes) -> None:
    with pytest.raises(Refused, match=keys.UNKNOWN):
        KeyRing(parse_keys(GOOD.encode())).find(sent, 0.0)


def test_each_character_of_a_key_counts(file: Path) -> None:
    _, key = new_key(file, "a", scopes=["read"])
    ring = KeyRing(read_keys(file))
    assert ring.find(key.encode(), 0.0)[0].name == "a"
    wrong = [key[:at] + chr(ord(key[at]) ^ 1) + key[at + 1 :] for at in range(len(key))]
    for sent in (*wrong, key.upper(), key + "0", key[:-1], " " + key, key + "\n"):
        with pytest.raises(Refused, match=keys.UNKNOWN):
            ring.find(sent.encode(), 0.0)


# ---------------------------------------------------------------- the commands


def test_new_prints_a_key_that_is_taken(file: Path) -> None:
    options = "--scope read --scope whatif --tenant north --expires 2100-01-01 --rate 50 --burst 9"
    done = command("new", "desk", "--file", file, *options.split())
    assert done.exit_code == 0, done.output
    key = done.stdout.strip()
    principal, until = KeyRing(read_keys(file)).find(key.encode(), 0.0)
    scopes = frozenset({"read", "whatif"})
    assert principal == Principal("desk", scopes, "north", 50.0, 9.0, key.split("_")[1])
    assert until == datetime(2100, 1, 1, tzinfo=UTC).timestamp()
    assert key not in done.stderr and "kept nowhere else" in done.stderr


def test_new_as_json(file: Path) -> None:
    made = json.loads(command("new", "desk", "--file", file, "--scope", "read", "--json").stdout)
    assert find(file, made["key"]).key == made["id"]
    assert find(file, made["key"]).tenant is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a:b", "--scope", "read"), "name: String should match"),
        (("a", "--scope", "write"), "scopes.0: Input should be"),
        (("local", "--scope", "read"), "is taken"),
        (("a", "--scope", "read", "--rate", "0"), "rate: Input should be greater than 0"),
        (("a", "--scope", "read", "--rate", "nan"), "rate: Input should be"),
        (("a", "--scope", "read", "--burst", "0.5"), "burst: Input should be"),
        (("a", "--scope", "read", "--tenant", "a b"), "tenant: String should match"),
        (("a", "--scope", "read", "--expires", "2020-01-01"), "is over already"),
        (("a", "--scope", "read", "--expires", "soon"), "does not match the formats"),
        (("a",), "Missing option '--scope'"),
    ],
)
def test_new_says_what_is_wrong(file: Path, arguments: tuple[str, ...], message: str) -> None:
    done = command("new", *arguments, "--file", file)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", "").split())
    assert not file.exists()


def test_a_file_must_be_in_a_folder(tmp_path: Path) -> None:
    done = command("new", "a", "--scope", "read", "--file", tmp_path / "no" / "keys.toml")
    assert done.exit_code == 2 and "a folder that is there" in done.stderr
    done = command("list", "--file", tmp_path / "keys.toml")
    assert done.exit_code == 2 and "No such file" in done.stderr
    done = command("revoke", "0" * 12, "--file", tmp_path / "keys.toml")
    assert done.exit_code == 2 and "No such file" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_list_says_whose_keys_they_are_and_no_hash(file: Path) -> None:
    key_id, key = new_key(file, "desk", scopes=["whatif", "read"], tenant="north", rate=5.0)
    old, _ = new_key(file, "old", scopes=["admin"], expires="2020-01-01T00:00:00Z")
    done = command("list", "--file", file)
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert lines[key_id][1:6] == ["desk", "read,", "whatif", "north", "5.0"]
    assert lines[key_id][-1] == "valid" and lines[old][-1] == "expired"
    printed = json.loads(command("list", "--file", file, "--json").stdout)
    assert [row["id"] for row in printed] == [key_id, old]
    assert printed[0]["scopes"] == ["read", "whatif"] and printed[1]["state"] == "expired"
    for text in (done.output, json.dumps(printed)):
        assert sha256(key.encode()).hexdigest() not in text and "hash" not in text


def test_revoke(file: Path) -> None:
    key_id, _ = new_key(file, "desk", scopes=["read"])
    done = command("revoke", key_id, "--file", file)
    assert (done.exit_code, done.stdout) == (0, f"{key_id} of desk is revoked\n")
    assert command("revoke", key_id, "--file", file).exit_code == 2
