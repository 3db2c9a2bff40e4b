"""The part of a Dask cluster's executor that runs on the Dask workers: each job in a process of its own below them.

So a job that dies leaves the Dask worker alone, several can run at once below one, and one that is no longer wanted can
be stopped at once, which Dask itself can not do with a thread.
"""

import threading
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

from pipeline.work import Job, Outcome
from pipeline.worker_process import ProcessSetup, WorkerProcess

POLL_S = 0.2


class _Processes:
    """The worker processes of one run below one Dask worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[WorkerProcess] = []
        self._busy: list[WorkerProcess] = []

    def take(self, setup: ProcessSetup) -> WorkerProcess:
        """A process for one job; give it back afterwards."""
        with self._lock:
            worker = self._idle.pop() if self._idle else WorkerProcess(setup)
            self._busy.append(worker)
        return worker

    def give_back(self, worker: WorkerProcess, usable: bool) -> None:
        with self._lock:
            # It is not among them if all were ended meanwhile.
            if worker in self._busy:
                self._busy.remove(worker)
                if usable:
                    self._idle.append(worker)

    def end(self, only_idle: bool = False) -> list[int]:
        """End them all; give their ids."""
        with self._lock:
            workers = self._idle if only_idle else self._idle + self._busy
            self._idle = []
            if not only_idle:
                self._busy = []
        for worker in workers:
            worker.terminate()
        return [worker.process.pid for worker in workers if worker.process is not None]


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
        other.end(only_idle=True)
    processes = _runs.setdefault(run, _Processes())
    worker = processes.take(setup)
    outcome = Outcome(job.number, error="worker killed between two tasks", lost=True)
    with suppress(BrokenProcessPool):
        future = worker.submit(job)
        while not wait([future], POLL_S).done:
            task = dask_worker.state.tasks.get(key)
            if task is None or task.state != "executing" or dask_worker.status.name != "running":
                # The run was stopped, or died.
                end_run(run)
        outcome = worker.outcome(future, job)
    outcome.process = worker.process.pid
    processes.give_back(worker, usable=not outcome.lost)
    return outcome


def end_run(run: str) -> list[int]:
    """End all processes of a run below this Dask worker; give their ids."""
    processes = _runs.pop(run, None)
    return processes.end() if processes else []
