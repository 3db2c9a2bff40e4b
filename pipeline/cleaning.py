"""Removing what a root can make again: files that are as tasks have made them, from inputs that are there."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.console import format_rows
from pipeline.housekeeping import root_lock
from pipeline.plan import relative_name
from pipeline.records import ContentHashes, Records


def remakeable_files(root: Path, directories: Iterable[str]) -> list[Path]:
    """The files in some directories of a root that its tasks can make again.

    Each was made by a task and is as that task left it, and what the task read is there or can be made again itself.
    Files of `stage0`, also by way of links, are never among them.

    Parameters
    ----------
    root
        The data root.
    directories
        Names of directories in it, searched as a whole.
    """
    hashes = ContentHashes(root)
    records = list(Records(root, hashes).all())
    makers = {output: record for record in records for output in record["outputs"]}
    known: dict[str, bool] = {}

    def remakeable(name: str) -> bool:
        # False meanwhile: what needs itself can not be made.
        if name not in known:
            known[name] = False
            record = makers.get(name)
            known[name] = (
                record is not None
                and "inputs" in record
                and all(remakeable(path) if path in makers else (root / path).is_file() for path in record["inputs"])
            )
        return known[name]

    places = [f"{directory}/" for directory in directories]
    stage0 = os.path.realpath(root / "stage0") + os.sep
    return [
        root / name
        for name, record in makers.items()
        if any(name.startswith(place) for place in places)
        and (root / name).is_file()
        and not os.path.realpath(root / name).startswith(stage0)
        and remakeable(name)
        and hashes.digest(root / name) == record["outputs"][name]
    ]


def describe_sizes(root: Path, paths: Sequence[Path]) -> str:
    """Number and size of files by directory, as a table."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for path in paths:
        sizes[relative_name(path.parent, root)].append(path.stat().st_size)
    rows = [["directory", "files", "GB"]]
    rows += [[name, str(len(own)), f"{sum(own) / 1e9:.3f}"] for name, own in sorted(sizes.items())]
    total = [size for own in sizes.values() for size in own]
    rows.append(["together", str(len(total)), f"{sum(total) / 1e9:.3f}"])
    return "\n".join(format_rows(rows))


def remove_files(root: Path, paths: Iterable[Path]) -> None:
    """Remove files while no run works in the root.

    Raises
    ------
    RunLocked
        If one does.
    """
    with root_lock(root):
        for path in paths:
            path.unlink(missing_ok=True)
