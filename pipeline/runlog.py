"""`logs/run.json`: what a run was told to do, what it did and how long that took, for machines to read.

`logs/run.toml` beside it has what it was told alone, in the form in which another run can be told the same.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.plan import Plan, Task, relative_name
from pipeline.records import format_json, write_texts
from pipeline.settings_file import format_settings

INTERVAL_S = 3.0

WAITING, RUNNING, DONE, SKIPPED, FAILED, NOT_RUN, INTERRUPTED = (
    "waiting",
    "running",
    "done",
    "skipped",
    "failed",
    "not run",
    "interrupted",
)


@dataclass
class TaskResult:
    """What became of a task.

    Attributes
    ----------
    step, name
        Step and first output, relative to the root.
    outputs
        The files it makes.
    log
        Its log file.
    status
        'waiting', 'running', 'done', 'skipped' (done before), 'failed', 'not run' (because another task failed) or
        'interrupted'.
    error
        Why it failed or did not run, in one line.
    seconds, peak_memory
        Time taken [s] (of the earlier run for a skipped task), and largest resident memory [bytes], 0 where unknown.
    host
        The machine it ran on, '' where unknown.
    missing
        Inputs it was made without.
    facts, notes, warnings
        What its function returned, and what the engine adds.
    """

    step: str
    name: str
    outputs: tuple[Path, ...]
    log: Path
    status: str = WAITING
    error: str | None = None
    seconds: float = 0.0
    peak_memory: int = 0
    host: str = ""
    missing: list[Path] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class RunLog:
    """Writes `logs/run.json` now and then, and at the end, and `run.toml` once.

    Those of the run before are kept as `run-<its start>.json` and `.toml`.

    Parameters
    ----------
    plan, results
        The plan, and the results of its tasks, which are read whenever the file is written.
    facts
        What is said about the run as a whole: command, settings, versions.
    """

    def __init__(self, plan: Plan, results: list[TaskResult], facts: dict[str, Any]) -> None:
        self._path = plan.root / "logs" / "run.json"
        self._plan = plan
        self._results = results
        self._facts = {
            "root": str(plan.root),
            "start": _now(),
            "end": None,
            "status": "running",
            "exit_status": None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            **facts,
        }
        self._next_time = 0.0
        self.error: str | None = None
        self._keep_previous()
        # The settings are in the other file too, whose errors are told.
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = format_settings(self._facts.get("settings", {}))
            self._path.with_suffix(".toml").write_text(text, encoding="utf-8")

    def update(self) -> bool:
        """Write the file if it is time to; say whether it was."""
        start = time.monotonic()
        if start < self._next_time:
            return False
        self._write()
        # However many tasks there are, writing takes no more than a few per cent of the time.
        end = time.monotonic()
        self._next_time = end + max(INTERVAL_S, 30 * (end - start))
        return True

    def finish(self, status: str, exit_status: int) -> None:
        """Write the file for the last time."""
        self._facts.update(end=_now(), status=status, exit_status=exit_status)
        self._write()

    def _write(self) -> None:
        try:
            write_texts(self._path, self._texts())
        except OSError as error:
            # The disk may be full; the tasks say so themselves, and the run goes on.
            self.error = f"{self._path} could not be written ({error.strerror})"
        else:
            self.error = None

    def _texts(self) -> Iterator[str]:
        """The file in pieces, a line for each task: there may be very many."""
        yield format_json(self._facts)[:-1] + ', "tasks": ['
        for number, (task, result) in enumerate(zip(self._plan.tasks, self._results, strict=True)):
            yield (",\n" if number else "\n") + format_json(self._entry(task, result))
        yield "\n]}\n"

    def _entry(self, task: Task, result: TaskResult) -> dict[str, Any]:
        root = self._plan.root
        return {
            "step": task.step,
            "function": task.function,
            "inputs": [relative_name(path, root) for path in task.inputs],
            "outputs": [relative_name(path, root) for path in task.outputs],
            "status": result.status,
            "error": result.error,
            "seconds": round(result.seconds, 3),
            "peak_memory": result.peak_memory,
            "host": result.host,
            "missing": [relative_name(path, root) for path in result.missing],
            "notes": result.notes,
            "warnings": result.warnings,
            "facts": result.facts,
            "log": relative_name(result.log, root),
        }

    def _keep_previous(self) -> None:
        with suppress(OSError):
            modified = datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
            try:
                start = datetime.fromisoformat(json.loads(self._path.read_text(encoding="utf-8"))["start"])
            except (ValueError, KeyError, TypeError):
                start = modified
            kept = self._path.with_name(f"run-{start:%Y%m%dT%H%M%S.%f}Z.json")
            os.replace(self._path, kept)
            os.replace(self._path.with_suffix(".toml"), kept.with_suffix(".toml"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
