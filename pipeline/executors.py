"""Where jobs run: one after another in this process, or on worker processes of this machine.

An executor takes jobs as long as they fit and hands back outcomes. Which job comes next is not its business, nor what
to do about a job whose process died, which comes back as lost. So another kind of executor, such as a cluster
(`pipeline.dask_executor`), has few methods to write.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

from errors import OptionError
from pipeline.memory import memory_budget
from pipeline.work import Job, Outcome, run_job
from pipeline.worker_process import ProcessSetup, WorkerProcess


class ExecutorLost(Exception):
    """There is nothing left to run jobs on; the message says what became of it."""


class Executor(ABC):
    """Runs jobs and hands back their outcomes.

    Attributes
    ----------
    capacity : int
        How many jobs it takes at once.
    lookahead : int
        How many jobs are tried in turn when the first of them does not fit yet. With 1 they keep their order, and no
        job that needs much memory is overtaken for ever by those that need little.
    memory : float
        Bytes that the jobs running at one time may need together; a single job always runs.
    """

    capacity: int = 1
    lookahead: int = 1
    memory: float = math.inf

    def fits(self, job: Job, running: Collection[Job]) -> bool:
        """Whether a job can be taken now, beside those that are running."""
        if not running:
            return True
        needed = job.memory + sum(other.memory for other in running)
        return len(running) < self.capacity and needed <= self.memory

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Take a job; may return before or after it is done."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Outcome]:
        """Outcomes of jobs that ended, none if that takes longer than `timeout` [s].

        Raises
        ------
        ExecutorLost
            If no job can ever end any more.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers when no job is left."""

    @abstractmethod
    def terminate(self) -> None:
        """Stop all jobs at once, with every process they started."""

    def processes(self) -> list[int]:
        """All processes on this machine that ran jobs, now or before."""
        return []


def available_cores() -> int:
    """Number of cores that this process may use."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_workers(parallel: float | bool) -> int:
    """Number of worker processes that `parallel` asks for, 0 for none.

    Parameters
    ----------
    parallel
        False or 0: none; True: one for each core; up to 1: that part of the cores, at least one worker; an integer
        above 1: that many.

    Raises
    ------
    OptionError
        For anything else.
    """
    if isinstance(parallel, bool):
        return available_cores() if parallel else 0
    if not isinstance(parallel, int | float) or not math.isfinite(parallel) or parallel < 0:
        raise OptionError(f"parallel is {parallel!r}: give a fraction of the cores (up to 1) or a number of processes.")
    if parallel <= 1:
        return max(1, int(parallel * available_cores())) if parallel else 0
    if parallel != int(parallel):
        raise OptionError(f"parallel is {parallel}: a number of processes is a whole number, a fraction is at most 1.")
    return int(parallel)


def make_executor(parallel: float | bool, memory_limit: float | None = None) -> Executor:
    """The executor on this machine for `parallel` (see `count_workers`), with a limit to the memory [bytes]."""
    workers = count_workers(parallel)
    return ProcessExecutor(workers, memory_budget(memory_limit)) if workers else SerialExecutor()


class SerialExecutor(Executor):
    """Runs each job at once, in this process."""

    def __init__(self) -> None:
        self._outcomes: list[Outcome] = []

    def submit(self, job: Job) -> None:
        self._outcomes.append(run_job(job))

    def wait(self, timeout: float) -> list[Outcome]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def close(self) -> None:
        """Nothing to do."""

    def terminate(self) -> None:
        """Nothing to do: a job runs only inside `submit`."""


class ProcessExecutor(Executor):
    """Runs jobs on processes of this machine that are started afresh (spawned), not forked.

    Parameters
    ----------
    workers
        Number of processes.
    memory
        Bytes they may need together; by default most of what is available now.
    """

    def __init__(self, workers: int, memory: float | None = None) -> None:
        self.capacity = workers
        self.memory = memory_budget() if memory is None else memory
        self._setup = ProcessSetup()
        self._idle: list[WorkerProcess] = []
        self._busy: dict[Future, tuple[WorkerProcess, Job]] = {}
        self._pids: set[int] = set()

    def submit(self, job: Job) -> None:
        worker = self._idle.pop() if self._idle else WorkerProcess(self._setup)
        try:
            future = worker.submit(job)
        except BrokenProcessPool:
            # It died while it had nothing to do.
            worker.terminate()
            worker = WorkerProcess(self._setup)
            future = worker.submit(job)
        self._pids.add(worker.process.pid)
        self._busy[future] = (worker, job)

    def wait(self, timeout: float) -> list[Outcome]:
        finished, _ = wait(self._busy, timeout, FIRST_COMPLETED)
        return [self._collect(future) for future in finished]

    def _collect(self, future: Future) -> Outcome:
        worker, job = self._busy.pop(future)
        outcome = worker.outcome(future, job)
        if not outcome.lost:
            self._idle.append(worker)
        return outcome

    def close(self) -> None:
        for worker in self._idle:
            worker.close()
        self._idle.clear()

    def terminate(self) -> None:
        for worker in (*self._idle, *(worker for worker, _ in self._busy.values())):
            worker.terminate()
        self._idle.clear()
        self._busy.clear()

    def processes(self) -> list[int]:
        return sorted(self._pids)
