"""A phone behind a transport: what is sent, and what is made of answers and failures."""

import pytest

from amc_tf.device.phone import Conditions, Core, Phone
from amc_tf.errors import MeasurementError, PhoneError, PhoneTimeoutError
from tests.fake_phone import Call, FakePhoneTransport, ScriptedTransport


def scripted(*calls: Call) -> tuple[Phone, ScriptedTransport]:
    transport = ScriptedTransport(*calls)
    return Phone(transport, connect_timeout_s=7.0), transport


def test_every_word_of_a_command_is_quoted() -> None:
    line = r"""ls -l 'a b' '$(reboot)' ';' '' 'it'"'"'s'"""
    phone, transport = scripted(Call("connect"), Call("shell", line, "x"))
    with transport:
        assert phone.shell("ls", "-l", "a b", "$(reboot)", ";", "", "it's", timeout_s=3.0).stdout == "x"
    assert transport.timeouts_s == [7.0, 3.0]


def test_the_time_for_a_push_grows_with_the_file() -> None:
    phone, transport = scripted(Call("connect"), Call("push", "/data/x", content=bytes(5_000_000)))
    with transport:
        phone.push(bytes(5_000_000), "/data/x")
    assert transport.timeouts_s[1] == pytest.approx(40.0)


def test_a_phone_is_connected_and_closed_by_with() -> None:
    phone, transport = scripted(Call("connect"), Call("connect"), Call("shell", "ls", "abc"), Call("close"))
    with transport, phone:
        assert phone.shell("ls").stdout == "abc"


def test_a_phone_that_dropped_out_is_connected_again_by_the_next_question() -> None:
    transport = FakePhoneTransport()
    phone = Phone(transport)
    phone.conditions()
    transport.drop_out(refused_connects=1)
    with pytest.raises(PhoneError, match="cannot be reached"):
        phone.conditions()
    assert phone.conditions().battery_c == 28.5
    assert transport.connects == 2


def test_info_is_one_round_trip_and_asked_once() -> None:
    transport = FakePhoneTransport("39061FDJH00ABC")
    phone = Phone(transport)
    info = phone.info()
    assert phone.info() is info
    assert len(transport.commands) == 1
    assert (info.serial, info.name, info.soc) == ("39061FDJH00ABC", "Google Pixel 8", "Google Tensor G3")
    assert (info.android_version, info.sdk, info.abi) == ("14", 34, "arm64-v8a")
    assert info.abis == ("arm64-v8a", "armeabi-v7a", "armeabi")
    assert info.cores[8] == Core(8, 2_914_000)


def test_another_phone_at_the_same_address_is_not_taken_for_the_first() -> None:
    transport = FakePhoneTransport("192.168.1.20:5555")
    phone = Phone(transport)
    phone.recognise()
    assert transport.commands == []
    info = phone.info()
    phone.recognise()
    transport.properties["ro.build.fingerprint"] = "google/shiba:15"
    for _ in range(2):
        with pytest.raises(PhoneError, match=r"20:5555 has come back as another one than Google Pixel 8"):
            phone.recognise()
    assert phone.info() is info


def test_what_does_not_answer_like_android_is_an_error() -> None:
    transport = FakePhoneTransport()
    transport.on("getprop", lambda _: "sh: getprop: not found\n")
    with pytest.raises(MeasurementError, match="must run Android, but answers: sh: getprop: not found"):
        Phone(transport).info()


def test_conditions_are_asked_anew_each_time() -> None:
    transport = FakePhoneTransport()
    phone = Phone(transport)
    assert phone.conditions() == Conditions(28.5, 88, 0, True, True)
    transport.battery_tenths_c, transport.thermal_status, transport.wakefulness = 401, None, "Asleep"
    assert phone.conditions() == Conditions(40.1, 88, None, False, True)
    assert len(transport.commands) == 2


def test_what_dropped_out_while_it_was_asked_can_be_asked_again() -> None:
    transport = FakePhoneTransport()
    phone = Phone(transport)

    def drop_out(_: object) -> str:
        raise PhoneTimeoutError("The phone A1 did not end a command within 30 s.")

    transport.on("reboot", drop_out)
    with pytest.raises(PhoneTimeoutError, match="within 30 s"):
        phone.shell("reboot")
    assert phone.shell("uptime").exit_code == 127
    assert transport.connects == 2
