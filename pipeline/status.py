"""How things stand in a root, from the records of its tasks and the last run: what is done, stale, missing, failed."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError
from pipeline.console import format_rows, grouped
from pipeline.plan import PlanError
from pipeline.records import ContentHashes, Records, source_digest
from pipeline.runlog import FAILED, RUNNING

DONE, STALE, MISSING = "done", "stale", "missing"
STATES = (DONE, STALE, MISSING, FAILED)


@dataclass
class TaskState:
    """How a task stands.

    Attributes
    ----------
    step, name
        Step and first output, relative to the root.
    state
        'done'; 'stale' (inputs, outputs or code have changed since); 'missing' (never made, or gone); 'failed'.
    reason
        Why it is not done.
    """

    step: str
    name: str
    state: str
    reason: str = ""


def root_status(root: Path) -> tuple[list[TaskState], str]:
    """The state of every task that a root knows of, and what is to say of its last run.

    A task is stale, too, if what it reads is made by one that is stale or failed. Files whose content is not known are
    read; nothing is written. Parameters and package versions of a next run are not known: it may have more to do.

    Raises
    ------
    InputError
        If there has been no run in this root.
    """
    run_path = root / "logs" / "run.json"
    try:
        run = json.loads(run_path.read_text(encoding="utf-8"))
        planned = {task["outputs"][0]: task for task in run["tasks"]}
        last = f"last run: {run['start'][:19].replace('T', ' ')} UTC, {run['status']}, {' '.join(run['command'])}"
    except FileNotFoundError:
        raise InputError(f"{root} has no {run_path.relative_to(root)}: nothing has been run there.") from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise InputError(f"{run_path} is damaged: run the pipeline again, what is done stays done.") from None
    if run["status"] == RUNNING:
        last += f" (process {run['pid']} on {run['host']}, or it was killed)"
    hashes = ContentHashes(root)
    recorded = {next(iter(record["outputs"])): record for record in Records(root, hashes).all()}
    steps = list(dict.fromkeys([task["step"] for task in planned.values()] + [r["step"] for r in recorded.values()]))
    names = sorted({*planned, *recorded}, key=lambda name: steps.index((planned.get(name) or recorded[name])["step"]))
    states = {name: _state(root, name, planned.get(name), recorded.get(name), hashes) for name in names}
    _pass_on(states, recorded, planned)
    return list(states.values()), last


def format_status(states: Sequence[TaskState], last: str) -> str:
    """The table of a root's status, and under it what is not done and why."""
    counts = {
        step: Counter(s.state for s in states if s.step == step) for step in dict.fromkeys(s.step for s in states)
    }
    rows = [["step", *STATES], *([step, *(str(own[state]) for state in STATES)] for step, own in counts.items())]
    lines = [last, *format_rows(rows)]
    for state in (FAILED, MISSING, STALE):
        own = grouped((task.step, task.reason, task.name) for task in states if task.state == state)
        lines += [f"{state}:", *own] if own else []
    return "\n".join(lines)


def _state(
    root: Path, name: str, planned: Mapping[str, Any] | None, record: Mapping[str, Any] | None, hashes: ContentHashes
) -> TaskState:
    step = (planned or record)["step"]
    if planned is not None and planned["status"] == FAILED:
        return TaskState(step, name, FAILED, f"{planned['error']} (log: {planned['log']})")
    if record is None:
        return TaskState(step, name, MISSING, planned["error"] or "not made yet")
    gone = [output for output in record["outputs"] if not (root / output).is_file()]
    if gone:
        return TaskState(step, name, MISSING, "not there any more")
    changed = _changed(root, record["outputs"], hashes)
    if changed:
        return TaskState(step, name, STALE, "changed since it was made")
    changed = _changed(root, record.get("inputs", {}), hashes)
    if changed:
        return TaskState(step, name, STALE, f"its input has changed ({', '.join(changed)})")
    try:
        source = source_digest(record["function"])
        same = record.get("source", source) == source
    except PlanError:
        same = False
    return TaskState(step, name, DONE) if same else TaskState(step, name, STALE, "the code has changed")


def _changed(root: Path, digests: Mapping[str, str], hashes: ContentHashes) -> list[str]:
    """The files that are there with another content. Those that are not there may have been cleaned away."""
    return [
        name for name, digest in digests.items() if (root / name).is_file() and hashes.digest(root / name) != digest
    ]


def _pass_on(
    states: dict[str, TaskState], recorded: Mapping[str, Mapping[str, Any]], planned: Mapping[str, Mapping[str, Any]]
) -> None:
    """What is made from something that is stale, failed or was never made is stale."""
    inputs = {name: planned[name]["inputs"] for name in planned}
    inputs |= {name: list(record["inputs"]) for name, record in recorded.items() if "inputs" in record}
    makers = {output: name for known in (recorded, planned) for name in known for output in known[name]["outputs"]}
    waiting = True
    while waiting:
        waiting = False
        for name, task in states.items():
            for path in inputs.get(name, []) if task.state == DONE else []:
                maker = states.get(makers.get(path, ""))
                # What is missing but recorded has been cleaned away.
                never_made = maker is not None and maker.state == MISSING and makers[path] not in recorded
                if maker is not None and (never_made or maker.state in (STALE, FAILED)):
                    task.state, task.reason, waiting = STALE, f"because of {maker.step} {maker.name}", True
                    break
