"""Running a plan from the lock on the root to the table at the end."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from errors import INTERRUPT_STATUS
from pipeline.console import Progress, format_table
from pipeline.executors import Executor, ExecutorLost, make_executor
from pipeline.housekeeping import remove_partial_files, root_lock
from pipeline.interrupt import insistent_interrupt
from pipeline.plan import Plan, Task
from pipeline.records import ContentHashes, Records, source_digest
from pipeline.runlog import DONE, FAILED, NOT_RUN, SKIPPED, RunLog, TaskResult
from pipeline.schedule import Schedule


@dataclass
class RunResult:
    """What became of a run.

    Attributes
    ----------
    exit_status
        0; 1 if a task failed or did not run, or an input was unusable; 130 if the run was interrupted.
    results
        One for each task of the plan, in its order.
    table
        The end table as text.
    messages
        Warnings about the run as a whole, unusable inputs among them.
    """

    exit_status: int
    results: list[TaskResult]
    table: str
    messages: list[str] = field(default_factory=list)

    @property
    def done(self) -> list[TaskResult]:
        """Tasks that ran and succeeded."""
        return self._with(DONE)

    @property
    def skipped(self) -> list[TaskResult]:
        """Tasks that were done already."""
        return self._with(SKIPPED)

    @property
    def failed(self) -> list[TaskResult]:
        """Tasks that ran, or tried to, and failed."""
        return self._with(FAILED)

    @property
    def not_run(self) -> list[TaskResult]:
        """Tasks that did not run because others failed."""
        return self._with(NOT_RUN)

    @property
    def warnings(self) -> list[str]:
        """All warnings; those of tasks with step and output."""
        of_tasks = [f"{result.step} {result.name}: {text}" for result in self.results for text in result.warnings]
        return [*self.messages, *of_tasks]

    def _with(self, status: str) -> list[TaskResult]:
        return [result for result in self.results if result.status == status]


def pending_tasks(plan: Plan) -> list[Task]:
    """The tasks of a plan that `run_plan` would run, as far as can be told before: not done, or after one that is not.

    Inputs and outputs whose content is not known from an earlier run are read.
    """
    hashes = ContentHashes(plan.root)
    records = Records(plan.root, hashes)
    pending: set[int] = set()
    for number in plan.order:
        record = None
        if pending.isdisjoint(plan.producers[number].values()):
            with suppress(OSError, ValueError):
                record = records.find(plan.tasks[number])
        if record is None:
            pending.add(number)
    # What was read need not be read again by the run.
    with suppress(OSError):
        hashes.save()
    return [task for number, task in enumerate(plan.tasks) if number in pending]


def run_plan(
    plan: Plan,
    *,
    parallel: float | bool = False,
    overwrite: bool = False,
    command: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    quiet: bool = False,
    verbose: bool = False,
    unusable_inputs: Sequence[str] = (),
    executor: Executor | None = None,
) -> RunResult:
    """Run the tasks of a plan that are not done yet.

    Parameters
    ----------
    plan
        What to do.
    parallel
        False: one task after another in this process. True, a fraction or a number: worker processes on all cores, that
        part of them, or that many.
    overwrite
        Run every task of the plan, done or not.
    command, settings, versions, facts
        For `logs/run.json`; `facts` are further entries.
    quiet
        Say only what went wrong.
    verbose
        Say a line for each task.
    unusable_inputs
        A sentence for each input file that could not be used. They stand in the end table, and the exit status is 1.
    executor
        Runs the tasks, in place of what `parallel` says; it is closed at the end.

    Returns
    -------
    RunResult
        Also after Ctrl-C, with exit status 130, and where a cluster was lost, with 1.

    Raises
    ------
    InputError
        Before any work: another run holds the root, the root is not writable, `parallel` or the module of a function is
        wrong.
    """
    executor = make_executor(parallel) if executor is None else executor
    for function in dict.fromkeys(task.function for task in plan.tasks):
        source_digest(function)
    with root_lock(plan.root):
        directories = {path.parent for task in plan.tasks for path in task.outputs}
        remove_partial_files(plan.root, directories)
        results = [
            TaskResult(task.step, plan.name(number), task.outputs, log)
            for number, (task, log) in enumerate(zip(plan.tasks, plan.logs, strict=True))
        ]
        entries = {
            **(facts or {}),
            "command": list(command),
            "settings": dict(settings or {}),
            "versions": dict(versions or {}),
            "workers": executor.capacity,
            "overwrite": overwrite,
            "unusable_inputs": list(unusable_inputs),
        }
        log = RunLog(plan, results, entries)
        progress = Progress(Counter(task.step for task in plan.tasks), quiet, verbose)
        schedule = Schedule(plan, executor, results, progress, log, overwrite)
        status, exit_status = "stopped by an error", 1
        stopped: list[str] = []
        try:
            with insistent_interrupt():
                schedule.run()
                executor.close()
            bad = any(result.status in (FAILED, NOT_RUN) for result in results)
            status, exit_status = "finished", int(bad or bool(unusable_inputs))
        except KeyboardInterrupt:
            status, exit_status = "interrupted", INTERRUPT_STATUS
            stopped = ["interrupted: the same command goes on where this run ended"]
        except ExecutorLost as error:
            stopped = [f"stopped: {error}; the same command goes on where this run ended"]
        finally:
            executor.terminate()
            progress.close()
            schedule.stop()
            remove_partial_files(plan.root, directories, executor.processes())
            log.finish(status, exit_status)
    messages = [*unusable_inputs, *([log.error] if log.error else []), *stopped]
    result = RunResult(exit_status, results, format_table(results, plan.steps, plan.root, messages), messages)
    text = format_table(results, plan.steps, plan.root, messages, brief=True) if quiet else result.table
    if text:
        print(text, flush=True)
    return result
