"""What stands in the report on a data root: the run, its tasks and warnings, and the cubes through the stages.

In: `logs/run.json` (the last run), `logs/records/*.json` (every task that is done, of whichever run), the summaries of
`report_cubes`, and the names of pictures and videos. Out: plain data, in which every path is relative to the root.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cube_files import CubeFiles
from observations import band_label

FAILED, NOT_RUN, SKIPPED, DONE = "failed", "not run", "skipped", "done"
EARLIER = "earlier run"
EXCERPT_LINES, EXCERPT_BYTES = 25, 6000
COMBINED = "combined"

Item = dict[str, Any]


def read_run(root: Path) -> Item | None:
    """The last run as `logs/run.json` tells, or None where there was none or the file is damaged."""
    run = read_json(root / "logs" / "run.json")
    if run is None or not isinstance(run.get("tasks"), list):
        return None
    start, end = (_time(run.get(name)) for name in ("start", "end"))
    seconds = (end - start).total_seconds() if start and end else None
    return {**run, "seconds": seconds, "options": _options(run)}


def read_tasks(root: Path, run: Mapping[str, Any] | None) -> list[Item]:
    """The tasks of the last run, and those of earlier ones whose products are there still.

    Parameters
    ----------
    root
        The data root.
    run
        See `read_run`.

    Returns
    -------
    list of dict
        'step', 'name' (first output), 'status', 'error', 'seconds', 'peak_memory', 'notes', 'warnings', 'facts',
        'log' (None where there is no log).
    """
    tasks = []
    for task in (run or {}).get("tasks", []):
        log = task.get("log")
        there = bool(log) and (root / log).is_file()
        tasks.append({**task, "name": task["outputs"][0], "log": log if there else None})
    known = {task["name"] for task in tasks}
    for path in sorted((root / "logs" / "records").glob("*.json")):
        record = read_json(path)
        if record is None or not record.get("outputs"):
            continue
        name = next(iter(record["outputs"]))
        if name not in known and (root / name).is_file():
            own = {key: record.get(key) for key in ("step", "seconds", "facts", "notes", "warnings", "function")}
            tasks.append({**own, "name": name, "status": EARLIER, "error": None, "peak_memory": 0, "log": None})
    return tasks


def _options(run: Mapping[str, Any]) -> list[Item]:
    """The settings of a run, with whether they differ from the default; those that do come first."""
    settings, defaults = run.get("settings") or {}, run.get("defaults") or {}
    options = [
        {"name": name, "value": value, "changed": name in defaults and value != defaults[name]}
        for name, value in settings.items()
        if name not in ("instrument", "steps")
    ]
    return sorted(options, key=lambda option: not option["changed"])


# --- what went wrong ------------------------------------------------------------------------------------------------


def problems(root: Path, tasks: Sequence[Item]) -> dict[str, list[Item]]:
    """What failed, what did not run because of it, and what was warned of, each text once.

    Returns
    -------
    dict
        'failed', 'not run', 'warnings': lists of dicts with 'step', 'text', 'tasks' (those it holds for); for failures
        also 'excerpt', the end of the log.
    """
    failed = [
        {"step": task["step"], "text": task["error"], "tasks": [task], "excerpt": _end_of_log(root, task["log"])}
        for task in tasks
        if task["status"] == FAILED
    ]
    return {
        "failed": failed,
        "not run": _grouped(tasks, lambda task: [task["error"]] if task["status"] == NOT_RUN else []),
        "warnings": _grouped(tasks, lambda task: task["warnings"] or []),
    }


def _grouped(tasks: Iterable[Item], texts: Callable[[Item], Iterable[str]]) -> list[Item]:
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for task in tasks:
        for text in texts(task):
            groups[task["step"], text].append(task)
    return [{"step": step, "text": text, "tasks": own} for (step, text), own in groups.items()]


def _end_of_log(root: Path, log: str | None) -> str:
    if log is None:
        return ""
    with open(root / log, "rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - EXCERPT_BYTES))
        lines = stream.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-EXCERPT_LINES:])


# --- the cubes ------------------------------------------------------------------------------------------------------


def gallery(root: Path, cubes: Sequence[tuple[CubeFiles, Item]]) -> Item:
    """The cubes as a table of bands and dithers.

    Parameters
    ----------
    root
        The data root.
    cubes
        The cubes' files with their summaries (see `report_cubes.summarise_cubes`).

    Returns
    -------
    dict
        'bands', 'variants', 'stages': names, in order; 'columns': dicts with 'place' and 'tile'; 'rows': dicts with
        'band', 'variant' and 'cells', one for each column, None or a dict with 'label', 'summary' and 'stages' (those
        of the summary, each also with 'name', 'invalid' (share of the field's voxels), 'file' and 'plot' (the quick
        look, or None)).
    """
    cells: dict[tuple[str, str], dict[tuple[str, str], Item]] = defaultdict(dict)
    for files, summary in cubes:
        band, stages = band_label(files.band), _stages(root, files, summary)
        label = " ".join(part for part in (band, files.place, files.tile, files.variant) if part)
        cells[band, files.variant][files.tile, files.place] = {
            "label": label,
            "summary": summary,
            "stages": stages,
        }
    rows = sorted(cells, key=lambda key: (natural_order(key[0]), key[1]))
    columns = sorted(
        {key for row in cells.values() for key in row},
        key=lambda key: (key[0], key[1] == COMBINED, natural_order(key[1])),
    )
    return {
        "bands": list(dict.fromkeys(band for band, _ in rows)),
        "variants": sorted({variant for _, variant in rows}),
        "stages": sorted(
            {stage["name"] for row in cells.values() for cell in row.values() for stage in cell["stages"]}
        ),
        "columns": [{"place": place, "tile": tile} for tile, place in columns],
        "rows": [
            {"band": band, "variant": variant, "cells": [cells[band, variant].get(column) for column in columns]}
            for band, variant in rows
        ],
    }


def _stages(root: Path, files: CubeFiles, summary: Item) -> list[Item]:
    # A stage that is not yet desaturated may have no value in a spaxel at any wavelength.
    field = max(stage["field"] for stage in summary["stages"])
    stages = []
    for path, stage in zip(files.paths, summary["stages"], strict=True):
        name = path.parent.parent.name
        plots = sorted((root / "plots" / name / files.directory).glob("*.png"))
        plot = next((plot for plot in plots if plot.stem.endswith(path.stem)), None)
        stages.append(
            {
                **stage,
                "name": name,
                "invalid": 1 - stage["good"] / field if field else None,
                "file": _relative(path, root),
                "plot": plot and _relative(plot, root),
            }
        )
    return stages


def pointing(table: Item) -> list[Item]:
    """The pointing of the cubes: dicts with 'label' and 'pointing' (None: as in the header); empty if all are so.

    Parameters
    ----------
    table
        See `gallery`.
    """
    labels: dict[str, list[str]] = defaultdict(list)
    for cell in (cell for row in table["rows"] for cell in row["cells"] if cell):
        labels[json.dumps(cell["summary"]["observation"]["pointing"])].append(cell["label"])
    # Those of a visit are corrected alike.
    rows = [
        {"label": "all cubes" if len(labels) == 1 else ", ".join(own), "pointing": json.loads(pointing)}
        for pointing, own in labels.items()
    ]
    return rows if any(row["pointing"] for row in rows) else []


def pointing_fits(root: Path) -> list[Item]:
    """What each cube alone showed of its pointing, by the visits' tables (`visit_pointing`).

    Returns
    -------
    list of dict
        'name' of the table's file and 'rows': dicts with 'cube', 'pointing' (as in `report_cubes.observation_facts`, or
        None where nothing was found) and 'reason' (what was wrong, or '').
    """
    fits = []
    for path in sorted((root / "stage3").glob("pointing_*.ecsv")):
        from astropy.table import Table

        try:
            fits.append({"name": _relative(path, root), "rows": [_fitted(row) for row in Table.read(path)]})
        except (OSError, ValueError, KeyError):
            # A damaged table is the business of navigation.
            continue
    return fits


def _fitted(row: Mapping[str, Any]) -> Item:
    columns = {"ra": "ra_offset", "dec": "dec_offset", "ra_error": "ra_error", "dec_error": "dec_error"}
    values = {name: float(row[column]) for name, column in columns.items() if math.isfinite(row[column])}
    # Empty texts are masked in such tables.
    reason = row["reason"] if isinstance(row["reason"], str) else ""
    return {"cube": str(row["cube"]), "pointing": values if "ra" in values else None, "reason": reason}


def corrections(table: Item, tasks: Sequence[Item]) -> list[Item]:
    """What the corrections did to the single dithers of each band and variant, in numbers.

    Parameters
    ----------
    table
        See `gallery`.
    tasks
        See `read_tasks`.

    Returns
    -------
    list of dict
        'band', 'variant', 'dithers' (how many) and means over these, None where there was no such correction:
        'invalid_before', 'invalid_after' (share of voxels at the first and last stage), 'recovered' (share of the good
        voxels that are from a shorter ramp), 'spikes' (share of the good voxels), 'flat_rms', 'without_flat' (share of
        the good voxels), 'fringes' (rms that was taken off, relative).
    """
    fringes = {task["name"]: task["facts"]["rms"] for task in tasks if "rms" in (task["facts"] or {})}
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for row in table["rows"]:
        for column, cell in zip(table["columns"], row["cells"], strict=True):
            if cell and column["place"] != COMBINED:
                first, last = cell["stages"][0], cell["stages"][-1]
                numbers = {
                    "invalid_before": first["invalid"],
                    "invalid_after": last["invalid"],
                    "recovered": _share_of_short_ramps(last),
                    "spikes": _share(last, "spikes"),
                    "flat_rms": last.get("flat_rms"),
                    "without_flat": _share(last, "without_flat"),
                    "fringes": fringes.get(first["file"].replace("_nav.fits", ".fits")),
                }
                groups[row["band"], row["variant"]].append(numbers)
    return [
        {"band": band, "variant": variant, "dithers": len(own), **{name: _mean(own, name) for name in own[0]}}
        for (band, variant), own in groups.items()
    ]


def flats(tasks: Sequence[Item]) -> list[Item]:
    """The flats that were constructed: 'name', 'before', 'after' (scatter between dithers, of one held out)."""
    return [
        {"name": task["name"], "before": task["facts"]["scatter_before"], "after": task["facts"]["scatter_after"]}
        for task in tasks
        if "scatter_before" in (task["facts"] or {})
    ]


def _share_of_short_ramps(stage: Item) -> float | None:
    counts = {int(number): count for number, count in stage.get("groups", {}).items()}
    total = sum(counts.values())
    return 1 - counts[max(counts)] / total if total else None


def _share(stage: Item, name: str) -> float | None:
    return stage[name] / stage["good"] if name in stage and stage["good"] else None


def _mean(items: Sequence[Item], name: str) -> float | None:
    values = [item[name] for item in items if item[name] is not None]
    return sum(values) / len(values) if values else None


def videos(root: Path) -> list[Item]:
    """The animations: 'path', 'label' (stage, variant), 'name'."""
    found = []
    for path in sorted((root / "animation").glob("*/*/*.mp4"), key=lambda path: natural_order(str(path))):
        stage, comparison = path.parts[-3:-1]
        variant = comparison.removeprefix("dither_comparison").strip("_")
        found.append(
            {"path": _relative(path, root), "name": path.stem, "label": " ".join(filter(None, (stage, variant)))}
        )
    return found


# --- time and memory ------------------------------------------------------------------------------------------------


def step_costs(run: Mapping[str, Any] | None) -> list[Item]:
    """Time and memory of each step of a run.

    Returns
    -------
    list of dict
        'step', 'tasks', 'seconds' of the tasks that ran, 'before' [s] of those that an earlier run did, 'longest' [s]
        of one task, 'peak_memory' [bytes] of one task, 0 where unknown.
    """
    steps: dict[str, list[Item]] = defaultdict(list)
    for task in (run or {}).get("tasks", []):
        steps[task["step"]].append(task)
    return [
        {
            "step": step,
            "tasks": len(own),
            "seconds": sum(task["seconds"] for task in own if task["status"] != SKIPPED),
            "before": sum(task["seconds"] for task in own if task["status"] == SKIPPED),
            "longest": max(task["seconds"] for task in own),
            "peak_memory": max(task["peak_memory"] for task in own),
        }
        for step, own in steps.items()
    ]


# --- small things ---------------------------------------------------------------------------------------------------


def natural_order(text: str) -> list[tuple[int, int, str]]:
    """Key that sorts texts with the numbers in them by value: 'd2' before 'd10'."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts]


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None


def read_json(path: Path) -> Item | None:
    """A JSON object in a file, or None where there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
