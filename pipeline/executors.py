"""Where jobs run: one after another in this process, or on worker processes of this machine.

An executor takes jobs up to its capacity and hands back outcomes. Which job comes next is not its business, nor what to
do about a job whose process died, which comes back as lost. So another kind of executor, such as a cluster, has four
methods to write.
"""

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path

import psutil

from errors import OptionError
from pipeline.work import Job, Outcome, one_line, run_job

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
EXIT_PATIENCE_S = 5.0
MEMORY_SHARE = 0.8


class Executor(ABC):
    """Runs jobs and hands back their outcomes.

    Attributes
    ----------
    capacity : int
        How many jobs it takes at once.
    memory : float
        Bytes that the jobs running at one time may need together; a single job always runs.
    """

    capacity: int = 1
    memory: float = math.inf

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Take a job; may return before or after it is done."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Outcome]:
        """Outcomes of jobs that ended, none if that takes longer than `timeout` [s]."""

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


def make_executor(parallel: float | bool) -> Executor:
    """The executor for `parallel` (see `count_workers`)."""
    workers = count_workers(parallel)
    return ProcessExecutor(workers) if workers else SerialExecutor()


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

    Each worker is a pool of one process, so that one that dies takes only its own job with it.

    Parameters
    ----------
    workers
        Number of processes. Together their BLAS and OpenMP threads use no more than the cores there are.
    memory
        Bytes they may need together; by default 0.8 of what is available now.
    """

    def __init__(self, workers: int, memory: float | None = None) -> None:
        self.capacity = workers
        self.memory = MEMORY_SHARE * psutil.virtual_memory().available if memory is None else memory
        self._threads = max(1, available_cores() // workers)
        self._idle: list[_Worker] = []
        self._busy: dict[Future, tuple[_Worker, Job]] = {}
        self._pids: set[int] = set()

    def submit(self, job: Job) -> None:
        worker = self._idle.pop() if self._idle else _Worker(self._threads)
        try:
            future = worker.submit(job)
        except BrokenProcessPool:
            # It died while it had nothing to do.
            worker.terminate()
            worker = _Worker(self._threads)
            future = worker.submit(job)
        self._pids.add(worker.process.pid)
        self._busy[future] = (worker, job)

    def wait(self, timeout: float) -> list[Outcome]:
        finished, _ = wait(self._busy, timeout, FIRST_COMPLETED)
        return [self._collect(future) for future in finished]

    def _collect(self, future: Future) -> Outcome:
        worker, job = self._busy.pop(future)
        try:
            outcome = future.result()
        except BrokenProcessPool:
            cause = worker.cause_of_death()
            worker.terminate()
            return Outcome(job.number, error=cause, lost=True)
        except Exception as error:
            # The job could not be sent to the worker.
            outcome = Outcome(job.number, error=one_line(error))
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


class _Context(SpawnContext):
    """Spawns processes, and knows the one it made."""

    process: SpawnProcess | None = None

    def Process(self, *args, **kwargs) -> SpawnProcess:
        self.process = SpawnProcess(*args, **kwargs)
        return self.process


class _Worker:
    """A pool of one process."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._context = _Context()
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=self._context,
            initializer=_start_worker,
            initargs=(os.getcwd(), list(sys.path)),
        )

    @property
    def process(self) -> SpawnProcess | None:
        return self._context.process

    def submit(self, job: Job) -> Future:
        with nullcontext() if self.process else _spawning(self._threads):
            return self._pool.submit(run_job, job, self._threads)

    def cause_of_death(self) -> str:
        # The pool's own thread waits for the process too. Whichever comes second learns nothing from the system and has
        # to look again until the first has noted the status.
        end = time.monotonic() + EXIT_PATIENCE_S
        while (code := self.process.exitcode) is None and time.monotonic() < end:
            time.sleep(0.01)
        if code is None or code >= 0:
            return f"worker ended (exit status {code})"
        if -code == signal.SIGKILL:
            return "worker killed (out of memory?)"
        return f"worker killed by {signal.Signals(-code).name}"

    def close(self) -> None:
        self._pool.shutdown(wait=True)

    def terminate(self) -> None:
        if self.process is not None:
            _kill_descendants(self.process.pid)
            self.process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _spawning(threads: int) -> Iterator[None]:
    """The conditions under which a worker process is started.

    Its environment limits the threads of libraries, some of which read it only as they are loaded. Ctrl-C is held back
    while it starts, and the new process inherits that: the terminal sends it to all processes, but only the main one
    may answer. The user's script is not imported again by the worker, which has no use for it: a script that calls the
    pipeline without `if __name__ == "__main__"` would start itself again and again.
    """
    main = sys.modules["__main__"]
    identity = {name: main.__dict__[name] for name in ("__spec__", "__file__") if name in main.__dict__}
    saved = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    # Started here, because it would lift the hold on Ctrl-C.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for name, value in saved.items():
            own = int(value) if value is not None and value.isdigit() else threads
            os.environ[name] = str(min(own, threads))
        main.__dict__.pop("__file__", None)
        main.__spec__ = None
        yield
    finally:
        del main.__spec__
        main.__dict__.update(identity)
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_worker(directory: str, search_path: list[str]) -> None:
    """Set up a worker process: where it is, where modules are found, and that it does not outlive its parent."""
    os.chdir(directory)
    sys.path[:] = search_path
    project = str(Path(__file__).resolve().parents[1])
    if project not in sys.path:
        sys.path.append(project)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Without this a worker whose parent was killed would finish its task, in the way of the run that comes next.
    multiprocessing.parent_process().join()
    _kill_descendants(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_descendants(pid: int) -> None:
    with suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
