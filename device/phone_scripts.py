"""What a phone's shell does for a workbench: fixed scripts, and taking apart what they print.

The scripts are for mksh, Android's shell, with toybox, and use nothing that another POSIX shell lacks. The
values of a script are assigned in front of it, quoted; nothing else is ever put into one.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import shlex
from collections.abc import Sequence

from amc_tf.device.benchmark_output import tool_words
from amc_tf.device.phone import Phone
from amc_tf.errors import MeasurementError

_TIMEOUT_S = 60.0

# $folder: every process of the tool has left its number in a file NAME.pid there.
_KILL = """
for file in "$folder"/*.pid; do
  pid=$(cat "$file")
  if tr '\\0' ' ' <"/proc/$pid/cmdline" | grep -qF "$folder"; then kill -9 "$pid"; fi
done 2>/dev/null
"""
# $root, $folder, $binary: empties the folder and prints the binary's hash.
PREPARE = f"""{_KILL}
find "$root" -maxdepth 1 -name 'run-*' -mtime +0 -exec rm -rf {{}} + 2>/dev/null
umask 077
rm -rf "$folder" && mkdir -p "$folder" || exit
if [ -f "$binary" ]; then sha256sum "$binary"; fi
true
"""
# $folder
REMOVE_FOLDER = f"""{_KILL}
rm -rf "$folder"
"""
# $root: prints its size in KiB. A session that was killed may have left fixed-performance mode on.
REMOVE_ALL = f"""
cmd power set-fixed-performance-mode-enabled false </dev/null >/dev/null 2>&1
[ -e "$root" ] || exit 0
for folder in "$root"/run-*; do {_KILL} done
du -sk "$root"
rm -rf "$root"
"""
# $path: prints its hash; Android before 6.0 has no sha256sum (127).
HASH = """
sha256sum "$path" || [ $? = 127 ]
"""
# $path
REMOVE_FILE = """
rm -f "$path"
"""
# $temporary, $binary
INSTALL = """
chmod 755 "$temporary" && mv -f "$temporary" "$binary"
"""
# The process that becomes the tool: it leaves its number, goes to its cores, and reads back where it may run.
_LAUNCH = """
cores() { sed -n '/^Cpus_allowed:/{s/^[^:]*:[[:space:],0]*//;s/,//g;p;}' /proc/$$/status; }
echo $$ >"$1" || exit
if [ -n "$2" ]; then taskset -p "$2" $$ >/dev/null 2>&1; fi
allowed=$(cores)
if [ -n "$2" ] && [ "$allowed" != "$2" ] && settaskprofile $$ MaxPerformance >/dev/null 2>&1; then
  allowed="$(cores) MaxPerformance"
fi
echo "$3 cores $allowed"
shift 3
exec "$@"
"""
# $folder, $token, $mask, $limit_s, $launch, and the command as the positional parameters.
_RUN = """
set -- sh -c "$launch" amc-tf "$folder/$token.pid" "$mask" "$token" "$@"
if command -v timeout >/dev/null; then set -- timeout -s KILL "$limit_s" "$@"; fi
"$@" 2>&1
code=$?
echo
echo "$token exit $code"
if [ -f "$folder/$token.pb" ]; then echo "$token result" $(base64 "$folder/$token.pb"); fi
rm -f "$folder/$token.pid" "$folder/$token.pb"
"""


@dataclasses.dataclass(frozen=True)
class RunOutput:
    """What comes back from a run of the tool, taken apart.

    Attributes:
        text: Standard output and standard error of the tool; of the shell, where the tool did not start.
        cores: The cores that the process read back, as a mask in hex, with " MaxPerformance" behind it where
            that task profile was set; "" where the phone does not tell; None where the tool did not start.
        exit_code: The tool's; None where the output ends before it.
        result_file: Contents of the result file; None where the tool wrote none.
    """

    text: str
    cores: str | None = None
    exit_code: int | None = None
    result_file: bytes | None = None

    @classmethod
    def parse(cls, text: str, token: str) -> RunOutput:
        """Takes apart what the script of `run_script` printed.

        Raises:
            MeasurementError: The result file did not arrive whole.
        """
        before, started, rest = text.partition(f"{token} cores")
        if not started:
            return cls(before.partition(f"\n{token} exit ")[0])
        cores, _, rest = rest.partition("\n")
        output, _, rest = rest.partition(f"\n{token} exit ")
        code = re.match(r"[0-9]{1,3}\n", rest)
        encoded = re.search(rf"^{token} result (.+)$", rest, re.MULTILINE)
        return cls(
            text=before + output,
            cores=cores.strip(),
            exit_code=int(code[0]) if code else None,
            result_file=_decoded(encoded[1]) if encoded else None,
        )


def run_script(words: Sequence[str], *, folder: str, token: str, mask: str, limit_s: int) -> str:
    """Returns the script that runs the tool; `RunOutput.parse` reads what it prints.

    Args:
        words: The tool's command line.
        folder: A folder on the phone.
        token: A word that is in no output of the tool. The tool may write its result file to FOLDER/TOKEN.pb.
        mask: The cores to run on, in hex as the kernel writes it, or "" for all.
        limit_s: After so many seconds the phone kills the tool, where it can (`timeout`).
    """
    values = {"folder": folder, "token": token, "mask": mask, "limit_s": str(limit_s), "launch": _LAUNCH}
    return f"{_assign(values)}set -- {shlex.join(words)}\n{_RUN}"


def run_on(phone: Phone, script: str, **values: str) -> str:
    """Runs one of this module's scripts and returns its output.

    Raises:
        PhoneError: The phone dropped out.
        MeasurementError: The script failed; the message has the phone's words.
    """
    answer = phone.script(_assign(values) + script, timeout_s=_TIMEOUT_S)
    if answer.exit_code != 0:
        raise MeasurementError(
            f"The phone {phone.serial} refuses to keep files for the benchmark: {tool_words(answer.output)}."
        )
    return answer.output


def hash_in(answer: str) -> str | None:
    """Returns the SHA-256 in what `sha256sum` printed, or None where it printed none."""
    found = re.search(r"^[0-9a-f]{64}\b", answer, re.MULTILINE)
    return found[0] if found else None


def _assign(values: dict[str, str]) -> str:
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError as error:
        raise MeasurementError("The benchmark's result file arrived damaged; measure again.") from error
