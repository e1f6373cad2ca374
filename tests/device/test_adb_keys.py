"""The key by which phones know this computer."""

import base64
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from amc_tf.device.adb_keys import load_keys
from amc_tf.errors import PhoneError


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("no_umask")
def test_a_missing_key_is_made_for_its_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / ".android"
    (signer,) = load_keys(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["adbkey", "adbkey.pub"]
    assert (mode(folder), mode(folder / "adbkey")) == (0o700, 0o600)
    assert len(base64.b64decode(signer.GetPublicKey().split()[0])) == 524  # struct RSAPublicKey of 2048 bits
    assert b"@" in signer.GetPublicKey().split()[1]


@pytest.mark.usefixtures("no_umask")
def test_a_private_key_is_never_open_to_others_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: dict[str, int] = {}
    link = os.link

    def watch(source: Path, target: Path) -> None:
        opened[target.name] = mode(source)
        link(source, target)

    monkeypatch.setattr(os, "link", watch)
    load_keys(tmp_path)
    assert opened == {"adbkey": 0o600, "adbkey.pub": 0o644}


def test_a_key_that_is_there_is_used_and_left_as_it_is(tmp_path: Path) -> None:
    first = load_keys(tmp_path)[0]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    second = load_keys(tmp_path)[0]
    assert second.GetPublicKey() == first.GetPublicKey()
    assert second.Sign(b"x" * 20) == first.Sign(b"x" * 20)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_missing_public_half_is_made_from_the_private_one(tmp_path: Path) -> None:
    public = load_keys(tmp_path)[0].GetPublicKey()
    (tmp_path / "adbkey.pub").unlink()
    assert load_keys(tmp_path)[0].GetPublicKey() == public


def test_a_key_that_another_process_made_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    load_keys(other)
    folder = tmp_path / "folder"
    link = os.link

    def late(source: Path, target: Path) -> None:
        if not target.exists():
            target.write_bytes((other / target.name).read_bytes())
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert load_keys(folder)[0].GetPublicKey() == load_keys(other)[0].GetPublicKey()
    assert sorted(path.name for path in folder.iterdir()) == ["adbkey", "adbkey.pub"]


def test_the_home_folder_is_where_googles_adb_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    load_keys()
    assert (tmp_path / ".android" / "adbkey").is_file()


@pytest.mark.parametrize("content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_key_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "adbkey").write_bytes(content)
    with pytest.raises(PhoneError, match=r"The key .*adbkey, .* move a damaged key away"):
        load_keys(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PhoneError, match=r"file/adbkey, .*File exists.* check the permissions"):
        load_keys(tmp_path / "file")
