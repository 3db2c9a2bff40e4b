"""How much memory there is for tasks: what the machine has left, and what a container or batch job is allowed."""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from errors import OptionError

# Estimates of tasks are not exact, and the rest of the machine wants to live.
MEMORY_SHARE = 0.8
UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def parse_bytes(size: str | float) -> float:
    """A number of bytes written as '16GB', '512 MB', '16GiB' or as a number.

    Raises
    ------
    OptionError
        If it is none, or not above 0.
    """
    match = re.fullmatch(r"([0-9.]+(?:e\d+)?)\s*([KMGT]I?)?B?", str(size).strip().upper().replace("E", "e"))
    try:
        value = float(match[1]) * UNITS[match[2] or ""]
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < math.inf:
        raise OptionError(f"{size!r} is no amount of memory; write '16GB' or '500MB'.")
    return value


def memory_budget(limit: float | None = None) -> float:
    """Bytes that tasks may need together: most of what is available now, and no more than `limit`."""
    budget = MEMORY_SHARE * min(psutil.virtual_memory().available, available_in_cgroup())
    return budget if limit is None else min(budget, limit)


def available_in_cgroup(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float:
    """Bytes that this process's control groups (Linux, version 1 and 2) still allow; infinite where there is no limit.

    Parameters
    ----------
    cgroups
        Where the control groups are mounted.
    own
        The file that names those of this process.

    Notes
    -----
    What is used counts without the inactive part of the page cache, which the kernel gives back at need, as `docker
    stats` and Kubernetes count it. Limits of all groups above hold too.
    """
    available = math.inf
    for group, (limit_name, used_name, cache_name) in _groups_with_limits(cgroups, own):
        with suppress(OSError, ValueError):
            # 'max' stands for none and is no number.
            limit = int((group / limit_name).read_text())
            used = int((group / used_name).read_text())
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            available = min(available, max(0, limit - used + int(statistics.get(cache_name, 0))))
    return available


def _groups_with_limits(cgroups: Path, own: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # In a container the path may be one outside of it: then only the mount itself is there to be read.
        group = base / path.lstrip("/")
        yield from ((place, names) for place in (group, *group.parents) if place.is_relative_to(base))
