"""The part of a Dask cluster's executor that runs on the Dask workers: each job in a process of its own below them.

So a job that dies leaves the Dask worker alone, several can run at once below one, and one that is no longer wanted can
be stopped at once, which Dask itself can not do with a thread.
"""

import threading
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool

from pipeline.work import Job, Outcome
from pipeline.worker_process import ProcessSetup, WorkerProcess

POLL_S = 0.2
# States of Dask's tasks and workers.
UNWANTED = ("cancelled", "released", "forgotten")
ENDING = ("closing", "closed", "failed")


class _Processes:
    """The worker processes of one run below one Dask worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[WorkerProcess] = []
        self._busy: list[WorkerProcess] = []
        self._pids: set[int] = set()
        self._ended = False

    def start(self, setup: ProcessSetup, job: Job) -> tuple[WorkerProcess, Future]:
        """Start a job; give the process back afterwards. Raises BrokenProcessPool where that is not possible."""
        with self._lock:
            if self._ended:
                raise BrokenProcessPool("the run was stopped")
            worker = self._idle.pop() if self._idle else WorkerProcess(setup)
            future = worker.submit(job)
            self._busy.append(worker)
            self._pids.add(worker.process.pid)
        return worker, future

    def give_back(self, worker: WorkerProcess, usable: bool) -> None:
        """The job of a process has ended."""
        with self._lock:
            # It is not among them if all were ended meanwhile.
            if worker in self._busy:
                self._busy.remove(worker)
                if usable:
                    self._idle.append(worker)

    def end(self) -> list[int]:
        """End them all, and those that were to come; give the ids of all there ever were."""
        with self._lock:
            self._ended = True
            for worker in (*self._idle, *self._busy):
                worker.terminate()
            self._idle, self._busy = [], []
            return sorted(self._pids)

    def end_idle(self) -> None:
        """End those that do nothing."""
        with self._lock:
            for worker in self._idle:
                worker.terminate()
            self._idle = []


# Here and nowhere else can jobs that follow one another on a Dask worker find the processes of the one before.
_runs: dict[str, _Processes] = {}


def run_here(run: str, setup: ProcessSetup, job: Job) -> Outcome:
    """Run a job in a process below this Dask worker, until it ends or is wanted no more.

    Parameters
    ----------
    run
        Names the run of the plan; processes serve one run only.
    setup
        What the process is to find.
    job
        What to run.
    """
    from distributed import get_worker

    dask_worker = get_worker()
    key = dask_worker.get_current_task()
    for other in [other for name, other in list(_runs.items()) if name != run]:
        # Left by a run that was killed. One that is alive starts new ones.
        other.end_idle()
    processes = _runs.setdefault(run, _Processes())
    try:
        worker, future = processes.start(setup, job)
    except BrokenProcessPool:
        # It died while it had nothing to do.
        return Outcome(job.number, error="worker killed between two tasks", lost=True)
    while not wait([future], POLL_S).done:
        task = dask_worker.state.tasks.get(key)
        if task is None or task.state in UNWANTED or dask_worker.status.name in ENDING:
            # The run was stopped or died, or the worker goes.
            processes.end()
    outcome = worker.outcome(future, job)
    outcome.process = worker.process.pid
    processes.give_back(worker, usable=not outcome.lost)
    return outcome


def end_run(run: str) -> list[int]:
    """End all processes of a run below this Dask worker, for good; give their ids."""
    processes = _runs.get(run)
    return [] if processes is None else processes.end()
