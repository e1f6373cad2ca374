"""replace_file: whole files, their permissions, and nothing left behind."""

import os
import stat
import sys

import pytest

from amc_tf.files import replace_file


def test_a_file_is_replaced_by_one_with_the_permissions_asked_for(tmp_path):
    path = tmp_path / "tool"
    path.write_bytes(b"an old one that is longer")
    replace_file(path, lambda file: file.write(b"new"), mode=0o700)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert os.listdir(tmp_path) == ["tool"]


def test_a_write_that_fails_leaves_what_stood_there(tmp_path):
    path = tmp_path / "tool"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        replace_file(path, lambda file: file.write("no bytes"))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["tool"]


@pytest.mark.skipif(sys.platform != "linux", reason="open files are looked up in Linux' /proc")
def test_a_file_is_closed_before_it_is_renamed(tmp_path, monkeypatch):
    """Windows renames no file that is open."""
    rename = os.replace

    def check(source, target):
        descriptors = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        assert source not in [os.readlink(name) for name in descriptors if os.path.islink(name)]
        rename(source, target)

    monkeypatch.setattr(os, "replace", check)
    replace_file(tmp_path / "tool", lambda file: file.write(b"new"))
    assert (tmp_path / "tool").read_bytes() == b"new"
