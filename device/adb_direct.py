"""Talks to a phone's debug daemon itself, over TCP or USB (adb-shell); no adb server is needed."""

from __future__ import annotations

import contextlib
import io
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from adb_shell import exceptions

from amc_tf.device.adb_keys import load_keys
from amc_tf.device.adb_link import Link, SyncAnswer, TcpLink, split_address
from amc_tf.device.adb_usb import UsbLink
from amc_tf.device.transport import UNLOCK_ADVICE, MarkedCommand, ShellResult, refused_file
from amc_tf.errors import MeasurementError, PhoneError, PhoneTimeoutError

_FILE_MODE = stat.S_IFREG | 0o755

# What adb-shell raises when the other side is slow, gone, or speaks something else.
_TIMEOUTS = (TimeoutError, exceptions.AdbTimeoutError)
_NO_ADB = (
    exceptions.InvalidChecksumError, exceptions.InvalidCommandError, exceptions.InvalidResponseError,
    exceptions.PushFailedError, KeyError, struct.error,
)  # fmt: skip


class AdbDirect:
    """What TCP and USB have in common; see `Transport` for the methods.

    Standard error comes in `ShellResult.stdout`: adb-shell knows only the old shell service.

    Attributes:
        serial: What selects the phone.
        name: For people.
    """

    def __init__(self, serial: str, name: str, link: Link, keys: Sequence[Any] | None) -> None:
        self.serial = serial
        self.name = name
        self._link = link
        self._keys = keys
        self._device: Any = None

    def connect(self, *, timeout_s: float) -> None:
        """Connects; does nothing on a connection that is open.

        A phone that does not know the key yet asks its user, and this waits for the answer.

        Args:
            timeout_s: Longest wait for connection and authorization together, in seconds.

        Raises:
            PhoneError: Nobody is there, or the phone does not accept the key.
            PhoneTimeoutError: Somebody is there and does not answer.
        """
        if self._device is not None:
            return
        from adb_shell.adb_device import AdbDevice

        keys = self._keys = load_keys() if self._keys is None else self._keys
        asked: list[object] = []  # adb-shell calls back with itself when it offers the key to the user
        device = AdbDevice(self._link)
        with self._closing_on_error("answer", timeout_s):
            try:
                device.connect(
                    list(keys), timeout_s, auth_timeout_s=timeout_s, read_timeout_s=timeout_s,
                    auth_callback=asked.append,
                )  # fmt: skip
            except (*_TIMEOUTS, ConnectionError, exceptions.DeviceAuthError) as error:
                if not asked and not isinstance(error, exceptions.DeviceAuthError):
                    raise
                raise PhoneError(
                    f"{self.name} does not accept this computer's key ~/.android/adbkey yet (unauthorized): "
                    f"{UNLOCK_ADVICE}."
                ) from error
        self._device = device

    def shell(self, command: str, *, timeout_s: float) -> ShellResult:
        """Runs a line of shell and waits for its end; the marker after it tells its exit status."""
        marked = MarkedCommand.of(command)
        with self._closing_on_error("end a command", timeout_s):
            received = self._opened().shell(
                marked.line, read_timeout_s=timeout_s, timeout_s=timeout_s, decode=False
            )
            return marked.result(received, self.name)

    def push(self, content: bytes, path: str, *, timeout_s: float) -> None:
        """Writes a file on the phone, readable and executable by the shell user."""
        device = self._opened()
        self._link.answer = answer = SyncAnswer()
        try:
            with self._closing_on_error(f"take {path}", timeout_s):
                try:
                    device.push(io.BytesIO(content), path, st_mode=_FILE_MODE, read_timeout_s=timeout_s)
                finally:
                    if answer.is_refusal:
                        self._link.hear_out(answer)
        except PhoneError:
            if not answer.is_refusal:
                raise
        finally:
            self._link.answer = None
        if answer.is_refusal:
            self.connect(timeout_s=timeout_s)
            words = answer.words or "no reason given"
            raise refused_file(self.serial, path, words)

    def pull(self, path: str, *, timeout_s: float) -> bytes:
        """Returns the contents of a file on the phone."""
        content = io.BytesIO()
        with self._closing_on_error(f"send {path}", timeout_s):
            try:
                self._opened().pull(path, content, read_timeout_s=timeout_s)
            except exceptions.AdbCommandFailureException as error:
                words = str(error).removeprefix("Command failed: ")
                raise MeasurementError(
                    f"The phone {self.serial} does not hand out the file {path}: {words}."
                ) from error
        return content.getvalue()

    def close(self) -> None:
        """Closes the connection; closing twice is harmless."""
        self._device = None
        self._link.close()

    def _opened(self) -> Any:
        if self._device is None:
            raise PhoneError(f"There is no connection to {self.name}; call connect first.")
        return self._device

    @contextlib.contextmanager
    def _closing_on_error(self, what: str, timeout_s: float) -> Iterator[None]:
        """Gives an operation its deadline; after an error, Ctrl-C too, nothing half done stays open."""
        self._link.begin(timeout_s)
        try:
            yield
        except PhoneError:
            self.close()
            raise
        except MeasurementError:
            raise
        except (OSError, exceptions.DeviceAuthError, *_TIMEOUTS, *_NO_ADB) as error:
            self.close()
            raise self._explain(error, what, timeout_s) from error
        except BaseException:
            self.close()
            raise

    def _explain(self, error: Exception, what: str, timeout_s: float) -> PhoneError:
        if isinstance(error, _TIMEOUTS):
            return PhoneTimeoutError(
                f"{self.name} did not {what} within {timeout_s:g} s; check that it is awake and connected, "
                "or allow more time."
            )
        if isinstance(error, _NO_ADB):
            if "STLS" in str(error):
                return PhoneError(
                    f"{self.name} is in wireless debugging (Android 11 and newer), whose encryption only "
                    "Google's adb speaks: run `adb pair` and `adb connect`, then use --transport server."
                )
            return PhoneError(
                f"What answers at {self.name} does not speak ADB; check the address and the port."
            )
        return PhoneError(
            f"The connection to {self.name} was lost ({error}); check the cable or the network, and that the "
            "phone has not restarted."
        )


class AdbTcp(AdbDirect):
    """A phone that listens on a TCP port: after `adb tcpip 5555`, an emulator, a test daemon."""

    def __init__(self, serial: str, *, keys: Sequence[Any] | None = None) -> None:
        """Takes an address; nothing is connected yet.

        Args:
            serial: HOST:PORT, or HOST for port 5555; an IPv6 address in brackets.
            keys: Signers of adb-shell; None loads those of `load_keys`.

        Raises:
            PhoneError: It is no address.
        """
        host, port = split_address(serial)
        super().__init__(serial, f"{serial} over TCP", TcpLink(host, port), keys)

    def _explain(self, error: Exception, what: str, timeout_s: float) -> PhoneError:
        if isinstance(error, ConnectionRefusedError):
            return PhoneError(
                f"Nothing listens on {self.serial} (connection refused); check the address, and run "
                "`adb tcpip 5555` with the phone on USB again if it has restarted."
            )
        if isinstance(error, socket.gaierror):
            return PhoneError(f"The host of {self.serial} is not known ({error.strerror}); check its name.")
        if isinstance(error, OSError) and not isinstance(error, (TimeoutError, ConnectionError)):
            return PhoneError(
                f"This computer does not reach {self.serial} ({error.strerror}); check that the phone is on "
                "and in the same network."
            )
        return super()._explain(error, what, timeout_s)


class AdbUsb(AdbDirect):
    """A phone on USB that no adb server holds."""

    def __init__(self, serial: str, *, keys: Sequence[Any] | None = None) -> None:
        """Takes a serial number; nothing is connected yet.

        Args:
            serial: As `adb devices` shows it.
            keys: Signers of adb-shell; None loads those of `load_keys`.
        """
        super().__init__(serial, f"{serial} over USB", UsbLink(serial), keys)
