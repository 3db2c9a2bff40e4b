"""What becomes of each task, and when: the one loop that every run goes through.

A task is ready when the tasks that make its inputs have ended. Among those ready the first of the plan comes first, so
no step waits for the one before it to end as a whole. Then it is decided: skipped because it is done, not run because
of a failure, or run. A task whose process died is run once more, alone, because memory is the likeliest reason.
"""

import heapq
import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pipeline.console import Progress
from pipeline.executors import Executor
from pipeline.plan import Plan, Task, relative_name, without_inputs
from pipeline.records import ContentHashes, Records, task_key
from pipeline.runlog import DONE, FAILED, INTERRUPTED, NOT_RUN, RUNNING, SKIPPED, RunLog, TaskResult
from pipeline.work import Job, Outcome, one_line, remove_outputs

POLL_S = 0.5
ATTEMPTS = 2
MAXIMUM_NAMES = 3


class Schedule:
    """The tasks of a plan on their way to their ends.

    Parameters
    ----------
    plan
        What to do.
    executor
        Where it runs.
    results
        One for each task; they are filled in.
    progress, log
        Told of what happens.
    overwrite
        Run tasks that are done, too.
    """

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        results: Sequence[TaskResult],
        progress: Progress,
        log: RunLog,
        overwrite: bool = False,
    ) -> None:
        self._plan = plan
        self._executor = executor
        self._results = results
        self._progress = progress
        self._log = log
        self._overwrite = overwrite
        self._hashes = ContentHashes(plan.root)
        self._records = Records(plan.root, self._hashes)
        self._unmade_inputs = [len(set(producers.values())) for producers in plan.producers]
        self._ready = [number for number, count in enumerate(self._unmade_inputs) if count == 0]
        self._pending: list[Job] = []
        self._running: dict[int, Job] = {}
        self._tasks: dict[int, Task] = {}
        # For tasks that failed or did not run: the failures that are the reason.
        self._causes: dict[int, set[str]] = {}

    def run(self) -> None:
        """Bring every task to its end."""
        # An ascending list is a heap already.
        while self._ready or self._pending or self._running:
            self._fill_executor()
            if self._running or self._pending:
                for outcome in self._executor.wait(POLL_S):
                    self._take(outcome)
                self._progress.refresh()
                self._save()

    def stop(self) -> None:
        """Say of tasks that were running that they did not end, and keep what is known about files."""
        for result in self._results:
            if result.status == RUNNING:
                result.status = INTERRUPTED
        # Without them files are read once more, no harm done.
        with suppress(OSError):
            self._hashes.save()

    def _fill_executor(self) -> None:
        while True:
            for job in self._pending[: self._executor.lookahead]:
                if self._executor.fits(job, self._running.values()):
                    self._pending.remove(job)
                    self._submit(job)
            full = len(self._running) >= self._executor.capacity or len(self._pending) >= self._executor.lookahead
            if full or not self._ready:
                return
            job = self._decide(heapq.heappop(self._ready))
            if job is not None:
                self._pending.append(job)
            self._save()

    def _submit(self, job: Job) -> None:
        self._running[job.number] = job
        self._results[job.number].status = RUNNING
        self._progress.started(self._results[job.number])
        self._executor.submit(job)

    def _decide(self, number: int) -> Job | None:
        """Decide what becomes of a task whose producers have ended; give a job if it is to run."""
        try:
            missing = self._find_missing(number)
            if missing is None or self._is_done(number, missing):
                return None
            return self._make_job(number, missing)
        except OSError as error:
            self._fail(number, one_line(error))
            return None

    def _find_missing(self, number: int) -> list[Path] | None:
        """The inputs that the task has to do without; None, and the task is at its end, if it can not."""
        task, producers = self._plan.tasks[number], self._plan.producers[number]
        droppable = set() if task.minimum_inputs is None else set(task.droppable or task.inputs)
        lost = {path: producer for path, producer in producers.items() if producer in self._causes}
        absent = [path for path in task.inputs if path not in producers and not path.exists()]
        needed = next((path for path in absent if path not in droppable), None)
        if needed is not None:
            self._fail(number, f"the input {relative_name(needed, self._plan.root)} does not exist")
            return None
        missing = [path for path in dict.fromkeys(task.inputs) if path in lost or path in absent]
        n_left = len(droppable) - len(missing)
        if set(lost) <= droppable and (not missing or n_left >= task.minimum_inputs):
            return missing
        causes = set().union(*(self._causes[producer] for producer in lost.values()))
        reason = f"because {_listed(causes)} failed" if causes else "for want of inputs"
        if set(lost) <= droppable:
            reason = f"{n_left} of {len(droppable)} inputs are left, {task.minimum_inputs} are needed, {reason}"
        self._causes[number] = causes or {self._results[number].name}
        if any(path.exists() for path in task.outputs):
            self._results[number].warnings.append("the file on disk is that of an earlier run")
        self._end(number, NOT_RUN, reason)
        return None

    def _is_done(self, number: int, missing: list[Path]) -> bool:
        """Whether there is nothing left to do for a task; then it is at its end."""
        task, result = without_inputs(self._plan.tasks[number], missing), self._results[number]
        self._tasks[number] = task
        result.missing = missing
        if missing:
            names = _listed(relative_name(path, self._plan.root) for path in missing)
            result.warnings.append(f"made without {names}")
        if self._overwrite:
            return False
        try:
            record = self._records.find(task, missing)
        except ValueError as error:
            result.notes.append(f"{error}: made anew")
            return False
        if record is None:
            return False
        result.seconds = record["seconds"]
        result.facts, result.notes = record["facts"], record["notes"]
        result.warnings += record["warnings"]
        self._end(number, SKIPPED)
        return True

    def _make_job(self, number: int, missing: list[Path]) -> Job:
        task = self._tasks[number]
        self._records.remove(task)
        return Job(
            number=number,
            function=task.function,
            arguments=task.arguments,
            inputs=task.inputs,
            outputs=task.outputs,
            missing=tuple(missing),
            known={path: entry for path in task.inputs if (entry := self._hashes.known(path)) is not None},
            log=self._plan.logs[number],
            memory=task.memory,
        )

    def _take(self, outcome: Outcome) -> None:
        """Take what became of a job."""
        number = outcome.number
        job, result = self._running.pop(number), self._results[number]
        if outcome.lost and job.attempt < ATTEMPTS:
            result.notes.append(f"{outcome.error}; run again")
            self._pending.insert(0, replace(job, attempt=job.attempt + 1, memory=math.inf))
            return
        result.seconds, result.peak_memory = outcome.seconds, outcome.peak_memory
        result.facts, result.host = outcome.facts, outcome.host
        result.notes += outcome.notes
        for path, entry in outcome.hashes.items():
            self._hashes.remember(path, entry)
        if outcome.lost:
            remove_outputs(job)
        if outcome.error is not None:
            self._fail(number, f"{outcome.error}, {ATTEMPTS} times" if outcome.lost else outcome.error)
            return
        try:
            self._record(number, outcome)
        except OSError as error:
            self._fail(number, f"its record could not be written: {one_line(error)}")
            return
        result.warnings += outcome.warnings
        self._end(number, DONE)

    def _record(self, number: int, outcome: Outcome) -> None:
        task, missing = self._tasks[number], self._results[number].missing
        digests = {path: digest for path, (_, digest) in outcome.hashes.items()}
        key = task_key(task, digests, missing, self._plan.root)
        returned = {"facts": outcome.facts, "notes": outcome.notes, "warnings": outcome.warnings}
        self._records.write(task, key, digests, returned, outcome.seconds)

    def _fail(self, number: int, error: str) -> None:
        self._causes[number] = {self._results[number].name}
        self._end(number, FAILED, error)

    def _end(self, number: int, status: str, error: str | None = None) -> None:
        result = self._results[number]
        result.status, result.error = status, error
        self._tasks.pop(number, None)
        self._progress.ended(result)
        for dependant in self._plan.dependants[number]:
            self._unmade_inputs[dependant] -= 1
            if self._unmade_inputs[dependant] == 0:
                heapq.heappush(self._ready, dependant)

    def _save(self) -> None:
        if self._log.update():
            with suppress(OSError):
                self._hashes.save()


def _listed(names: Collection[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - MAXIMUM_NAMES} more" if len(names) > MAXIMUM_NAMES else ""
    return f"{', '.join(names[:MAXIMUM_NAMES])}{more}"
