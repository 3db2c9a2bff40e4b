"""Jobs on a Dask cluster: one that is running, one that SLURM gives, or one on this machine.

Which Dask worker runs which job is decided here and not by Dask's scheduler: a job goes to a worker that has a free
thread and enough memory left, and comes back as lost when that worker does not come back. Dask carries it there, and
tells which workers there are. All machines must see the same files under the same names.
"""

import math
import pickle
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from pipeline.executors import Executor, ExecutorLost
from pipeline.work import Job, Outcome, one_line
from pipeline.worker_process import ProcessSetup

if TYPE_CHECKING:
    from distributed import Client, Future

PROJECT = str(Path(__file__).resolve().parents[1])
# How often the workers are counted.
REFRESH_S = 1.0
# How long the scheduler may take to answer, and a Dask worker to hand over an outcome.
ANSWER_S = 20.0
MEMORY_RESOURCE = "MEMORY"


@dataclass
class _Node:
    """A Dask worker: how many jobs it takes at once, bytes they may need together, and those it has."""

    slots: int
    memory: float
    resource: float | None = None
    jobs: dict[int, Job] = field(default_factory=dict)

    @property
    def used(self) -> float:
        return sum(job.memory for job in self.jobs.values())


class DaskExecutor(Executor):
    """Runs jobs on the workers of a Dask cluster, which may come and go.

    Parameters
    ----------
    connect
        Gives the client of the cluster, once there is something to run.
    disconnect
        Called at the end, after the client is closed: to end a cluster that was started for this.
    patience
        How long to wait without any worker before the run is given up [s].
    memory
        Bytes that the jobs on one worker may need together, if that is less than the worker's own limit.
    environment
        Variables that jobs are to find.
    """

    def __init__(
        self,
        connect: Callable[[], "Client"],
        disconnect: Callable[[], None] = lambda: None,
        *,
        patience: float = math.inf,
        memory: float = math.inf,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.memory = memory
        self._connect, self._disconnect = connect, disconnect
        self._patience = patience
        self._setup = ProcessSetup(environment=dict(environment or {}))
        self._run = f"run-{secrets.token_hex(8)}"
        self._client: Client | None = None
        self._nodes: dict[str, _Node] = {}
        self._futures: dict[int, tuple[Future, Job, str]] = {}
        self._ended: SimpleQueue[tuple[int, Future]] = SimpleQueue()
        self._pids: set[int] = set()
        self._next_refresh = 0.0
        self._last_seen = time.monotonic()

    @property
    def capacity(self) -> int:
        """As many jobs as all workers have threads; 1 while there is none."""
        return max(1, sum(node.slots for node in self._nodes.values()))

    @property
    def lookahead(self) -> int:
        """Any job may go to a worker that the first one does not fit on."""
        return self.capacity

    def fits(self, job: Job, running: Collection[Job]) -> bool:
        if self._client is None:
            self._client = self._connect()
            self._last_seen = time.monotonic()
            self._refresh()
        return self._place(job) is not None

    def submit(self, job: Job) -> None:
        address = self._place(job)
        node = self._nodes[address]
        node.jobs[job.number] = job
        content = pickle.dumps((self._run, self._setup, job))
        hint = None if node.resource is None else {MEMORY_RESOURCE: min(job.memory, node.resource)}
        future = self._client.submit(
            _make_runner(PROJECT),
            content,
            key=f"{self._run}-{job.number}-{job.attempt}",
            workers=[address],
            allow_other_workers=False,
            resources=hint,
            pure=False,
        )
        self._futures[job.number] = (future, job, address)
        future.add_done_callback(lambda done, number=job.number: self._ended.put((number, done)))

    def wait(self, timeout: float) -> list[Outcome]:
        ended = []
        with suppress(Empty):
            ended.append(self._ended.get(timeout=timeout))
            while True:
                ended.append(self._ended.get_nowait())
        # A job that was lost may end all the same; by then it is not among the futures, or another one is.
        outcomes = [
            self._collect(number)
            for number, future in ended
            if number in self._futures and self._futures[number][0] is future
        ]
        if time.monotonic() >= self._next_refresh:
            outcomes += self._refresh()
        return outcomes

    def close(self) -> None:
        """End the jobs' processes, the client, and the cluster if it was started for this."""
        self.terminate()

    def terminate(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        # Whatever is not reachable any more can not be told; its jobs end with it.
        with suppress(Exception):
            client.cancel([future for future, *_ in self._futures.values()], force=True)
            if client.status == "running":
                ended = client.run(_make_ender(PROJECT), self._run, on_error="ignore")
                self._pids.update(pid for pids in ended.values() for pid in pids)
        self._futures.clear()
        self._nodes.clear()
        with suppress(Exception):
            client.close(timeout=ANSWER_S)
        self._disconnect()

    def processes(self) -> list[int]:
        return sorted(self._pids)

    def _place(self, job: Job) -> str | None:
        """The worker that a job goes to: the smallest it fits on, so that those with much memory stay free."""
        largest = max((node.memory for node in self._nodes.values()), default=0.0)
        fitting = [
            (node.memory, len(node.jobs) / node.slots, address)
            for address, node in self._nodes.items()
            if len(node.jobs) < node.slots
            and (node.used + job.memory <= node.memory or (not node.jobs and node.memory >= largest))
        ]
        return min(fitting)[2] if fitting else None

    def _collect(self, number: int) -> Outcome:
        from distributed.scheduler import KilledWorker

        future, address = self._forget(number)
        try:
            outcome = future.result(timeout=ANSWER_S)
        except KilledWorker:
            return Outcome(number, error=f"Dask worker {address} was lost", lost=True)
        except Exception as error:
            if future.status != "error":
                return Outcome(number, error=f"Dask worker {address} was lost", lost=True)
            return Outcome(number, error=f"Dask worker {address}: {one_line(error)}")
        self._pids.add(outcome.process)
        return outcome

    def _forget(self, number: int) -> "tuple[Future, str]":
        future, _, address = self._futures.pop(number)
        if address in self._nodes:
            self._nodes[address].jobs.pop(number, None)
        return future, address

    def _refresh(self) -> list[Outcome]:
        """See which workers there are; give the jobs of those that are gone as lost."""
        try:
            present = self._client.sync(self._client.scheduler.ncores, callback_timeout=ANSWER_S)
            if set(present) - set(self._nodes):
                workers = self._client.sync(self._client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER_S)
                for address, facts in workers["workers"].items():
                    self._nodes.setdefault(address, self._make_node(facts))
        except Exception as error:
            raise ExecutorLost(f"the Dask scheduler does not answer any more ({one_line(error)})") from error
        now = time.monotonic()
        self._next_refresh = now + REFRESH_S
        if present:
            self._last_seen = now
        elif now - self._last_seen > self._patience:
            raise ExecutorLost(f"no Dask worker has been there for {self._patience:.0f} s")
        for address in set(self._nodes) - set(present):
            del self._nodes[address]
        lost = [number for number, (*_, address) in self._futures.items() if address not in self._nodes]
        outcomes = []
        for number in lost:
            future, address = self._forget(number)
            self._client.cancel([future], force=True)
            outcomes.append(Outcome(number, error=f"Dask worker {address} was lost", lost=True))
        return outcomes

    def _make_node(self, facts: Mapping[str, Any]) -> _Node:
        resource = facts.get("resources", {}).get(MEMORY_RESOURCE)
        own = min(facts.get("memory_limit") or math.inf, math.inf if resource is None else resource)
        return _Node(facts["nthreads"], min(own, self.memory), resource)


# Dask sends functions that are made inside others by their code, so workers need not know where the project is before.


def _make_runner(project: str) -> Callable[[bytes], Outcome]:
    def run(content: bytes) -> Any:
        import pickle
        import sys

        if project not in sys.path:
            sys.path.append(project)
        from pipeline.dask_jobs import run_here

        return run_here(*pickle.loads(content))

    return run


def _make_ender(project: str) -> Callable[[str], list[int]]:
    def end(run: str) -> list[int]:
        import sys

        if project not in sys.path:
            sys.path.append(project)
        from pipeline.dask_jobs import end_run

        return end_run(run)

    return end
