"""What a phone tells of itself: which phone it is, its cores, and how it is at the moment.

Each of the two scripts is one round trip. Whatever a phone answers is data: it is cut short, stripped of
control characters, and never evaluated. What it does not tell is empty, 0 or None.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

_LONGEST_VALUE = 200  # characters
_MOST_CORES = 1024
_UNKNOWN = ("", "unknown")
_SECTION = "--- amc-tf "

_PROPERTIES = (
    "ro.product.manufacturer", "ro.product.model", "ro.soc.manufacturer", "ro.soc.model",
    "ro.hardware.chipname", "ro.board.platform", "ro.build.version.release", "ro.build.version.sdk",
    "ro.product.cpu.abi", "ro.product.cpu.abilist", "ro.build.fingerprint", "ro.serialno",
)  # fmt: skip
# A core that is off may have no cpufreq folder, but its cluster's lists it; `present` has all cores.
INFO_SCRIPT = f"""
for name in {" ".join(_PROPERTIES)}; do echo "{_SECTION}$name"; getprop "$name"; done
echo "{_SECTION}boot"; cat /proc/sys/kernel/random/boot_id 2>/dev/null
cd /sys/devices/system/cpu && {{
  echo "{_SECTION}present"; cat present
  echo "{_SECTION}clusters"
  for folder in cpufreq/policy*; do echo "$(cat $folder/cpuinfo_max_freq):$(cat $folder/related_cpus)"; done
  echo "{_SECTION}cores"
  for folder in cpu[0-9]*; do echo "$(cat $folder/cpufreq/cpuinfo_max_freq):${{folder#cpu}}"; done
}} 2>/dev/null
true
"""
CONDITIONS_SCRIPT = f"""
screen='Display Power: state=|mWakefulness=|mScreenOn=|mScreenState=|mGlobalDisplayState='
echo '{_SECTION}battery'; dumpsys battery
echo '{_SECTION}thermal'; dumpsys thermalservice
echo '{_SECTION}screen'; dumpsys power | grep -E "$screen" || dumpsys display | grep -E "$screen"
true
"""


@dataclasses.dataclass(frozen=True)
class Core:
    """One core of a phone's processor.

    Attributes:
        index: Its number, from 0.
        max_khz: Highest clock that it can reach, in kHz; 0 where the phone does not tell.
    """

    index: int
    max_khz: int


@dataclasses.dataclass(frozen=True)
class PhoneInfo:
    """Which phone it is; nothing in it changes while the phone is used.

    Attributes:
        serial: What selects it: serial number or HOST:PORT.
        manufacturer: As the phone spells it: "Google", "samsung".
        model: "Pixel 8", "SM-S911B".
        soc: Maker and model of the system on a chip: "Google Tensor G3"; on old Androids a platform's name.
        android_version: "14".
        sdk: Android's API level, such as 34; 0 if unknown.
        abi: The best ABI: "arm64-v8a".
        abis: All ABIs, best first.
        build_fingerprint: Names the exact build of Android.
        cores: By index; empty where the phone does not tell.
        unit: Tells it from every other phone, however it is reached: the serial number of the hardware, which
            cheap phones share, and the number of its last start. Empty where it tells neither.
    """

    serial: str
    manufacturer: str
    model: str
    soc: str
    android_version: str
    sdk: int
    abi: str
    abis: tuple[str, ...]
    build_fingerprint: str
    cores: tuple[Core, ...]
    unit: str = ""

    @property
    def name(self) -> str:
        """For people: "Google Pixel 8"."""
        if self.model.casefold().startswith(self.manufacturer.casefold()):
            return self.model or self.serial
        return f"{self.manufacturer} {self.model}".strip()

    @property
    def clusters(self) -> tuple[tuple[Core, ...], ...]:
        """The cores in groups of equal maximum clock, the fastest group first."""
        ordered = sorted(self.cores, key=lambda core: (-core.max_khz, core.index))
        return tuple(tuple(group) for _, group in itertools.groupby(ordered, lambda core: core.max_khz))

    def cores_for(self, num_threads: int) -> tuple[int, ...]:
        """Returns the fastest cores on which so many threads each have one, in whole clusters.

        At least two: a prime core alone would have to be shared with whatever else Android puts there. Cores
        of unknown clock are taken only where no clock is known.

        Args:
            num_threads: Threads of one inference; 1 or more.

        Returns:
            Indexes in rising order; all cores if there are fewer than threads.
        """
        chosen: list[int] = []
        for cluster in self.clusters:
            if len(chosen) >= max(num_threads, 2) or (chosen and not cluster[0].max_khz):
                break
            chosen += [core.index for core in cluster]
        return tuple(sorted(chosen))

    def identity(self) -> dict[str, Any]:
        """Returns what measurements depend on, as JSON values: equal for two phones of one model and build.

        What tells one phone from another is not in it, nor are the cores: they follow from the model, and a
        phone may hide those that it has switched off.
        """
        record = dataclasses.asdict(self)
        del record["serial"], record["cores"], record["unit"]
        return {**record, "abis": list(self.abis)}


@dataclasses.dataclass(frozen=True)
class Conditions:
    """How a phone is at one moment; None stands for what it does not tell.

    Attributes:
        battery_c: Temperature of the battery, in degrees Celsius.
        battery_percent: Charge of the battery, 0 to 100.
        thermal_status: Android's, 0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown;
            Android 10 and later.
        screen_on: Whether the display is on; a clock on a dozing display is not "on".
        charging: Whether power comes in: from mains, USB, a pad or a dock.
    """

    battery_c: float | None
    battery_percent: int | None
    thermal_status: int | None
    screen_on: bool | None
    charging: bool | None


def core_mask(cores: tuple[int, ...]) -> str:
    """Returns core numbers as `taskset` takes them, in hex; empty for none."""
    return f"{sum(1 << core for core in set(cores)):x}" if cores else ""


def clean(text: str) -> str:
    """Returns a phone's words as one short line without control characters, fit for terminals and HTML."""
    line = " ".join(text[: 10 * _LONGEST_VALUE].split())
    return "".join(character for character in line if character.isprintable())[:_LONGEST_VALUE].strip()


def parse_info(output: str, serial: str) -> PhoneInfo:
    """Reads what `INFO_SCRIPT` printed.

    Args:
        output: Its output, whole or in part.
        serial: What selects the phone.
    """
    sections = _sections(output)
    values = {name: _known(sections.get(name, "")) for name in _PROPERTIES}
    abis = tuple(filter(None, map(clean, values["ro.product.cpu.abilist"].split(","))))
    abi = values["ro.product.cpu.abi"] or (abis[0] if abis else "")
    sdk = values["ro.build.version.sdk"]
    return PhoneInfo(
        serial=serial,
        manufacturer=values["ro.product.manufacturer"],
        model=values["ro.product.model"],
        soc=_soc(values),
        android_version=values["ro.build.version.release"],
        sdk=int(sdk) if re.fullmatch(r"[0-9]{1,4}", sdk) else 0,
        abi=abi,
        abis=abis or ((abi,) if abi else ()),
        build_fingerprint=values["ro.build.fingerprint"],
        cores=_cores(sections),
        unit=f"{values['ro.serialno']} {_known(sections.get('boot', ''))}".strip(),
    )


def parse_conditions(output: str) -> Conditions:
    """Reads what `CONDITIONS_SCRIPT` printed, of any version of Android."""
    sections = _sections(output)
    battery, thermal = sections.get("battery", ""), sections.get("thermal", "")
    has_battery = not re.search(r"^[ \t]*present: false", battery, re.MULTILINE)
    tenths = _number(r"^[ \t]*temperature: (-?[0-9]{1,5})\b", battery) if has_battery else None
    level = _number(r"^[ \t]*level: ([0-9]{1,5})\b", battery) if has_battery else None
    scale = _number(r"^[ \t]*scale: ([0-9]{1,5})\b", battery) or 100
    powered = re.findall(r"^[ \t]*\w+ powered: (true|false)", battery, re.MULTILINE)
    status = _number(r"^[ \t]*Thermal Status: ([0-6])\b", thermal)
    return Conditions(
        battery_c=None if tenths is None else tenths / 10,
        battery_percent=None if level is None or level > scale else round(100 * level / scale),
        thermal_status=None if "HAL Ready: false" in thermal else status,
        screen_on=_screen_on(sections.get("screen", "")),
        charging="true" in powered if powered else None,
    )


def _sections(output: str) -> dict[str, str]:
    """Returns the text of each section by its name."""
    parts = re.split(rf"^{re.escape(_SECTION)}([\w.]+)\r?\n", output, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _known(text: str) -> str:
    value = clean(text)
    return "" if value.casefold() in _UNKNOWN else value


def _soc(values: dict[str, str]) -> str:
    maker, model = values["ro.soc.manufacturer"], values["ro.soc.model"]
    if model:
        return model if model.casefold().startswith(maker.casefold()) else f"{maker} {model}"
    return values["ro.hardware.chipname"] or values["ro.board.platform"]


def _cores(sections: dict[str, str]) -> tuple[Core, ...]:
    """Returns all cores that the phone has, those that are off too."""
    clocks = dict.fromkeys(_core_list(sections.get("present", "")), 0)
    for name in ("clusters", "cores"):
        for line in sections.get(name, "").splitlines():
            match = re.fullmatch(r"([0-9]{1,9}):([0-9 ]{1,4000})", line.strip())
            if match:
                clocks.update(dict.fromkeys(map(int, re.findall(r"\b[0-9]{1,4}\b", match[2])), int(match[1])))
    return tuple(Core(index, clocks[index]) for index in sorted(clocks) if index < _MOST_CORES)


def _core_list(text: str) -> list[int]:
    """Returns the numbers in a kernel's list such as "0-3,6"."""
    ranges = re.findall(r"\b([0-9]{1,4})(?:-([0-9]{1,4}))?\b", clean(text))
    return [core for first, last in ranges for core in range(int(first), int(last or first) + 1)]


def _number(pattern: str, text: str) -> int | None:
    match = re.search(pattern, text, re.MULTILINE)
    return int(match[1]) if match else None


def _screen_on(text: str) -> bool | None:
    """Tells from the display's own state, else from whether the phone is awake."""
    states = re.findall(r"(?:Display Power: state|mScreenOn|mScreenState|mGlobalDisplayState)=(\w+)", text)
    if states:
        return any(state in ("ON", "true") for state in states)
    wakefulness = re.search(r"\bmWakefulness=(\w+)", text)
    return wakefulness[1] in ("Awake", "Dreaming") if wakefulness else None
