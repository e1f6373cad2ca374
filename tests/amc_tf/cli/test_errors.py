"""Bad input ends in one sentence on stderr, nothing on stdout, exit code 1."""

import errno
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

from amc_tf.cli import compress, inspect, main
from amc_tf.errors import RunStoppedError
from amc_tf.graph import ChannelGraph
from amc_tf.plan import uniform_plan
from tests.flips import flipped
from tests.trained import make_data

ROOT = Path(__file__).parents[3]
SEARCH = (
    "--data=data.npz --budget=macs=0.5 --meter=none --episodes=4 --round-to=4 --search-images=100 "
    "--calibration-images=64"
).split()


def sentence(outcome):
    """Checks that the command failed with one line on stderr alone, and returns the line."""
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("amc-tf: ") and outcome.err.endswith(".\n"), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    return outcome.err


def save_data(path, images, labels):
    np.savez(path, x_train=images, y_train=labels, x_test=images[:40], y_test=labels[:40])


@pytest.mark.parametrize("verb", ["inspect", "compress"])
def test_no_such_file(amc, tmp_path, verb):
    rest = [] if verb == "inspect" else [*SEARCH, "--out", tmp_path / "x"]
    assert "There is no file nothing.keras; give a .keras" in sentence(amc(verb, "nothing.keras", *rest))


def test_unknown_zoo_name_lists_the_zoo(amc):
    assert "one of: demo, plain20." in sentence(amc("inspect", "mobilenet_v9"))


@pytest.mark.parametrize(
    ("meter", "words"),
    [
        ("none", "--latency-precision int8 is about measured time: give --meter phone or host."),
        ("table:phone.json", "a latency table predicts float32 networks: give --meter phone or host"),
    ],
)
def test_int8_latency_that_nothing_can_measure(amc, tmp_path, meter, words):
    rest = [*SEARCH, f"--meter={meter}", "--latency-precision=int8", "--out", tmp_path / "x"]
    assert words in sentence(amc("compress", "tiny.keras", *rest))
    assert not (tmp_path / "x").exists()


def test_corrupt_model(amc, files, tmp_path):
    whole = (files / "tiny.keras").read_bytes()
    (tmp_path / "corrupt.keras").write_bytes(whole[: len(whole) // 2])
    path = tmp_path / "corrupt.keras"
    assert f"{path} is damaged or no Keras model" in sentence(amc("inspect", path))


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4)

    def call(self, images):
        return self.dense(keras.ops.mean(images, axis=(1, 2)))


@pytest.mark.parametrize("importable", [True, False])
def test_subclassed_model(amc, tmp_path, monkeypatch, importable):
    if not importable:
        monkeypatch.setattr(Subclassed, "__module__", "module_of_another_process")
    model = Subclassed()
    model(np.zeros((1, 8, 8, 3), np.float32))
    model.save(tmp_path / "sub.keras")
    assert "keras.Model(inputs, outputs)" in sentence(amc("inspect", tmp_path / "sub.keras"))


def test_labels_that_do_not_fit_the_classes(amc, tmp_path):
    data = make_data(200, 0)
    save_data(tmp_path / "data.npz", data.images, data.labels + 3)
    outcome = amc(
        "compress", "tiny.keras", *SEARCH, f"--data={tmp_path / 'data.npz'}", "--out", tmp_path / "x"
    )
    assert "The labels go up to 6, but the model has 4 outputs" in sentence(outcome)


@pytest.mark.parametrize("verb", ["search", "compress"])
def test_images_of_one_class(amc, tmp_path, verb):
    data = make_data(200, 0)
    save_data(tmp_path / "data.npz", data.images, np.full(200, 2))
    outcome = amc(verb, "tiny.keras", *SEARCH, f"--data={tmp_path / 'data.npz'}", "--out", tmp_path / "x")
    assert "All 200 training images are of the class 2" in sentence(outcome)


def test_images_of_another_size(amc, tmp_path):
    save_data(tmp_path / "data.npz", np.zeros((80, 10, 12, 3), np.uint8), np.arange(80) % 4)
    outcome = amc(
        "compress", "tiny.keras", *SEARCH, f"--data={tmp_path / 'data.npz'}", "--out", tmp_path / "x"
    )
    assert "are 10x12x3, but the model takes 8x8x3" in sentence(outcome)


def test_impossible_budget_names_the_smallest_possible(amc, tmp_path):
    outcome = amc("compress", "tiny.keras", *SEARCH, "--budget=macs=0.001", "--out", tmp_path / "x")
    assert "the smallest network that the search may build has" in sentence(outcome)
    smallest = outcome.err.partition("give at least ")[2].split()[0]
    enough = amc("inspect", "tiny.keras", "--round-to=4", f"--budget={smallest}")
    assert (enough.code, enough.err) == (0, "")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--budget=latency=0.5", "give --meter phone, host or table:FILE, or a budget of macs"),
        ("--budget=flops=0.5", "KIND is one of macs, params, bytes, latency, accuracy"),
        ("--reward=speed", "error"),
        ("--reward=latency", "give --meter phone, host or table:FILE"),
        ("--importance=luck", "l2_consumer"),
        ("--input-range=-2..2", "choose one of -1..1, 0..1, 0..255, imagenet"),
        ("--data=mnist", "expected digits, cifar10, cifar100"),
        ("--data=nothing.npz", "There is no file nothing.npz"),
        ("--episodes=0", "episodes is 0; give a whole number of at least 1"),
        ("--warmup-episodes=9", "warmup_episodes is 9 but there are only 4 episodes"),
        ("--finetune-epochs=-1", "epochs is -1"),
        ("--unlabelled=nothing", "give a folder of images, or an .npz file with an array images"),
    ],
)
def test_a_wrong_value_is_told_what_would_be_right(amc, tmp_path, option, words):
    outcome = amc("compress", "tiny.keras", *SEARCH, "--out", tmp_path / "x", *option.split("=", 1))
    assert words in sentence(outcome)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("verb", ["compress", "sparsify", "sweep"])
def test_images_without_labels_need_epochs(amc, tmp_path, verb):
    np.savez(tmp_path / "more.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    words = ["--data=data.npz", "--meter=none", "--finetune-epochs=0", "--unlabelled", tmp_path / "more.npz"]
    budget = "--budgets=macs=0.5" if verb == "sweep" else "--budget=macs=0.5"
    outcome = amc(verb, "tiny.keras", *words, budget, "--out", tmp_path / "x")
    assert "Nothing is learned from the images without labels" in sentence(outcome)
    assert not (tmp_path / "x").exists()


def test_threads_below_one(amc, tmp_path):
    words = ["compress", "tiny.keras", *SEARCH, "--meter=host", "--threads=0", "--out", tmp_path / "x"]
    assert "--threads is 0: give 1 or more" in sentence(amc(*words))


def test_plan_of_another_model(amc, tmp_path):
    images = keras.Input((8, 8, 3))
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, name="other")(images))
    model = keras.Model(images, keras.layers.Dense(4)(hidden))
    uniform_plan(ChannelGraph.from_model(model), 0.5, round_to=4).save(tmp_path / "plan.json")
    words = ["prune", "tiny.keras", "--plan", tmp_path / "plan.json", "--out", tmp_path / "slim.keras"]
    assert "it is the plan of another model" in sentence(amc(*words))
    assert "it is the plan of another model" in sentence(amc(*words, "--data=data.npz"))
    assert not (tmp_path / "slim.keras").exists()


def test_accuracy_near_chance_speaks_of_preprocessing(amc, tmp_path):
    data = make_data(240, 0)
    save_data(tmp_path / "data.npz", data.images, np.random.default_rng(5).permutation(data.labels))
    outcome = amc(
        "compress", "tiny.keras", *SEARCH, f"--data={tmp_path / 'data.npz'}", "--out", tmp_path / "x"
    )
    assert "prepared in another way than in its training" in sentence(outcome)
    assert "--input-range" in outcome.err


def test_int8_without_images(amc, tmp_path):
    outcome = amc("convert", "tiny.keras", "--precision=int8", "--out", tmp_path / "x.tflite")
    assert "give --data" in sentence(outcome)


def test_benchmark_of_what_is_no_network(amc, tmp_path):
    assert "There is no file nothing.tflite" in sentence(amc("benchmark", "nothing.tflite"))
    (tmp_path / "x.tflite").write_bytes(b"not a network")
    assert "no TFLite network" in sentence(amc("benchmark", tmp_path / "x.tflite"))


@pytest.fixture(scope="module")
def tflite(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("converted") / "x.tflite"
    assert main(["convert", str(files / "tiny.keras"), "--out", str(path), "--quiet"]) == 0
    return path


@pytest.mark.parametrize("part", [0.02, 0.5, 0.9, 0.999])
def test_benchmark_of_a_truncated_network(amc, tflite, tmp_path, part):
    content = tflite.read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(content[: int(part * len(content))])
    store = f"--store={tmp_path / 'x.sqlite'}"
    assert f"{path} is damaged: " in sentence(amc("benchmark", path, store))
    assert f"{path} is damaged: " in sentence(amc("benchmark", tflite, "--reference", path, store))


@pytest.mark.slow
def test_benchmark_of_networks_with_a_flipped_bit(amc, tflite, tmp_path):
    """TFLite has no checksums: a wrong weight is timed; a wrong structure is refused, and never crashes."""
    path = tmp_path / "flipped.tflite"
    path.write_bytes(tflite.read_bytes())
    codes = []
    for _ in flipped(path, 30):
        outcome = amc("benchmark", path, "--runs=1", f"--store={tmp_path / 'x.sqlite'}")
        codes.append(outcome.code)
        if outcome.code:
            sentence(outcome)
    assert set(codes) == {0, 1}


@pytest.mark.parametrize("words", [["search"], ["compress", "--finetune-epochs=0"]])
def test_full_disk_leaves_no_torn_file(amc, tmp_path, monkeypatch, words):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    outcome = amc(words[0], "tiny.keras", *SEARCH, *words[1:], "--out", tmp_path / "x", "--quiet")
    assert sentence(outcome) == (
        f"amc-tf: {tmp_path / 'x' / 'episodes.jsonl'} cannot be written: No space left on device.\n"
    )
    left = {path.name for path in (tmp_path / "x").rglob("*") if path.is_file()}
    assert left <= {"lock", "measurements.sqlite"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "/data/x: No space left on device."),
        (MemoryError("Unable to allocate 9 GiB"), "Memory ran out (Unable to allocate 9 GiB)"),
        (RuntimeError("boom\nmore"), "Unexpected RuntimeError: boom; run again with --debug to see where."),
    ],
)
def test_any_exception_becomes_a_sentence_and_with_debug_a_traceback(amc, monkeypatch, error, words):
    def fail(_):
        raise error

    monkeypatch.setattr(inspect, "run", fail)
    assert words in sentence(amc("inspect", "tiny.keras"))
    debugged = amc("inspect", "tiny.keras", "--debug")
    assert debugged.code == 1
    assert "Traceback (most recent call last)" in debugged.err


def test_interrupting_a_command_without_a_checkpoint(amc, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect, "run", stop)
    outcome = amc("inspect", "tiny.keras")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "amc-tf: Interrupted.\n")


def test_sigterm_ends_a_command_as_ctrl_c_does(amc, monkeypatch):
    cleaned = []

    def stop(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(compress, "run", stop)
    outcome = amc("demo", "--out=runs/x")
    assert outcome.code == 143
    assert outcome.err == (
        "amc-tf: Terminated; all up to the last checkpoint is saved. Go on with: amc-tf demo --out=runs/x "
        "--resume\n"
    )
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_command_in_another_thread_leaves_sigterm_alone(amc, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    codes = []
    monkeypatch.setattr(inspect, "run", lambda _: int(signal.getsignal(signal.SIGTERM) is not before))
    thread = threading.Thread(target=lambda: codes.append(main(["inspect", "tiny.keras"])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_the_hint_after_an_interruption_resumes_instead_of_overwriting(amc, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compress, "run", stop)
    outcome = amc("demo", "--out=my runs/x", "--overwrite")
    assert outcome.code == 130
    assert outcome.err.endswith("Go on with: amc-tf demo '--out=my runs/x' --resume\n")
    long = f"--out={300 * 'x'}"  # no file system has such a name
    assert amc("demo", long, "--overwrite").err.endswith(f"Go on with: amc-tf demo {long} --resume\n")


def test_the_hint_overwrites_as_long_as_nothing_was_overwritten(amc, monkeypatch, tmp_path):
    def stop(args):
        if args.seed:
            (Path(args.out) / "stage1" / "plan.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(compress, "run", stop)
    (tmp_path / "stage1").mkdir()
    (tmp_path / "stage1" / "plan.json").touch()
    words = ["demo", f"--out={tmp_path}", "--overwrite"]
    assert amc(*words).err == (
        f"amc-tf: Interrupted; {tmp_path} is as it was. Start again with: amc-tf {shlex.join(words)}\n"
    )
    assert amc(*words, "--seed=1").err.endswith(
        f"Go on with: amc-tf demo --out={tmp_path} --seed=1 --resume\n"
    )


def test_a_run_that_its_phone_left_says_how_to_go_on(amc, monkeypatch):
    def stop(_):
        raise RunStoppedError("The search stopped at episode 9.")

    monkeypatch.setattr(compress, "run", stop)
    outcome = amc("demo", "--out=my runs/x", "--overwrite", "-s", "A")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        "amc-tf: The search stopped at episode 9. Go on with: amc-tf demo '--out=my runs/x' -s A --resume\n"
    )


@pytest.mark.parametrize(
    "words",
    [[], ["compres"], ["inspect"], ["compress", "tiny.keras", "--data", "x"], ["demo", "--meter", "clock"]],
)
def test_wrong_usage_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: amc-tf" in capsys.readouterr().err


def test_another_backend_is_refused_before_anything_is_loaded(amc, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert "set KERAS_BACKEND=tensorflow" in sentence(amc("inspect", "tiny.keras"))


def test_input_range_that_looks_like_an_option_is_read(amc, tmp_path):
    words = ["convert", "tiny.keras", "--input-range", "-1..1", "--out", tmp_path / "x.tflite"]
    assert amc(*words).code == 0


def run_process(*words, folder, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = [sys.executable, "-m", "amc_tf.cli", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, **options)


@pytest.mark.slow
def test_a_failing_process_writes_one_sentence_and_nothing_else(files):
    result = run_process("inspect", "nothing.keras", folder=files, timeout=60)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "amc-tf: There is no file nothing.keras; give a .keras or .h5 file, or one of: demo, plain20.\n"
    )


@pytest.mark.parametrize("words", [["--help"], ["inspect", "--help"], ["benchmark", "nothing.tflite"]])
def test_what_needs_no_keras_loads_no_tensorflow(words):
    code = (
        "import sys, contextlib\n"
        "from amc_tf.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    main({words!r})\n"
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras')))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_error(files):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "amc_tf.cli", "inspect", "tiny.keras"]
    result = subprocess.run(
        command, cwd=files, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "")
