"""Fixtures around a real Android debug daemon on 127.0.0.1; where there is none, their tests are skipped.

The control program is $AMC_ADBD, else `*/tools/adbd/adbd` beside the repository. `adbd` is one phone for the
whole test process; a test that kills it waits for it again. `start_adbd` makes phones of a test's own: with
keys, with a small disk, to be taken down. The phone's shell is user 2000: it does not see pytest's private
folders, but it sees what lies in `Daemon.tmp`, and the interpreter that runs the tests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amc_tf.device.adb_stream import is_server_running

START_TIMEOUT_S = 180.0  # the very first start fetches the daemon
BACK_TIMEOUT_S = 15.0


@dataclasses.dataclass(frozen=True)
class Daemon:
    """One phone on loopback.

    Attributes:
        control: The program that starts and stops it.
        port: Its TCP port.
        root: Folder with the phone's files: tmp, sdcard, keys, phone, adbd.log.
        options: Options of `up`, for when it is taken down and started again.
    """

    control: Path
    port: int
    root: Path
    options: tuple[str, ...] = ()

    @property
    def serial(self) -> str:
        """What selects it: 127.0.0.1:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def tmp(self) -> Path:
        """The phone's /data/local/tmp, seen from here."""
        return self.root / "tmp"

    @property
    def phone(self) -> Path:
        """What the stand-ins answer: build.prop, dumpsys/, cpu/, thermal/; restore what you edit."""
        return self.root / "phone"

    @property
    def pid(self) -> int:
        """Process of the daemon; another one after `kill`."""
        return int((self.root / "adbd.pid").read_text())

    def up(self) -> None:
        """Starts it, also after `down`; the phone's files are as they were."""
        self._run("up", str(self.port), "--root", str(self.root), *self.options)

    def down(self) -> None:
        """Ends it and everything that runs on it; connections to its port are then refused."""
        self._run("down", str(self.port))

    def kill(self) -> None:
        """Kills the daemon; it is back after a second, and commands on the phone go on without it."""
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Makes the daemon hang until `cont`."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Lets a daemon that hangs go on."""
        os.kill(self.pid, signal.SIGCONT)

    def wait(self, old_pid: int | None = None) -> None:
        """Waits until the daemon answers.

        Args:
            old_pid: The process that was killed: one that is not this must answer.
        """
        deadline = time.monotonic() + BACK_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                os.kill(self.pid, 0)
                if self.pid != old_pid:
                    self.up()  # returns at once if it is up, but only when it answers
                    return
            time.sleep(0.02)
        raise TimeoutError(f"the daemon on {self.serial} did not come back")

    def add_key(self, public_key: str) -> None:
        """Accepts a public key, one line as in adbkey.pub; for phones started with --auth."""
        path = self.root / "keys" / f"key-{len(list((self.root / 'keys').iterdir()))}.pub"
        path.write_text(public_key.rstrip("\n") + "\n")
        path.chmod(0o644)

    def remove_keys(self) -> None:
        """Forgets every key; a daemon that runs has read them, so `kill` it too."""
        for path in (self.root / "keys").iterdir():
            path.unlink()

    def _run(self, *words: str) -> None:
        environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
        command = [str(self.control), *words]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
        )
        if done.returncode:
            raise RuntimeError((done.stderr or done.stdout).strip())


def find_control() -> Path | None:
    """Returns the program that starts phones, or None."""
    named = os.environ.get("AMC_ADBD")
    if named:
        return Path(named)
    beside = sorted(Path(__file__).resolve().parents[2].glob("*/tools/adbd/adbd"))
    return beside[0] if beside else None


def free_port() -> int:
    """Returns a port that nothing listens on, below those the kernel gives to outgoing connections."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def running_adbd(root: Path, *options: str) -> Iterator[Daemon]:
    """Starts a phone and takes it down at the end; skips the test where there can be none.

    Args:
        root: Folder for the phone's files.
        options: More options of `up`, such as "--auth" or "--data-size", "4M".
    """
    control = find_control()
    if control is None:
        pytest.skip("no Android debug daemon: AMC_ADBD is not set, and ../*/tools/adbd/adbd does not exist")
    daemon = Daemon(control, free_port(), root, ("--expose", sys.base_prefix, *options))
    try:
        daemon.up()
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the Android debug daemon cannot be started here: {error}")
    try:
        yield daemon
    finally:
        with contextlib.suppress(OSError, ValueError):
            daemon.cont()
        daemon.down()


@pytest.fixture(scope="session")
def adbd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A phone without authorization that all tests of this process share; leave it as you found it."""
    with running_adbd(tmp_path_factory.mktemp("phone")) as daemon:
        yield daemon


@pytest.fixture
def start_adbd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Daemon]]:
    """Starts phones of the test's own, with options of `up` such as "--auth"; they end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *options: stack.enter_context(running_adbd(tmp_path_factory.mktemp("phone"), *options))


@dataclasses.dataclass(frozen=True)
class ServerProcess:
    """An adb server of the tests' own; one that a user runs is left alone.

    Attributes:
        program: Google's adb.
        port: Port of the server.
        home: Its home folder: its key is in .android.
    """

    program: str
    port: int
    home: Path

    def adb(self, *words: str) -> str:
        """Runs an adb command against it and returns what it printed."""
        command = [self.program, "-P", str(self.port), *words]
        environment = {**os.environ, "HOME": str(self.home)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout + done.stderr


@contextlib.contextmanager
def running_adb_server(home: Path) -> Iterator[ServerProcess]:
    """Starts adbutils' copy of Google's adb as a server; skips the test where it does not run."""
    from adbutils import adb_path

    server = ServerProcess(str(adb_path()), free_port(), home)
    alone = {"ADB_USB": "0", "ADB_MDNS": "0", "ADB_EMU": "0"}  # it finds no phones by itself
    environment = {**os.environ, "HOME": str(home), **alone}
    command = [server.program, "-L", f"tcp:{server.port}", "server", "nodaemon"]
    with open(home / "server.log", "wb") as log:
        try:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        except OSError as error:
            pytest.skip(f"Google's adb does not run here: {error}")
    try:
        deadline = time.monotonic() + BACK_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            if is_server_running(port=server.port):
                break
            time.sleep(0.02)
        else:
            pytest.skip(
                f"Google's adb does not start a server here: {(home / 'server.log').read_text()[-500:]}"
            )
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """An adb server of this test process, which finds no phones by itself; tests connect it to theirs."""
    with running_adb_server(tmp_path_factory.mktemp("adb-home")) as server:
        yield server
