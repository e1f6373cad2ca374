"""Addresses, deadlines, and refusals in the middle of a push."""

import socket
import time
from collections.abc import Iterator

import pytest

from amc_tf.device import adb_link, transport
from amc_tf.device.adb_link import SyncAnswer, TcpLink, split_address
from amc_tf.errors import PhoneError


def packet(command: bytes, data: bytes = b"", *, stream: int = 2) -> bytes:
    return command + bytes([stream] * 8) + len(data).to_bytes(4, "little") + bytes(8) + data


REFUSAL = b"FAIL\x09\x00\x00\x00disk full"
HEARD = (
    packet(b"OKAY") + packet(b"WRTE", REFUSAL) + packet(b"OKAY"),
    packet(b"WRTE", REFUSAL[:8]) + packet(b"OKAY") + packet(b"WRTE", REFUSAL[8:]) + packet(b"CLSE"),
)


@pytest.mark.parametrize("heard", HEARD)
@pytest.mark.parametrize("piece", [1, 7, 24, 1000])
def test_a_refusal_is_heard_in_any_pieces(heard: bytes, piece: int) -> None:
    answer = SyncAnswer()
    for start in range(0, len(heard), piece):
        answer.hear(heard[start : start + piece])
    assert answer.is_refusal
    assert answer.words == "disk full"


def test_a_refusal_may_end_before_its_words() -> None:
    answer = SyncAnswer()
    answer.hear(packet(b"WRTE", REFUSAL[:8]))
    assert answer.is_refusal
    assert not answer.is_closed
    assert answer.words == ""
    answer.hear(packet(b"CLSE"))
    assert answer.is_closed


def test_the_end_of_an_earlier_command_is_not_the_end_of_a_refusal() -> None:
    answer = SyncAnswer()
    late = packet(b"CLSE", stream=1)
    answer.hear(late + packet(b"WRTE", REFUSAL[:8]) + late)
    assert not answer.is_closed
    answer.hear(packet(b"WRTE", REFUSAL[8:]) + packet(b"CLSE"))
    assert answer.is_closed
    assert answer.words == "disk full"


def test_an_answer_that_takes_the_file_is_no_refusal() -> None:
    answer = SyncAnswer()
    answer.hear(packet(b"OKAY") + packet(b"WRTE", b"OKAY\0\0\0\0"))
    assert not answer.is_refusal


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:5600", "127.0.0.1", 5600),
        ("pixel.local", "pixel.local", 5555),
        ("[::1]:5556", "::1", 5556),
        ("[fe80::1]", "fe80::1", 5555),
        ("fe80::1", "fe80::1", 5555),
    ],
)
def test_addresses_are_host_and_port(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address", ["", ":5555", "host:", "host:x", "host:0", "host:65536", "host:-1", "h:²"]
)
def test_what_is_no_address_is_named_with_an_example(address: str) -> None:
    with pytest.raises(PhoneError, match=r"no address of a phone; write HOST:PORT, such as"):
        split_address(address)


class Pair:
    """A TcpLink and the socket at its other end."""

    def __init__(self) -> None:
        server = socket.create_server(("127.0.0.1", 0))
        self.link = TcpLink("127.0.0.1", server.getsockname()[1])
        self.link.deadline = time.monotonic() + 5
        self.link.connect(None)
        self.other = server.accept()[0]
        server.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.link.close()
    pair.other.close()


def test_the_end_of_a_tcp_connection_is_an_error_at_once(pair: Pair) -> None:
    pair.other.close()
    with pytest.raises(ConnectionResetError, match="the other side closed it"):
        pair.link.bulk_read(24, 60.0)


def test_nothing_is_read_or_written_after_the_deadline(pair: Pair) -> None:
    pair.other.sendall(b"x")
    pair.link.deadline = time.monotonic() - 1
    with pytest.raises(TimeoutError, match="the time is up"):
        pair.link.bulk_read(1, 60.0)
    with pytest.raises(TimeoutError, match="the time is up"):
        pair.link.bulk_write(b"x", 60.0)


def test_what_is_received_without_end_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 10)
    pair.other.sendall(bytes(22))
    for _ in range(2):  # each operation counts anew
        pair.link.begin(5.0)
        pair.link.bulk_read(10, 60.0)
    with pytest.raises(PhoneError, match="in answer to one command"):
        pair.link.bulk_read(1, 60.0)


def test_what_a_phone_says_without_end_while_a_file_is_sent_is_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 10)
    pair.link.answer = SyncAnswer()
    pair.other.sendall(bytes(11))
    pair.link.begin(5.0)
    pair.link.bulk_read(10, 60.0)
    with pytest.raises(PhoneError, match="in answer to one command"):
        pair.link.bulk_read(1, 60.0)


def test_more_than_a_socket_takes_at_once_is_written_or_is_late(pair: Pair) -> None:
    pair.link.deadline = time.monotonic() + 0.2
    with pytest.raises(TimeoutError):  # nobody reads: adb-shell's own socket would lose the rest in silence
        pair.link.bulk_write(bytes(64_000_000), 60.0)


def test_a_phone_that_refuses_a_file_is_heard_out(pair: Pair) -> None:
    pair.link.answer = answer = SyncAnswer()
    pair.other.sendall(packet(b"WRTE", REFUSAL[:8]))
    pair.link.bulk_read(32, 60.0)
    pair.other.sendall(packet(b"WRTE", REFUSAL[8:]) + packet(b"CLSE"))
    pair.link.hear_out(answer)
    assert answer.is_closed
    assert answer.words == "disk full"


def test_a_phone_that_refuses_a_file_is_not_waited_for_long(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_link, "_HEAR_OUT_TIMEOUT_S", 0.05)
    pair.link.answer = answer = SyncAnswer()
    answer.hear(packet(b"WRTE", REFUSAL))
    pair.link.deadline = time.monotonic() + 1000
    with pytest.raises(TimeoutError):
        pair.link.bulk_read(24, 60.0)
    pair.link.hear_out(answer)
    assert not answer.is_closed


def test_a_closed_link_says_so() -> None:
    link = TcpLink("127.0.0.1", 1)
    link.close()
    link.deadline = time.monotonic() + 5
    with pytest.raises(ConnectionResetError, match="it is closed"):
        link.bulk_read(1, None)
