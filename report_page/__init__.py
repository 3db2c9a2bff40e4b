"""The look of the report: a Jinja template with its style and script beside it, which all go into one HTML page.

Every text is escaped by the template engine. Paths become links relative to the page, which lies one level below the
data root.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

UNKNOWN = "\N{EN DASH}"


def render_page(content: Mapping[str, Any]) -> str:
    """Render the report.

    Parameters
    ----------
    content
        What the template names; see `report.report_content`.

    Returns
    -------
    str
        HTML.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "link": link,
        "duration": duration,
        "size": size,
        "percent": percent,
        "plain": lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
    }
    return environment.get_template("page.html").render(content)


def link(path: str) -> str:
    """The URL of a path in the data root, relative to the page."""
    return f"../{quote(path, errors='surrogateescape')}"


def duration(seconds: float | None) -> str:
    """A time in the units that people use: '0.42 s', '1 min 05 s', '2 h 10 min'."""
    if seconds is None:
        return "unknown"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(number: float | None) -> str:
    """Bytes in decimal units: '661 MB'; a dash where they are unknown."""
    if not number:
        return UNKNOWN
    return f"{number / 1e9:.2f} GB" if number >= 0.9995e9 else f"{number / 1e6:.0f} MB"


def percent(share: float | None) -> str:
    """A share as '1.23 %'; a dash for None."""
    return UNKNOWN if share is None else f"{100 * share:.3g} %"
