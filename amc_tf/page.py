"""What the HTML pages share: how they are rendered, and how numbers are written on them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe

_NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


def environment() -> jinja2.Environment:
    """Returns what pages are rendered with: text is escaped, a missing value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("amc_tf", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({"unbroken": unbroken, "breakable": breakable})
    return environment


def unbroken(text: str) -> str:
    """Keeps each number on one line with its unit, and with the arrow behind both."""
    return re.sub(r"(?<=\d) (?=[%×]|[kMG]?B\b|[kMG]\b|ms\b|points\b)| (?=→)", _NO_BREAK_SPACE, text)


def breakable(text: str) -> markupsafe.Markup:
    """Lets a name in dots and underscores go on in the next line behind one of them; escapes it first."""
    return markupsafe.Markup(re.sub(r"([._/])(?=[A-Za-z])", r"\1<wbr>", str(markupsafe.escape(text))))


def percent(fraction: float) -> str:
    """Writes a fraction as a percentage with one decimal."""
    return f"{100 * fraction:.1f} %"


def part_of(value: float, base: float) -> str:
    """Writes how much of a base a value is."""
    return f"{value / base:.2f} ×"


def signed(points: float) -> str:
    """Writes a difference in points with its sign and one decimal."""
    rounded = round(points, 1)
    return "±0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", "−")


def quantity(value: float) -> str:
    """Writes a number with three digits and k, M or G (powers of 1000)."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.{2 if value < 10 * size else 1 if value < 100 * size else 0}f} {unit}"
    return f"{value:g} "


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Writes nested JSON values as text by dotted names."""
    lines: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            lines |= flatten(value, f"{prefix}{name}.")
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            lines[f"{prefix}{name}"] = ", ".join(map(str, shown)) if isinstance(shown, list) else str(shown)
    return lines
