"""A process that runs jobs one after another: started afresh (spawned), and gone when its parent is.

Each is a pool of one process, so that one that dies takes only its own job with it.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path

import psutil

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

# Starting a process changes what all threads of this one share.
_start_lock = threading.Lock()


@dataclass(frozen=True)
class ProcessSetup:
    """What a worker process is to find: as in the process that runs the plan, on whatever machine it is.

    Parameters
    ----------
    directory
        The working directory.
    search_path
        Where modules are found.
    environment
        Variables to set, on top of those of the process that starts it.
    """

    directory: str = field(default_factory=os.getcwd)
    search_path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    environment: Mapping[str, str] = field(default_factory=dict)


class WorkerProcess:
    """A pool of one process."""

    def __init__(self, setup: ProcessSetup) -> None:
        self._setup = setup
        self._context = _Context()
        self._ending = threading.Lock()
        self._pool = ProcessPoolExecutor(
            max_workers=1, mp_context=self._context, initializer=_start_worker, initargs=(setup,)
        )

    @property
    def process(self) -> SpawnProcess | None:
        """The process; None before the first job."""
        return self._context.process

    def submit(self, job: Job) -> Future:
        """Start a job. Raises BrokenProcessPool if the process died since the last one."""
        with nullcontext() if self.process else _spawning():
            return self._pool.submit(run_job, job)

    def outcome(self, future: Future, job: Job) -> Outcome:
        """What became of a job that has ended; a lost one has taken this worker with it."""
        try:
            return future.result()
        except BrokenProcessPool:
            cause = self._cause_of_death()
            self.terminate()
            return Outcome(job.number, error=cause, lost=True)
        except Exception as error:
            # The job could not be sent to the process.
            return Outcome(job.number, error=one_line(error))

    def _cause_of_death(self) -> str:
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
        """End the process when its job has ended."""
        self._pool.shutdown(wait=True)

    def terminate(self) -> None:
        """End the process at once, with all that it started."""
        # A pool can not be shut down by two threads at once: one that waits for the job and one that stops the run.
        with self._ending:
            if self.process is not None:
                _kill_descendants(self.process.pid)
                self.process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)


class _Context(SpawnContext):
    """Spawns processes, and knows the one it made."""

    process: SpawnProcess | None = None

    def Process(self, *args, **kwargs) -> SpawnProcess:
        self.process = SpawnProcess(*args, **kwargs)
        return self.process


@contextmanager
def _spawning() -> Iterator[None]:
    """The conditions under which a worker process is started.

    Ctrl-C is held back while it starts, and the new process inherits that: the terminal sends it to all processes, but
    only the main one may answer. The user's script is not imported again by the worker, which has no use for it: a
    script that calls the pipeline without `if __name__ == "__main__"` would start itself again and again. And a Dask
    worker below a nanny is a daemon, which Python allows no children lest they outlive it; these do not.
    """
    main = sys.modules["__main__"]
    own = multiprocessing.current_process()._config
    with _start_lock:
        identity = {name: main.__dict__[name] for name in ("__spec__", "__file__") if name in main.__dict__}
        daemon = own.get("daemon", False)
        # Started here, because it would lift the hold on Ctrl-C.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            own["daemon"] = False
            main.__dict__.pop("__file__", None)
            main.__spec__ = None
            yield
        finally:
            del main.__spec__
            main.__dict__.update(identity)
            own["daemon"] = daemon
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_worker(setup: ProcessSetup) -> None:
    """Set up a worker process: where it is, what it finds, and that it does not outlive its parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(setup.directory)
    os.environ.update(setup.environment)
    # Libraries read these as they are loaded, later.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    sys.path[:] = setup.search_path
    project = str(Path(__file__).resolve().parents[1])
    if project not in sys.path:
        sys.path.append(project)


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
