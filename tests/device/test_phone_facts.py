"""What phones answer, from Android 5 to 15 and worse, and what is made of it."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc_tf.device.phone_facts import (
    Conditions,
    Core,
    PhoneInfo,
    clean,
    core_mask,
    parse_conditions,
    parse_info,
)

BATTERY = """--- amc-tf battery
Current Battery Service state:
  AC powered: false
  USB powered: {usb}
  Wireless powered: false
  Max charging current: 500000
  status: 2
  health: 2
  present: {present}
  level: 88
  scale: 100
  voltage: 4200
  temperature: 285
  technology: Li-ion
"""
THERMAL = """--- amc-tf thermal
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=38.1, mType=0, mName=AP, mStatus=0}}
HAL Ready: {ready}
"""


def conditions(*, usb="true", present="true", thermal="", screen="") -> Conditions:
    text = BATTERY.format(usb=usb, present=present)
    return parse_conditions(f"{text}--- amc-tf thermal\n{thermal}\n--- amc-tf screen\n{screen}\n")


def phone(*clocks_khz: int, **changes: object) -> PhoneInfo:
    cores = tuple(Core(index, clock) for index, clock in enumerate(clocks_khz))
    usual = PhoneInfo("A1", "Google", "Pixel 8", "Tensor", "14", 34, "arm64-v8a", ("arm64-v8a",), "f", cores)
    return dataclasses.replace(usual, **changes)


def answer(cores: str = "", **properties: str) -> str:
    named = {f"ro.{name.replace('__', '.')}": value for name, value in properties.items()}
    return "".join(f"--- amc-tf {name}\n{value}\n" for name, value in named.items()) + cores


def test_conditions_of_a_phone_with_android_14() -> None:
    text = BATTERY.format(usb="true", present="true") + THERMAL.format(status=2, ready="true")
    found = parse_conditions(f"{text}--- amc-tf screen\n  mWakefulness=Awake\n")
    assert found == Conditions(28.5, 88, 2, True, True)


def test_line_ends_of_a_terminal_change_nothing() -> None:
    text = BATTERY.format(usb="true", present="true") + THERMAL.format(status=2, ready="true")
    assert parse_conditions(text.replace("\n", "\r\n")) == parse_conditions(text)


@pytest.mark.parametrize(
    "thermal",
    [
        "Can't find service: thermalservice",  # before Android 10
        "Permission Denial: can't dump thermalservice from pid=12, uid=2000",
        THERMAL.format(status=0, ready="false"),
        "Thermal Status: 9",
        "",
    ],
)
def test_a_thermal_status_that_the_phone_does_not_know_is_none(thermal: str) -> None:
    assert conditions(thermal=thermal).thermal_status is None


def test_a_tablet_without_a_battery_has_no_temperature() -> None:
    found = conditions(present="false")
    assert (found.battery_c, found.battery_percent) == (None, None)


@pytest.mark.parametrize(("usb", "charging"), [("true", True), ("false", False)])
def test_power_over_usb_is_charging(usb: str, charging: bool) -> None:
    assert conditions(usb=usb).charging is charging


@pytest.mark.parametrize(
    ("screen", "is_on"),
    [
        ("  mWakefulness=Awake\nDisplay Power: state=ON", True),  # Android 5 to 11
        ("  mWakefulness=Asleep\nDisplay Power: state=OFF", False),
        ("  mWakefulness=Dozing\nDisplay Power: state=DOZE_SUSPEND", False),  # a clock on a dozing display
        ("  mWakefulness=Awake", True),  # Android 12 and later
        ("  mWakefulness=Dreaming", True),
        ("  mWakefulness=Dozing", False),
        ("  mWakefulness=Asleep", False),
        ("  mScreenState=OFF\n  mScreenState=ON", True),  # the second display of a foldable phone
        ("  mGlobalDisplayState=OFF", False),
        ("  mScreenOn=true", True),
        ("", None),
        ("Can't find service: power", None),
    ],
)
def test_the_screen_is_on_when_a_display_is(screen: str, is_on: bool | None) -> None:
    assert conditions(screen=screen).screen_on is is_on


def test_a_phone_that_says_nothing_has_no_conditions() -> None:
    assert parse_conditions("") == Conditions(None, None, None, None, None)


@given(st.text(alphabet="--- amctfbterylvschd:=\n\r\t019\x1b", max_size=300))
def test_no_answer_makes_the_parsers_fail(text: str) -> None:
    parse_conditions(BATTERY + text)
    parse_info(answer(product__model="X") + text, "A1")


def test_the_chip_is_named_by_maker_and_model_or_by_its_platform() -> None:
    new = answer(soc__manufacturer="QTI", soc__model="SM8550", board__platform="kalama")
    old = answer(soc__manufacturer="", soc__model="unknown", hardware__chipname="", board__platform="msm8996")
    samsung = answer(hardware__chipname="exynos2200", board__platform="universal2200")
    assert [parse_info(text, "A1").soc for text in (new, old, samsung)] == [
        "QTI SM8550",
        "msm8996",
        "exynos2200",
    ]


def test_a_maker_is_not_named_twice() -> None:
    names = [("HUAWEI", "HUAWEI P30"), ("samsung", "SM-S911B"), ("", "sdk_gphone64"), ("", "")]
    texts = [answer(product__manufacturer=maker, product__model=model) for maker, model in names]
    assert [parse_info(text, "A1").name for text in texts] == [
        "HUAWEI P30", "samsung SM-S911B", "sdk_gphone64", "A1"
    ]  # fmt: skip


def test_the_abi_is_the_first_of_the_list_where_it_has_no_property_of_its_own() -> None:
    info = parse_info(answer(product__cpu__abilist="armeabi-v7a,armeabi"), "A1")
    assert (info.abi, info.abis) == ("armeabi-v7a", ("armeabi-v7a", "armeabi"))


def test_a_preview_of_android_may_have_no_number() -> None:
    info = parse_info(answer(build__version__release="VanillaIceCream", build__version__sdk="x"), "A1")
    assert (info.android_version, info.sdk) == ("VanillaIceCream", 0)


def test_cores_that_are_off_are_known_from_their_cluster() -> None:
    cores = (
        "--- amc-tf present\n0-5\n"
        "--- amc-tf clusters\n1804800:0 1 2 3\n:\n"
        "--- amc-tf cores\n1804800:0\n1804800:1\n:2\n:3\n2841600:4\n:5\n"
    )
    info = parse_info(answer(cores), "A1")
    assert [core.max_khz for core in info.cores] == [1804800] * 4 + [2841600, 0]
    assert info.cores_for(1) == (0, 1, 2, 3, 4)


def test_a_phone_that_hides_its_clocks_runs_on_all_cores() -> None:
    info = parse_info(answer("--- amc-tf present\n0-3,6\n"), "A1")
    assert info.cores_for(1) == (0, 1, 2, 3, 6)
    assert core_mask(parse_info("", "A1").cores_for(1)) == ""


@pytest.mark.parametrize(
    ("clocks_khz", "mask"),
    [
        ([1800] * 4 + [2800] * 4, "f0"),
        ([2800] * 2 + [1800] * 2, "3"),
        ([1800] * 4 + [2400] * 3 + [2800], "f0"),  # one prime core takes the next cluster with it
        ([1800] * 4 + [2250] * 2 + [2800] * 2, "c0"),
        ([2000] * 8, "ff"),
        ([2000], "1"),
    ],
)
def test_the_big_cores_are_the_fastest_cluster_and_at_least_two(clocks_khz: list[int], mask: str) -> None:
    assert core_mask(phone(*clocks_khz).cores_for(1)) == mask


def test_more_threads_take_more_whole_clusters() -> None:
    info = phone(*[1800] * 4, *[2250] * 2, *[2800] * 2)
    found = [info.cores_for(threads) for threads in (1, 2, 3, 4, 5, 16)]
    assert found == [(6, 7), (6, 7), (4, 5, 6, 7), (4, 5, 6, 7), tuple(range(8)), tuple(range(8))]
    assert core_mask(info.cores_for(3)) == "f0"


def test_two_phones_of_one_model_and_build_share_an_identity() -> None:
    one, other = phone(1800, 2800), phone(1800, 2800, serial="B2")
    assert one.identity() == other.identity() != phone(model="Pixel 9").identity()
    assert "A1" not in str(one.identity())


def test_phones_of_one_serial_number_are_told_apart_by_their_last_start() -> None:
    texts = [
        answer(f"--- amc-tf boot\n{boot}\n", serialno="0123456789ABCDEF") for boot in ("4f-a1", "77-b2", "")
    ]
    infos = [parse_info(text, serial) for text, serial in zip(texts, "ABC", strict=True)]
    assert [info.unit for info in infos] == [
        "0123456789ABCDEF 4f-a1",
        "0123456789ABCDEF 77-b2",
        "0123456789ABCDEF",
    ]
    assert infos[0].identity() == infos[1].identity()
    assert parse_info("", "A").unit == ""


def test_what_a_phone_says_is_stripped_of_control_characters_and_cut_short() -> None:
    assert clean(" Pixel\x1b[2J\x07\u202e 8\n\x00pro\u2028 ") == "Pixel[2J 8 pro"
    assert len(clean("x" * 10_000)) == 200
    info = parse_info(answer(product__model="\x1b]0;owned\x07<script>"), "A1")
    assert info.model == "]0;owned<script>"
