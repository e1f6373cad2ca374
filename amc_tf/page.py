"""What the HTML pages share: how they are rendered, and how numbers are written on them."""

from __future__ import annotations

import jinja2


def environment() -> jinja2.Environment:
    """Returns what pages are rendered with: text is escaped, a missing value is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("amc_tf", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def percent(fraction: float) -> str:
    """Writes a fraction as a percentage with one decimal."""
    return f"{100 * fraction:.1f} %"


def part_of(value: float, base: float) -> str:
    """Writes how much of a base a value is."""
    return f"{value / base:.2f} ×"


def quantity(value: float) -> str:
    """Writes a number with three digits and k, M or G (powers of 1000)."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.{2 if value < 10 * size else 1 if value < 100 * size else 0}f} {unit}"
    return f"{value:g} "
