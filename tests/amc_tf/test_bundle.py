"""A bundle is whole, the same each time, and nothing in it is trusted."""

import contextlib
import hashlib
import json
import subprocess
import sys
import zipfile

import pytest

from amc_tf.bundle import Bundle, BundledNetwork, Manifest, write_bundle
from amc_tf.errors import RunFolderError

CONTENTS = {"original": b"0" * 400, "episode 3": b"1" * 300, "found int8": b"2" * 100}
MANIFEST = Manifest(run="my run", model="tiny.keras", meter="host:1-thread", created_with="0.1.0")


def network_of(role, content):
    return BundledNetwork(
        hashlib.sha256(content).hexdigest(), (role,), f"structure of {role}", (8, 16), 0.5, 0.75, 1.25
    )


def write(path, contents=CONTENTS):
    return write_bundle(
        path, MANIFEST, [(network_of(role, content), content) for role, content in contents.items()]
    )


@pytest.fixture
def bundle(tmp_path):
    write(tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


def rewrite(path, change, method=zipfile.ZIP_STORED):
    """Writes the members of a ZIP file again, as a list of names and contents that `change` may alter."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in change(members):
            archive.writestr(name, content)


def edit_manifest(path, edit):
    """Changes the manifest, which is the last member."""

    def change(members):
        manifest = json.loads(members[-1][1])
        edit(manifest)
        return [*members[:-1], ("manifest.json", json.dumps(manifest))]

    rewrite(path, change)


def refusal(path):
    with pytest.raises(RunFolderError) as raised:
        Bundle(path)
    sentence = str(raised.value)
    assert str(path) in sentence and "\n" not in sentence and sentence.endswith(".")
    return sentence


def test_what_is_written_is_read_again(bundle):
    read = Bundle(bundle)
    assert (read.manifest.run, read.manifest.model, read.manifest.meter) == (
        "my run", "tiny.keras", "host:1-thread",
    )  # fmt: skip
    assert [network.name for network in read.manifest.networks] == list(CONTENTS)
    assert [read.read(network) for network in read.manifest.networks] == list(CONTENTS.values())
    assert read.manifest.original == network_of("original", CONTENTS["original"])


def test_the_same_networks_give_the_same_bytes_at_any_time(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 2e9)
    write(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_a_bundle_that_was_packed_again_with_compression_is_read(bundle):
    rewrite(bundle, lambda members: members, zipfile.ZIP_DEFLATED)
    assert Bundle(bundle).manifest.original.name == "original"


def test_a_failure_leaves_the_bundle_that_stood_there(bundle, tmp_path):
    before = bundle.read_bytes()

    def networks():
        yield network_of("original", b"0"), b"0"
        raise MemoryError

    with pytest.raises(MemoryError):
        write_bundle(bundle, MANIFEST, networks())
    assert bundle.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.zip"]


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "networks/../../evil",
        "networks/evil.tflite",
        "C:\\evil",
        "networks/",
        "a\nb",
    ],
)
def test_a_file_that_no_bundle_has_is_refused_by_name(bundle, name):
    rewrite(bundle, lambda members: [*members, (name, b"evil")])
    assert f"a bundle holds no file {name!r}" in refusal(bundle)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(bundle):
    rewrite(bundle, lambda members: [*members, members[0]])
    assert f"it holds 'networks/{network_of('', CONTENTS['original']).sha256}.tflite' twice" in refusal(
        bundle
    )


def test_a_file_that_unpacks_to_far_more_is_refused_before_it_is_read(bundle):
    name = f"networks/{'0' * 64}.tflite"
    rewrite(bundle, lambda members: [*members, (name, bytes(1 << 20))], zipfile.ZIP_DEFLATED)
    assert f"'{name}' unpacks from" in refusal(bundle)


def test_a_file_larger_than_any_network_is_refused(bundle, monkeypatch):
    monkeypatch.setattr("amc_tf.bundle._MAX_NETWORK_BYTES", 350)
    assert "unpacks from 400 to 400 bytes" in refusal(bundle)


@pytest.mark.parametrize(("name", "limit"), [("_MAX_FILES", 3), ("_MAX_BUNDLE_BYTES", 1000)])
def test_a_bundle_beyond_a_limit_is_refused(bundle, monkeypatch, name, limit):
    monkeypatch.setattr(f"amc_tf.bundle.{name}", limit)
    assert f"more than {limit}" in refusal(bundle)


def test_a_network_with_another_hash_is_refused_by_name(bundle):
    rewrite(bundle, lambda members: [(members[0][0], b"changed"), *members[1:]])
    assert f"{network_of('', CONTENTS['original']).file!r} have another hash" in refusal(bundle)


def test_a_network_that_changes_after_the_check_is_refused(bundle):
    read = Bundle(bundle)
    rewrite(bundle, lambda members: [(members[0][0], b"changed"), *members[1:]])
    with pytest.raises(RunFolderError, match="another hash"):
        read.read(read.manifest.original)


def test_a_missing_and_an_unnamed_network_are_refused_by_name(bundle):
    rewrite(bundle, lambda members: members[1:])
    assert f"it lacks {network_of('', CONTENTS['original']).file!r}" in refusal(bundle)
    write(bundle)
    rewrite(bundle, lambda members: [*members, (f"networks/{'0' * 64}.tflite", b"x")])
    assert f"does not name, 'networks/{'0' * 64}.tflite'" in refusal(bundle)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.update(format="amc-tf bundle 2"), "this version reads 'amc-tf bundle 1'"),
        (lambda m: m.pop("run"), "a field is missing or of the wrong type (KeyError('run'))"),
        (lambda m: m.update(model="tiny\x1b[31m"), "not a line of text"),
        (lambda m: m.update(networks=3), "a field is missing or of the wrong type"),
        (lambda m: m.update(networks=[]), "the first network is not the original"),
        (lambda m: m["networks"].reverse(), "the first network is not the original"),
        (lambda m: m["networks"].append(m["networks"][0]), "a network is named twice"),
        (
            lambda m: m["networks"][1].update(sha256="../x", file="networks/../x.tflite"),
            "not named by its hash",
        ),
        (lambda m: m["networks"][1].update(file="/etc/passwd"), "'/etc/passwd' is not named by its hash"),
        (lambda m: m["networks"][1].update(widths=[8, "9"]), "not a whole number of 1 or more"),
        (lambda m: m["networks"][1].update(expected_ms=float("nan")), "'expected_ms' is nan, not a number"),
        (lambda m: m["networks"][1].update(expected_ms=10**400), "a field is missing or of the wrong type"),
        (lambda m: m["networks"][1].update(roles=["a\nb"]), "not a line of text"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(bundle, edit, words):
    edit_manifest(bundle, edit)
    assert words in refusal(bundle)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_no_manifest_is_refused(bundle, text):
    rewrite(bundle, lambda members: [*members[:-1], ("manifest.json", text)])
    assert "of manifest.json, " in refusal(bundle)


def test_a_zip_file_without_a_manifest_is_no_bundle(bundle):
    rewrite(bundle, lambda members: members[:-1])
    assert "it holds no manifest.json" in refusal(bundle)


def test_what_is_no_zip_file_is_refused(tmp_path, bundle):
    (tmp_path / "text.zip").write_bytes(b"no zip file")
    assert "damaged or no ZIP file" in refusal(tmp_path / "text.zip")
    assert "There is no file" in refusal(tmp_path / "nothing.zip")
    bundle.write_bytes(bundle.read_bytes()[:-30])
    assert "damaged or no ZIP file" in refusal(bundle)


@pytest.mark.parametrize("at", range(0, 1800, 97))
def test_a_damaged_byte_is_no_other_error(bundle, at):
    content = bytearray(bundle.read_bytes())
    content[at] ^= 0xFF
    bundle.write_bytes(content)
    with contextlib.suppress(RunFolderError):
        Bundle(bundle)


def test_reading_a_bundle_loads_no_tensorflow():
    code = "import sys, amc_tf.bundle; sys.exit(any(n in sys.modules for n in ('tensorflow', 'keras')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
