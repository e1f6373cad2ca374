import errno
import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager

import keras
import numpy as np
import pytest

from amc_tf.errors import RunFolderError
from amc_tf.run_folder import RUN_FILES, RunFolder, clear_errors, write_atomically, write_keras_model
from tests.flips import flipped
from tests.networks import classifier

STATE = {"identity": np.arange(3, dtype=np.uint8), "best": np.zeros((2, 2))}


@contextmanager
def file_size_limit(size_bytes):
    """Makes every write beyond a size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_is_written_whole(tmp_path):
    write_atomically(tmp_path / "a.bin", lambda file: file.write(b"new"))
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert files_of(tmp_path) == ["a.bin"]


def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    write_atomically(tmp_path / "a.bin", lambda file: file.write(b"new"))
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half of the n")
        raise error

    with pytest.raises((RunFolderError, KeyboardInterrupt)):
        write_atomically(path, fail)

    assert path.read_bytes() == b"old"
    assert files_of(tmp_path) == ["a.bin"]


def test_a_full_disk_becomes_a_sentence_that_names_the_file(tmp_path):
    path = tmp_path / "summary.json"
    path.write_bytes(b"old")
    with (
        file_size_limit(100),
        pytest.raises(RunFolderError, match=r"summary\.json cannot be written: File too"),
    ):
        write_atomically(path, lambda file: file.write(bytes(1000)))
    assert path.read_bytes() == b"old"
    assert files_of(tmp_path) == ["summary.json"]


def test_a_full_disk_while_a_line_is_added_becomes_a_sentence(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        (folder.path / "episodes.jsonl").symlink_to("/dev/full")
        with pytest.raises(
            RunFolderError, match=r"episodes\.jsonl cannot be written: No space left on device"
        ):
            folder.append_episode({"episode": 0})


def test_a_full_disk_while_a_model_is_saved_keeps_the_old_one(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")
    with file_size_limit(5000), pytest.raises(RunFolderError, match=r"model\.keras cannot be written: "):
        write_keras_model(classifier(keras, lambda hidden: keras.layers.Conv2D(64, 3)(hidden)), path)
    assert path.read_bytes() == b"old"
    assert files_of(tmp_path) == ["model.keras"]


def test_a_clock_before_all_zip_archives_becomes_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")
    monkeypatch.setattr("time.time", lambda: 0.0)
    with pytest.raises(RunFolderError, match=r"model\.keras cannot be written \(ZIP .* before 1980\)\."):
        write_keras_model(classifier(keras, keras.layers.ReLU()), path)
    assert path.read_bytes() == b"old"
    assert files_of(tmp_path) == ["model.keras"]


def test_a_model_of_either_keras_is_saved(library, tmp_path):
    model = classifier(library, library.layers.ReLU())
    write_keras_model(model, tmp_path / "model.keras")
    loaded = library.models.load_model(tmp_path / "model.keras")
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert files_of(tmp_path) == ["model.keras"]


def test_a_folder_without_permission_becomes_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"run cannot be written: Not a directory"):
        RunFolder(tmp_path / "file" / "run").__enter__()


def test_errors_without_a_text_of_the_system_show_their_own():
    with pytest.raises(RunFolderError, match=r"a cannot be written: odd"), clear_errors("a"):
        raise OSError("odd")


def test_json_is_written_with_its_umlauts(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.write_json("summary.json", {"model": "Größe", "top1": 0.5})
        assert json.loads((folder.path / "summary.json").read_text("utf-8")) == {
            "model": "Größe",
            "top1": 0.5,
        }


def test_the_lock_refuses_another_process(tmp_path):
    code = (
        "import sys\n"
        "from amc_tf.errors import RunFolderError\n"
        "from amc_tf.run_folder import RunFolder\n"
        "try:\n"
        "    RunFolder(sys.argv[1], overwrite=True).__enter__()\n"
        "except RunFolderError as error:\n"
        "    print(error)\n"
    )
    with RunFolder(tmp_path / "run") as folder:
        folder.write_bytes("plan.json", b"{}")
        said = subprocess.run(
            [sys.executable, "-c", code, str(folder.path)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert said.stdout == f"{folder.path} is in use by another process.\n"
        assert (folder.path / "plan.json").exists()


def test_the_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run"):
        _ = 1 / 0
    with RunFolder(tmp_path / "run") as folder:
        folder.write_bytes("summary.json", b"{}")
    with pytest.raises(RunFolderError, match="holds an earlier run"):
        RunFolder(tmp_path / "run").__enter__()
    with RunFolder(tmp_path / "run", resume=True):
        pass


@pytest.mark.parametrize("name", [*RUN_FILES, "checkpoint/search.npz", "checkpoint/search.previous.npz"])
def test_an_earlier_run_is_refused_naming_both_flags(tmp_path, name):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(RunFolderError, match=rf"earlier run \({name}\): .* --resume, .* --overwrite"):
        RunFolder(tmp_path).__enter__()
    assert (tmp_path / name).read_bytes() == b"old"


def test_overwrite_deletes_the_earlier_run_and_leaves_other_files(tmp_path):
    with RunFolder(tmp_path) as folder:
        for name in RUN_FILES:
            folder.write_bytes(name, b"old")
        folder.save_state(STATE)
        for suffix in ("", "-journal", "-wal", "-shm"):
            folder.measurements.with_name(folder.measurements.name + suffix).write_bytes(b"old")
        folder.events.mkdir()
        (folder.events / "events.out.1").write_bytes(b"old")
    (tmp_path / "notes.txt").write_text("mine")

    with RunFolder(tmp_path, overwrite=True) as folder:
        assert folder.load_state() is None

    assert files_of(tmp_path) == ["checkpoint/lock", "notes.txt"]


def test_resume_keeps_everything(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.save_state(STATE)
        folder.write_bytes("plan.json", b"old")
    with RunFolder(tmp_path, resume=True) as folder:
        assert (tmp_path / "plan.json").read_bytes() == b"old"
        state = folder.load_state()
    assert state is not None
    assert state.keys() == STATE.keys()
    for name, array in STATE.items():
        np.testing.assert_array_equal(state[name], array)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    for name in (".summary.json.x1", ".saving-model.keras", "checkpoint/.search.npz.y2"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".mine").touch()

    with RunFolder(tmp_path, resume=True):
        pass

    assert files_of(tmp_path) == [".mine", "checkpoint/lock"]


@pytest.mark.parametrize("damage", [b"", b"not an archive", None], ids=["empty", "other", "truncated"])
def test_a_damaged_checkpoint_becomes_a_sentence(tmp_path, damage):
    with RunFolder(tmp_path) as folder:
        folder.save_state(STATE)
        path = folder.checkpoint_folder / "search.npz"
        path.write_bytes(path.read_bytes()[:-30] if damage is None else damage)
        with pytest.raises(RunFolderError, match=r"search\.npz is damaged .*: start again with --overwrite"):
            folder.load_state()


OLDER = {**STATE, "added": np.zeros(1)}


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, caplog, where):
    with RunFolder(tmp_path) as folder:
        folder.save_state(OLDER)
        folder.save_state({"numbers": np.arange(5000)})
        path = folder.checkpoint_folder / "search.npz"
        content = bytearray(path.read_bytes())
        content[int(where * len(content))] ^= 0x10
        path.write_bytes(content)
        state = folder.load_state()
    assert state is not None
    assert state.keys() == OLDER.keys()
    assert "search.npz is damaged" in caplog.text
    assert "the checkpoint before it is used" in caplog.text


def test_no_flipped_bit_changes_a_checkpoint(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.save_state(OLDER)
        folder.save_state({"numbers": np.random.default_rng(0).normal(size=(10, 3)), **STATE})
        loaded = folder.load_state()
        num_refused = 0
        for place in flipped(folder.checkpoint_folder / "search.npz", 500):
            state = folder.load_state()
            expected = OLDER if state.keys() == OLDER.keys() else loaded
            num_refused += expected is OLDER
            assert state.keys() == expected.keys(), place
            assert all(np.array_equal(state[name], expected[name]) for name in expected), place
    assert num_refused > 350


def test_a_flipped_bit_that_hides_an_array_is_noticed(tmp_path):
    """The length of a comment in the archive's directory, which then swallows the entries behind it."""
    with RunFolder(tmp_path) as folder:
        folder.save_state(OLDER)
        folder.save_state({"numbers": np.arange(5.0), **STATE})
        path = folder.checkpoint_folder / "search.npz"
        content = bytearray(path.read_bytes())
        entry = content.rindex(b"PK\1\2", 0, content.index(b"numbers.npy", content.index(b"PK\1\2")))
        content[entry + 33] ^= 0x40
        path.write_bytes(content)
        with np.load(path) as file:
            assert "best" not in file.files
        assert folder.load_state().keys() == OLDER.keys()


def test_a_checkpoint_of_0_1_0_which_has_no_digest_is_read(tmp_path):
    with RunFolder(tmp_path) as folder:
        np.savez(folder.checkpoint_folder / "search.npz", **STATE)
        assert folder.load_state().keys() == STATE.keys()


def test_a_process_killed_between_two_checkpoints_goes_on_from_the_first(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.save_state(OLDER)
        folder.save_state(STATE)
        (folder.checkpoint_folder / "search.npz").unlink()
        assert folder.has_checkpoint
        assert folder.load_state().keys() == OLDER.keys()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.save_state(STATE)
        with (
            file_size_limit(1000),
            pytest.raises(RunFolderError, match=r"search\.npz cannot be written: File too large"),
        ):
            folder.save_state({"numbers": np.arange(5000)})
        assert folder.load_state().keys() == STATE.keys()


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    with RunFolder(tmp_path) as folder:
        np.savez(folder.checkpoint_folder / "search.npz", best=np.array([{}], dtype=object))
        with pytest.raises(RunFolderError, match="damaged"):
            folder.load_state()


def test_episodes_after_the_checkpoint_are_forgotten(tmp_path):
    with RunFolder(tmp_path) as folder:
        for number in range(4):
            folder.append_episode({"episode": number})
        with (tmp_path / "episodes.jsonl").open("a") as file:
            file.write('{"episode": 4, "rew')  # killed while writing

        assert folder.read_episodes(3) == [{"episode": 0}, {"episode": 1}, {"episode": 2}]

    assert (tmp_path / "episodes.jsonl").read_text().splitlines() == [f'{{"episode": {n}}}' for n in range(3)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"episode": 0}\n', "has 1 episodes, but the checkpoint knows 2"),
        (b'{"episode": 0}\n{"epis', "is damaged"),
        (b'{"episode": 0}\n\xff\xfe\n', "is damaged"),
        (b'{"episode": 0}\n7\n', "is damaged"),
        (None, "has 0 episodes, but the checkpoint knows 2"),
    ],
)
def test_missing_or_damaged_episodes_become_a_sentence(tmp_path, content, words):
    with RunFolder(tmp_path) as folder:
        if content is not None:
            (tmp_path / "episodes.jsonl").write_bytes(content)
        with pytest.raises(RunFolderError, match=rf"episodes\.jsonl {words}.*--overwrite"):
            folder.read_episodes(2)
        if content is not None:
            assert (tmp_path / "episodes.jsonl").read_bytes() == content


def test_paths_of_a_run(tmp_path):
    folder = RunFolder(str(tmp_path / "run"))
    assert folder.measurements == tmp_path / "run" / "checkpoint" / "measurements.sqlite"
    assert folder.events == tmp_path / "run" / "tensorboard"
    assert not os.path.exists(folder.path)
