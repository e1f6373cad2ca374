"""The marker that makes exit codes real, with a shell of this machine in the phone's place."""

import subprocess

import pytest

from amc_tf.device.transport import MarkedCommand, ShellResult, isolated, quote
from amc_tf.errors import PhoneError

HOSTILE_WORDS = (
    "two words", "it's", 'a "quote"', "; exit 7", "$(exit 7)", "`exit 7`", "-n", "--", "*", "~", "a\nb",
    "\\", "", "#", "&", "größe-模型", "!!", "%d", "{a,b}", "[x]",
)  # fmt: skip


def run(command: str) -> ShellResult:
    marked = MarkedCommand.of(command)
    done = subprocess.run(
        ["sh", "-c", marked.line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10, check=False
    )
    return marked.result(done.stdout, "test")


@pytest.mark.parametrize(
    ("command", "output", "exit_code"),
    [
        ("true", "", 0),
        ("false", "", 1),
        ("echo hi", "hi\n", 0),
        ("printf hi", "hi", 0),
        ("printf 'a\\n\\n'", "a\n\n", 0),
        ("echo hi # and no more", "hi\n", 0),
        ("echo a\necho b\n", "a\nb\n", 0),
        ("echo hi; exit 3; echo never", "hi\n", 3),
        ("exec false", "", 1),
        ("(exit 5); echo $?", "5\n", 0),
        ("set -e; false; echo never", "", 1),
        ("cat", "", 0),
        ("cat <<END\nhere\nEND", "here\n", 0),
        ("echo out; echo err >&2", "out\nerr\n", 0),
        ("echo '[0123456789abcdef01234567]0'", "[0123456789abcdef01234567]0\n", 0),
        ("", "", 0),
    ],
)
def test_output_and_exit_code_are_the_commands_own(command: str, output: str, exit_code: int) -> None:
    assert run(command) == ShellResult(output, "", exit_code)


@pytest.mark.parametrize("command", ["echo 'no end", "echo )", "if true; then", "no-such-program-here"])
def test_a_command_that_is_no_command_has_an_exit_code_too(command: str) -> None:
    result = run(command)
    assert result.exit_code in (1, 2, 127)
    assert result.output


@pytest.mark.parametrize("command", ["kill -9 $$", "sh -c 'kill -9 $$'; exit $?"])
def test_what_a_signal_ends_has_128_more(command: str) -> None:
    assert run(command).exit_code == 137


def test_bytes_that_are_no_text_do_not_hide_the_marker() -> None:
    assert run("printf 'a\\377\\000b'; exit 4") == ShellResult("a\ufffd\0b", "", 4)


def test_a_command_that_prints_its_own_command_line_does_not_end_early() -> None:
    result = run("cat /proc/$PPID/cmdline; exit 6")
    assert "$?" in result.stdout
    assert result.exit_code == 6


def test_a_terminals_line_ends_become_the_commands() -> None:
    marked = MarkedCommand.of("ls")
    received = f"a\r\nb\r\n{marked.marker}0\r\n".encode()
    assert marked.result(received, "test") == ShellResult("a\nb\n", "", 0)


def test_line_ends_that_the_command_wrote_itself_are_kept() -> None:
    assert run("printf 'a\\r\\nb'").stdout == "a\r\nb"


def test_what_a_background_program_writes_after_the_end_is_kept() -> None:
    marked = MarkedCommand.of("late &")
    received = f"early\n{marked.marker}0\nlate\n".encode()
    assert marked.result(received, "test") == ShellResult("early\nlate\n", "", 0)


@pytest.mark.parametrize("cut", ["", "half of it", "{marker}", "{marker}1", "{marker}$?\n"])
def test_output_without_the_marker_was_cut_off(cut: str) -> None:
    marked = MarkedCommand.of("ls")
    with pytest.raises(PhoneError, match="shell of test ended in the middle of a command, after"):
        marked.result(cut.replace("{marker}", marked.marker).encode(), "test")


def test_markers_differ() -> None:
    assert MarkedCommand.of("ls").marker != MarkedCommand.of("ls").marker


@pytest.mark.parametrize("word", HOSTILE_WORDS)
def test_a_quoted_word_reaches_the_program_unharmed(word: str) -> None:
    result = run(quote("printf", "%s|", "first", word, "last"))
    assert result == ShellResult(f"first|{word}|last|", "", 0)


def test_isolated_commands_keep_their_streams_apart() -> None:
    command = ["sh", "-c", isolated("echo out; echo err >&2; exit 9")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 9)
