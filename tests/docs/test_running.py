"""Every command and example of the documentation that needs no phone is run, in small."""

from __future__ import annotations

import doctest
import importlib.util
import re
import shutil
from pathlib import Path

import keras
import pytest
from PIL import Image

import amc_tf
from amc_tf.cli import main, parse
from amc_tf.device import host_meter
from tests.fake_times import FakePhone
from tests.markdown import PAGES, PHONE_MARK, ROOT, Command, blocks, commands, page_name
from tests.trained import make_classifier, make_data

SMALL = {
    "episodes": ("--episodes=4", "--warmup-episodes=2"),
    "num_search_images": ("--search-images=100",),
    "num_calibration_images": ("--calibration-images=60",),
    "num_finalists": ("--finalists=1",),
    "networks": ("--networks=3",),
    "top": ("--top=2",),
    "round_to": ("--round-to=4",),
}
RUNNABLE = [page for page in PAGES if any(not command.needs_phone for command in commands(page))]
WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
WITH_DOCTESTS = [page for page in PAGES if any(block.language == "pycon" for block in blocks(page))]
MODULES_WITH_DOCTESTS = sorted(
    path
    for folder in ("amc_tf", "device", "models")
    for path in (ROOT / folder).rglob("*.py")
    if re.search(r"^ +>>> (?!.*\+SKIP)", path.read_text(encoding="utf-8"), re.MULTILINE)
)

pytestmark = pytest.mark.slow


class FakeHost(FakePhone):
    """A host meter of scripted times: what is run is the command, not the clock."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__("host")


def small(*words_given: str) -> list[str]:
    """Returns the words of a command, without "amc-tf", with options that let it end in seconds."""
    args, words = parse(words_given), list(words_given)
    for name, options in SMALL.items():
        if getattr(args, name, None) is not None:
            words += options
    if hasattr(args, "finetune_epochs"):
        words.append("--epochs=1" if words[0] == "finetune" else "--finetune-epochs=0")
    if hasattr(args, "overwrite") and not getattr(args, "resume", False):
        words.append("--overwrite")
    return words


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of; the model takes images of 8x8 pixels."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("model.keras", "slim.keras"):
        make_classifier(keras).save(folder / name)
    keras.applications.MobileNet(weights=None).save(folder / "mobilenet.keras")
    for part, data in (("train", make_data(240, 0)), ("val", make_data(100, 1))):
        for index, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
            path = folder / "photos" / part / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="session")
def workplace(files: Path) -> Path:
    """The same with what other commands have made: networks, a run, a table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        patch.setattr(host_meter, "HostMeter", FakeHost)
        run("convert", "model.keras", "--out", "model.tflite", "--overwrite")
        shutil.copy("model.tflite", "slim.tflite")
        run(
            "table",
            "build",
            "model.keras",
            "--networks=3",
            "--out",
            "phone.json",
            "--meter",
            "host",
            "--overwrite",
        )
        compress = "compress model.keras --data photos/ --budget macs=0.5 --meter none --out".split()
        for out in ("runs/photos", "runs/table"):
            run(*small(*compress, out))
    return files


def run(*words: str) -> None:
    assert main(words) == 0, " ".join(words)


@pytest.fixture
def at_work(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workplace as the working folder."""
    folder = tmp_path / "work"
    shutil.copytree(workplace, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data home"))
    monkeypatch.setattr(host_meter, "HostMeter", FakeHost)
    return folder


def runs_elsewhere(command: Command, page: Path) -> bool:
    """Whether the page of the command itself has the same line."""
    own = ROOT / "docs" / "commands" / f"{command.words[1]}.md"
    return page != own and own.is_file() and command in commands(own)


@pytest.mark.parametrize("page", RUNNABLE, ids=page_name)
def test_the_commands_of_a_page_run_one_after_the_other(page, at_work, capsys):
    for block in blocks(page):
        if block.title:
            (at_work / block.title).write_text(block.text)
    for command in commands(page):
        if command.needs_phone or runs_elsewhere(command, page):
            continue
        if "--ray" in command.words and importlib.util.find_spec("ray") is None:
            continue
        if "--help" in command.words:
            with pytest.raises(SystemExit, match="0"):
                main(command.words[1:])
            continue
        capsys.readouterr()
        words = command.words[1:] if command.output else small(*command.words[1:])
        assert main(words) == 0, f"{' '.join(command.words)}: {capsys.readouterr().err}"
        assert not command.output or capsys.readouterr().out == command.output


@pytest.mark.parametrize("page", WITH_PYTHON, ids=page_name)
def test_the_python_of_a_page_runs(page, at_work, monkeypatch):
    settings = "settings=amc_tf.SearchSettings(episodes=4, warmup_episodes=2, round_to=4), "
    settings += "finetuning=amc_tf.FinetuneSettings(epochs=0), "
    monkeypatch.setattr(amc_tf, "HostMeter", FakeHost)
    for block in blocks(page):
        if block.language != "python":
            continue
        code = compile(block.text, page_name(page), "exec")
        if block.text.startswith(PHONE_MARK):
            continue
        if "amc_tf.compress(" in block.text:
            text, number = re.subn(r"(budget=amc_tf\.Budget)", settings + r"\1", block.text)
            assert number == 1
            code = compile(text, page_name(page), "exec")
        exec(code, {"__name__": "example"})  # noqa: S102, the page's own text


@pytest.mark.parametrize("page", WITH_DOCTESTS, ids=page_name)
def test_the_examples_of_a_page_give_what_they_show(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    check("\n".join(block.text for block in blocks(page) if block.language == "pycon"), page)


@pytest.mark.parametrize("path", MODULES_WITH_DOCTESTS, ids=page_name)
def test_the_examples_of_a_module_give_what_they_show(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    name = re.sub(r"^(device|models)\b", r"amc_tf.\1", name)
    module = __import__(name, fromlist=["_"])
    results = doctest.testmod(module)
    assert (results.failed, results.attempted > 0) == (0, True)


def check(text: str, page: Path) -> None:
    """Runs the lines that begin with >>> in one namespace, and compares what they print."""
    told: list[str] = []
    test = doctest.DocTestParser().get_doctest(text, {}, page_name(page), str(page), 0)
    results = doctest.DocTestRunner().run(test, out=told.append)
    assert results.attempted > 0
    assert results.failed == 0, "".join(told)
