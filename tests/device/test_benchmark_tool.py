"""Which benchmark program is run: the user's, one from the cache, or the official download."""

import hashlib
import importlib.metadata
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from amc_tf.device import benchmark_tool
from amc_tf.device.benchmark_tool import BenchmarkTool, Source, check_abi, download, find_tool, source_for
from amc_tf.errors import MeasurementError
from tests.stand_in_tool import stand_in, stand_in_tool

HOST = "https://storage.googleapis.com"
HOSTILE_NAMES = ("two words", "it's", 'a "quote"', "; touch hacked", "$(touch hacked)", "-rf")


def elf(machine: int, *, big_endian: bool = False) -> bytes:
    """Returns the start of a program for a processor."""
    order = "big" if big_endian else "little"
    return (
        b"\x7fELF\x02"
        + (b"\x02" if big_endian else b"\x01")
        + bytes(12)
        + machine.to_bytes(2, order)
        + bytes(40)
    )


ARM64 = elf(183) + b"\0graph\0num_threads\0num_runs\0"


class Fetch:
    """Answers every address with one content and remembers the addresses."""

    def __init__(self, content: bytes = ARM64) -> None:
        self.content = content
        self.urls: list[str] = []

    def __call__(self, url: str) -> bytes:
        self.urls.append(url)
        return self.content


def test_the_users_file_comes_first_and_is_not_cached(tmp_path: Path) -> None:
    binary = tmp_path / "my tool"
    binary.write_bytes(ARM64)
    fetch = Fetch()
    tool = find_tool("arm64-v8a", binary=binary, cache_folder=tmp_path / "cache", fetch=fetch)
    assert tool.content == ARM64
    assert tool.origin == str(binary)
    assert tool.sha256 == hashlib.sha256(ARM64).hexdigest()
    assert fetch.urls == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_the_users_file_may_have_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(ARM64)
    assert find_tool("arm64-v8a", binary=name).origin == name
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_users_file_that_is_missing_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="'nowhere' does not exist"):
        find_tool("arm64-v8a", binary="nowhere")
    with pytest.raises(MeasurementError, match="is not a file; name the benchmark_model program itself"):
        find_tool("arm64-v8a", binary=tmp_path)


def test_a_download_is_kept_and_fetched_once(tmp_path: Path) -> None:
    fetch = Fetch()
    first = find_tool("arm64-v8a", cache_folder=tmp_path / "cache", fetch=fetch)
    second = find_tool("arm64-v8a", cache_folder=tmp_path / "cache", fetch=fetch)
    assert first == second
    assert fetch.urls == [first.origin]
    kept = tmp_path / "cache" / first.sha256
    assert kept.read_bytes() == ARM64
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in kept.parent.iterdir()) == sorted([first.sha256, "index.json"])


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    fetch = Fetch()
    tool = find_tool("arm64-v8a", cache_folder=tmp_path, fetch=fetch)
    (tmp_path / tool.sha256).write_bytes(elf(183) + b"changed")
    assert find_tool("arm64-v8a", cache_folder=tmp_path, fetch=fetch).content == ARM64
    assert len(fetch.urls) == 2
    assert (tmp_path / tool.sha256).read_bytes() == ARM64


@pytest.mark.parametrize("index", ["no json", "[1]", '{"URL": 7}', '{"URL": "../../etc/passwd"}', "\xff"])
def test_a_damaged_index_means_fetching_again(index: str, tmp_path: Path) -> None:
    url = source_for("arm64-v8a").url
    (tmp_path / "index.json").write_bytes(index.replace("URL", url).encode("latin-1"))
    fetch = Fetch()
    tool = find_tool("arm64-v8a", cache_folder=tmp_path, fetch=fetch)
    assert fetch.urls == [url]
    assert json.loads((tmp_path / "index.json").read_text()) == {url: tool.sha256}


def test_a_page_in_the_place_of_the_program_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=f"{HOST}.* is no program for Android"):
        find_tool("arm64-v8a", cache_folder=tmp_path, fetch=Fetch(b"<html>Sign in to the network</html>"))
    assert list(tmp_path.iterdir()) == []


def test_the_index_remembers_every_address(tmp_path: Path) -> None:
    find_tool("arm64-v8a", cache_folder=tmp_path, fetch=Fetch())
    find_tool("armeabi-v7a", cache_folder=tmp_path, fetch=Fetch(elf(40)))
    fetch = Fetch()
    assert find_tool("arm64-v8a", cache_folder=tmp_path, fetch=fetch).content == ARM64
    assert fetch.urls == []


def test_what_does_not_match_its_pin_is_neither_used_nor_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = Source(f"{HOST}/tool", sha256="0" * 64)
    monkeypatch.setattr(benchmark_tool, "source_for", lambda abi: pinned)
    with pytest.raises(MeasurementError, match=f"has the SHA-256 [0-9a-f]{{64}}, not {'0' * 64}"):
        find_tool("arm64-v8a", cache_folder=tmp_path, fetch=Fetch())
    assert list(tmp_path.iterdir()) == []


def test_what_matches_its_pin_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = Source(f"{HOST}/tool", sha256=hashlib.sha256(ARM64).hexdigest())
    monkeypatch.setattr(benchmark_tool, "source_for", lambda abi: pinned)
    assert find_tool("arm64-v8a", cache_folder=tmp_path, fetch=Fetch()).sha256 == pinned.sha256


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MeasurementError, match=r"cannot be kept in .*file/cache \(Not a directory\)"):
        find_tool("arm64-v8a", cache_folder=tmp_path / "file" / "cache", fetch=Fetch())


def test_sources_are_the_official_addresses() -> None:
    litert = importlib.metadata.version("ai-edge-litert")
    nightly = f"{HOST}/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/nightly/latest"
    assert source_for("arm64-v8a").url == f"{HOST}/litert/binaries/{litert}/android_arm64/benchmark_model"
    assert source_for("armeabi-v7a").url == f"{nightly}/android_arm_benchmark_model"
    assert source_for("x86_64").url == f"{nightly}/android_x86-64_benchmark_model"


def test_an_abi_without_a_download_lists_those_with_one() -> None:
    with pytest.raises(MeasurementError, match="'riscv64', only for arm64-v8a, .* --benchmark-binary"):
        find_tool("riscv64", fetch=Fetch())


@pytest.mark.parametrize(
    ("machine", "abi"), [(183, "arm64-v8a"), (40, "armeabi-v7a"), (62, "x86_64"), (3, "x86")]
)
def test_a_program_for_the_phones_processor_passes(machine: int, abi: str) -> None:
    check_abi(elf(machine), abi, "tool")


def test_a_script_passes_on_every_phone() -> None:
    check_abi(stand_in(), "arm64-v8a", "tool")


def test_a_program_for_another_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        MeasurementError, match=r"^tool is a program for x86-64, but the phone's ABI is arm64"
    ):
        check_abi(elf(62), "arm64-v8a", "tool")
    with pytest.raises(MeasurementError, match="is a program for ELF machine 21"):
        check_abi(elf(21, big_endian=True), "arm64-v8a", "tool")
    with pytest.raises(MeasurementError, match="is a program for 32-bit ARM"):
        find_tool("arm64-v8a", cache_folder=tmp_path, fetch=Fetch(elf(40)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 an apk", b"<html>not found</html>", b"\x7fELF"])
def test_what_is_no_program_is_refused(content: bytes) -> None:
    with pytest.raises(MeasurementError, match="neither an ELF file nor a script"):
        check_abi(content, "arm64-v8a", "tool")


def test_another_program_is_not_taken_for_the_tool(tmp_path: Path) -> None:
    path = tmp_path / "true"
    path.write_bytes(elf(183) + b"\0num_threads\0")
    with pytest.raises(
        MeasurementError, match="true is not benchmark_model: it has no --graph and no --num_runs; name"
    ):
        find_tool("arm64-v8a", binary=path)


def test_the_dialect_shows_in_the_names_of_the_flags() -> None:
    assert not stand_in_tool("classic").is_compiled_model
    assert stand_in_tool("compiled_model").is_compiled_model


def test_a_flag_is_supported_if_its_whole_name_occurs() -> None:
    tool = BenchmarkTool.from_content(b"\0xnnpack_force_fp16\0use_gpu\0gpu-precision\0", "tool")
    assert tool.supports("use_gpu")
    assert tool.supports("gpu-precision")
    assert tool.supports("force_fp16")  # the end of a longer name may be shared
    assert not tool.supports("use_gp")
    assert not tool.supports("gpu-")
    assert not tool.supports("use_nnapi")


def test_an_older_build_lacks_a_flag() -> None:
    assert stand_in_tool("classic").supports("result_file_path")
    assert not stand_in_tool("classic", without=["result_file_path"]).supports("result_file_path")


class Reply:
    """One answer to a request."""

    def __init__(self, status: int = 200, body: bytes = b"", location: str | None = None) -> None:
        self.is_redirect = location is not None
        self.headers = {"location": location} if location else {}
        self._status = status
        self._body = body

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *error: object) -> None: ...

    def raise_for_status(self) -> None:
        if self._status >= 400:
            raise requests.HTTPError(f"{self._status} Client Error: Not Found for url")

    def iter_content(self, size: int) -> Any:
        return (self._body[start : start + size] for start in range(0, len(self._body), size))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Scripts what requests answers, one reply or error per request; returns the list of asked addresses."""

    def script(*replies: Reply | Exception) -> list[str]:
        left, asked = list(replies), []

        def get(session: requests.Session, url: str, **options: Any) -> Reply:
            assert options["timeout"] > 0
            assert not options["allow_redirects"]
            asked.append(url)
            reply = left.pop(0)
            if isinstance(reply, Exception):
                raise reply
            return reply

        monkeypatch.setattr(requests.Session, "get", get)
        return asked

    return script


def test_a_download_returns_the_content(answers: Callable[..., list[str]]) -> None:
    asked = answers(Reply(body=b"x" * 3_000_000))
    assert download(f"{HOST}/a") == b"x" * 3_000_000
    assert asked == [f"{HOST}/a"]


def test_a_download_follows_the_official_host_only(answers: Callable[..., list[str]]) -> None:
    asked = answers(Reply(302, location="/b"), Reply(body=b"tool"))
    assert download(f"{HOST}/a") == b"tool"
    assert asked == [f"{HOST}/a", f"{HOST}/b"]
    for location in ("https://example.com/b", "http://storage.googleapis.com/b", f"{HOST}.example.com/b"):
        asked = answers(Reply(302, location=location))
        with pytest.raises(MeasurementError, match=f"{location} is not on {HOST}"):
            download(f"{HOST}/a")
        assert asked == [f"{HOST}/a"]


def test_no_network_is_one_sentence_with_address_and_option(answers: Callable[..., list[str]]) -> None:
    answers(requests.ConnectionError("HTTPSConnectionPool(host=...): Max retries exceeded"))
    with pytest.raises(MeasurementError) as caught:
        download(f"{HOST}/a")
    assert str(caught.value) == (
        f"benchmark_model cannot be downloaded from {HOST}/a (no connection to storage.googleapis.com); get "
        "that file another way and name it with --benchmark-binary."
    )


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (requests.ReadTimeout("slow"), "no answer in 30 s"),
        (requests.ConnectTimeout("slow"), "no connection to"),
        (Reply(404), "404 Client Error: Not Found"),
        (Reply(body=b"12345"), "it has more than 4 bytes"),
    ],
)
def test_a_download_that_fails_says_why(
    reply: Any, words: str, answers: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_tool, "_MAX_SIZE", 4)
    answers(reply)
    with pytest.raises(MeasurementError, match=rf"\({words}.*--benchmark-binary"):
        download(f"{HOST}/a")


def test_endless_redirects_and_endless_trickles_end(
    answers: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(*[Reply(302, location="/a")] * 5)
    with pytest.raises(MeasurementError, match="redirects more than 5 times"):
        download(f"{HOST}/a")
    answers(Reply(body=b"tool"))
    monkeypatch.setattr(benchmark_tool, "_DOWNLOAD_TIMEOUT_S", -1.0)
    with pytest.raises(MeasurementError, match="it took longer than"):
        download(f"{HOST}/a")


def test_a_tool_prints_without_its_content() -> None:
    assert len(repr(stand_in_tool())) < 200
