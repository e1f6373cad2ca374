"""The transports against a real Android debug daemon."""

from collections.abc import Callable

from tests.adbd import Daemon


def test_the_daemon_answers_and_comes_back_after_a_kill(adbd: Daemon) -> None:
    pid = adbd.pid
    adbd.kill()
    adbd.wait(pid)
    assert adbd.pid != pid


def test_phones_have_ports_and_folders_of_their_own(adbd: Daemon, start_adbd: Callable[..., Daemon]) -> None:
    other = start_adbd("--data-size", "4M")
    assert other.port != adbd.port
    assert other.root != adbd.root
