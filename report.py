"""The report on a data root: one page, `report/index.html`, to judge a reduction by in a minute.

In: what a run leaves in the root: `logs/`, the cubes of all stages, plots, animations. Out: HTML that needs no network
and nothing beside it but the pictures, videos and logs it links to. The pipelines make it at the end of a run, also
where tasks have failed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from command_line import ArgumentParser, run_command
from cube_files import CubeFiles, find_cubes
from cubes import SOFTWARE_VERSION
from errors import DataRootError, InputError
from files import written_whole
from report_content import (
    FAILED,
    NOT_RUN,
    SKIPPED,
    corrections,
    flats,
    gallery,
    natural_order,
    pointing,
    pointing_fits,
    problems,
    read_json,
    read_run,
    read_tasks,
    step_costs,
    videos,
)
from report_cubes import FORMAT, summarise_files
from report_page import duration, render_page

PAGE = "report/index.html"
# What the corrections did: keys of `report_content.corrections` and what stands above them.
_NUMBERS = {
    "invalid_before": "invalid before",
    "invalid_after": "after",
    "recovered": "from shorter ramps",
    "flat_rms": "flat, rms",
    "without_flat": "without flat",
    "spikes": "spikes",
    "fringes": "fringes, rms",
}
_POSITIONS = {
    "reconstructed": "reconstructed",
    "predicted": "predicted, so less certain",
    "header": "from the FITS headers: no kernel covers it",
}


def write_report(root: str | Path) -> Path:
    """Write the report on a data root.

    Cubes whose summary is missing or older than they are are summarised first.

    Parameters
    ----------
    root
        The data root.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataRootError
        If there is nothing to report on.
    """
    root = Path(root).expanduser().resolve()
    page = root / PAGE
    text = render_page(report_content(root))
    with written_whole(page) as temporary:
        # Names of files need not be UTF-8; links to them are right all the same.
        temporary.write_text(text, encoding="utf-8", errors="replace")
    return page


def report_content(root: Path) -> dict[str, Any]:
    """All that the page shows, by the names that its template uses.

    Raises
    ------
    DataRootError
        If there is nothing to report on.
    """
    if not root.is_dir():
        raise DataRootError(f"{root} is not a directory: give the folder that holds stage0.")
    run = read_run(root)
    tasks = read_tasks(root, run)
    cubes, messages = _summaries(root)
    if run is None and not cubes:
        raise DataRootError(f"{root} holds neither cubes nor logs/run.json: run a pipeline first.")
    messages = [*(run or {}).get("unusable_inputs", []), *messages]
    table = gallery(root, cubes)
    rows = corrections(table, tasks)
    found = [summary["observation"] for _, summary in cubes]
    costs = step_costs(run)
    content = {
        "root": str(root),
        "title": _title(root, found),
        "status": _status(run),
        "wrong": "What went wrong" if any(task["status"] in (FAILED, NOT_RUN) for task in tasks) else "Warnings",
        "messages": messages,
        "problems": problems(root, tasks),
        "observation": _observation(found, table),
        "table": table,
        "videos": videos(root),
        "corrections": rows,
        "numbers": {name: text for name, text in _NUMBERS.items() if any(row[name] is not None for row in rows)},
        "flats": flats(tasks),
        "pointing": pointing(table),
        "pointing_fits": pointing_fits(root),
        "run": run,
        "software": _software(run, found),
        "kernels": (run or {}).get("kernels") or [],
        "costs": costs,
        "longest": max((cost["seconds"] + cost["before"] for cost in costs), default=0),
        "largest": max((cost["peak_memory"] for cost in costs), default=0),
        "tasks": tasks,
        "footer": f"Made by version {SOFTWARE_VERSION} from the cubes, plots, animations and logs in {root}.",
    }
    return {**content, "sections": _sections(content)}


def _summaries(root: Path) -> tuple[list[tuple[CubeFiles, dict[str, Any]]], list[str]]:
    """The summaries of all cubes, made where there is none that is up to date, and what went wrong."""
    summaries, messages = [], []
    for files in find_cubes(root):
        path = files.summary(root)
        names = ["/".join(cube.parts[-3:]) for cube in files.paths]
        summary = read_json(path) if _is_newer(path, files.paths) else None
        if summary is None or (summary.get("format"), summary.get("files")) != (FORMAT, names):
            try:
                summarise_files(files.paths, path)
            except (InputError, OSError) as error:
                messages.append(f"not shown: {error}")
                continue
            summary = read_json(path)
        summaries.append((files, summary))
    return summaries, messages


def _is_newer(path: Path, others: Sequence[Path]) -> bool:
    return path.is_file() and path.stat().st_mtime_ns >= max(other.stat().st_mtime_ns for other in others)


# --- words ----------------------------------------------------------------------------------------------------------


def _title(root: Path, found: Sequence[Mapping[str, Any]]) -> str:
    targets = [name.capitalize() if name.isalpha() else name for name in _values(found, "target")]
    return ", ".join([*targets, *_values(found, "instrument")]) or root.name


def _values(found: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return sorted({str(facts[name]) for facts in found if facts[name]}, key=natural_order)


def _status(run: Mapping[str, Any] | None) -> dict[str, str]:
    if run is None:
        return {"kind": "warn", "text": "no run recorded"}
    statuses = [task["status"] for task in run["tasks"]]
    failed, not_run, skipped = (statuses.count(status) for status in (FAILED, NOT_RUN, SKIPPED))
    words = [str(run["status"]), f"{len(statuses)} tasks"]
    words += [f"{failed} failed"] if failed else []
    words += [f"{not_run} not run"] if not_run else []
    words += [f"{skipped} as before"] if skipped else []
    if run["status"] == "running":
        return {"kind": "warn", "text": ", ".join(words)}
    if run["status"] != "finished" or failed or not_run:
        return {"kind": "bad", "text": ", ".join(words)}
    if any(task["warnings"] for task in run["tasks"]) or run.get("unusable_inputs"):
        return {"kind": "warn", "text": ", ".join([*words, "with warnings"])}
    return {"kind": "good", "text": ", ".join(words)}


def _observation(found: Sequence[Mapping[str, Any]], table: Mapping[str, Any]) -> list[tuple[str, str]]:
    times = sorted({time[:16].replace("T", " ") for time in _values(found, "time")})
    places = list(dict.fromkeys(column["place"] for column in table["columns"]))
    names = {"target": "Target", "instrument": "Instrument", "programme": "Programme", "observation": "Observation"}
    names |= {"title": "Title", "investigator": "Principal investigator", "groups": "Groups in a ramp"}
    words = [(text, ", ".join(_values(found, name))) for name, text in names.items()]
    same_day = times and times[0][:10] == times[-1][:10]
    ends = [*times[:1], *(time[11:] if same_day else time for time in times[-1:] if len(times) > 1)]
    span = f"{' to '.join(ends)} UTC" if ends else ""
    return [*words, ("Time", span), ("Bands", ", ".join(table["bands"])), ("Dithers", ", ".join(places))]


def _software(run: Mapping[str, Any] | None, found: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    versions = dict((run or {}).get("versions") or {})
    positions = [_POSITIONS.get(position, position) for position in _values(found, "position")]
    words = [
        ("Pipeline", versions.get("pipeline")),
        ("jwst", versions.get("jwst") or ", ".join(_values(found, "jwst_version"))),
        ("CRDS context", versions.get("crds_context") or ", ".join(_values(found, "crds_context"))),
        ("Python", versions.get("python")),
        ("JWST's position", "; ".join(positions) or "not used: RA and Dec only"),
    ]
    if run is not None:
        start = str(run["start"])[:19].replace("T", " ")
        words += [
            ("Started", f"{start} UTC"),
            ("Took", run["seconds"] and duration(run["seconds"])),
            ("Computer", run.get("host")),
            ("Tasks side by side", run.get("workers")),
        ]
    return [(name, str(value)) for name, value in words if value]


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    wrong = content["messages"] or any(content["problems"].values())
    known = (
        ("problems", content["wrong"], wrong),
        ("observation", "Observation", True),
        ("cubes", "Cubes", content["table"]["rows"]),
        ("videos", "Animations", content["videos"]),
        ("corrections", "Corrections", content["corrections"] or content["flats"]),
        ("pointing", "Pointing", content["table"]["rows"]),
        ("run", "Run", True),
        ("time", "Time and memory", content["costs"]),
        ("tasks", "Tasks", content["tasks"]),
    )
    return [(name, text) for name, text, is_there in known if is_there]


def _command(argv: Sequence[str] | None) -> None:
    parser = ArgumentParser(prog="report.py", description="Write the report on a data root, ROOT/report/index.html.")
    parser.add_argument("root", metavar="ROOT", type=Path, help="folder that holds stage0 and what was made of it")
    print(write_report(parser.parse_args(argv).root))


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python report.py ROOT`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
