"""The flags of a run as a TOML file: read for `--config`, written beside what the run has made.

skip_steps = ["plot"]
parallel = 0.5
background_subtract = "both"

[step_kwargs.stage1.jump]
rejection_threshold = 5.0
"""

import difflib
import json
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from errors import OptionError


def read_settings(path: str | Path, known: Collection[str], ignored: Collection[str] = ()) -> dict[str, Any]:
    """The settings of a file, named as flags are in Python (`skip_steps`).

    Parameters
    ----------
    path
        The TOML file. Names may be written with `-`.
    known
        Names that there are.
    ignored
        Names that may be there and are passed over.

    Raises
    ------
    OptionError
        If the file can not be read or is no TOML, or a name is unknown (with the nearest that is known).
    """
    try:
        content = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"--config: {path} can not be read ({error.strerror}).") from error
    except ValueError as error:
        raise OptionError(f"--config: {path} is no TOML ({error}).") from error
    settings = {name.replace("-", "_"): value for name, value in content.items() if name not in ignored}
    for name in settings:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)[0]
            raise OptionError(f"--config: {path} has {name!r}, which is no setting; did you mean {nearest!r}?")
    return settings


def format_settings(settings: Mapping[str, Any]) -> str:
    """Settings as TOML that `read_settings` reads; None stands for what was not given and is left out."""
    lines = [f"{name} = {_toml(value)}" for name, value in settings.items() if value is not None]
    return "\n".join(["# Given to --config, this file repeats the run.", *lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        items = (f"{_toml(str(name))} = {_toml(item)}" for name, item in value.items() if item is not None)
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool | int | float):
        # TOML spells them as JSON does, but for infinities.
        return json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")
    return json.dumps(str(value), ensure_ascii=False)
