"""Runs commands of the documentation in seconds: few episodes, few images, scripted times."""

from __future__ import annotations

from pathlib import Path

from amc_tf.cli import main, parse
from tests.fake_times import FakePhone
from tests.markdown import ROOT, Command, commands

SMALL = {
    "episodes": ("--episodes=4", "--warmup-episodes=2"),
    "num_search_images": ("--search-images=100",),
    "num_calibration_images": ("--calibration-images=60",),
    "num_finalists": ("--finalists=1",),
    "networks": ("--networks=3",),
    "top": ("--top=2",),
    "round_to": ("--round-to=4",),
}
SMALL_SEARCH = (
    "settings=amc_tf.SearchSettings(episodes=4, warmup_episodes=2, round_to=4), "
    "finetuning=amc_tf.FinetuneSettings(epochs=0), "
)


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


def run(*words: str) -> None:
    assert main(words) == 0, " ".join(words)


def runs_elsewhere(command: Command, page: Path) -> bool:
    """Whether the page of the command itself has the same line."""
    own = ROOT / "docs" / "commands" / f"{command.words[1]}.md"
    return page != own and own.is_file() and command in commands(own)
