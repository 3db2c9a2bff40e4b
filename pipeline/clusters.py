"""Where a run runs, as its user says: processes of this machine, or a Dask cluster by its name.

A cluster is a scheduler's address, `slurm`, or `local`.
"""

import importlib.util
import math
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from errors import InputError, OptionError
from pipeline.dask_executor import ANSWER_S, DaskExecutor
from pipeline.executors import Executor, available_cores, make_executor
from pipeline.memory import memory_budget, parse_bytes

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy import Cluster

SLURM, LOCAL = "slurm", "local"
ADDRESS = re.compile(r"[a-z]+://.+")
# A scheduler that was given to us has, or soon gets, workers. Jobs of SLURM may wait in its queue for days.
PATIENCE_S = 300.0


class ClusterError(InputError):
    """A cluster can not be reached or started."""


def choose_executor(
    parallel: float | bool = False,
    cluster: str | None = None,
    workers: int | None = None,
    memory_limit: str | float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Executor:
    """The executor that the options of a run ask for.

    Parameters
    ----------
    parallel
        See `executors.count_workers`; without a cluster.
    cluster, workers, environment
        See `cluster_executor`.
    memory_limit
        What tasks on one machine may need together, in bytes or as '16GB'.

    Raises
    ------
    InputError
        If the options make no sense.
    """
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    if cluster is not None:
        if parallel is not False:
            raise OptionError("--parallel is for this machine alone: leave it out with --cluster.")
        return cluster_executor(cluster, workers, limit, environment)
    if workers is not None:
        raise OptionError("--workers is for --cluster: on this machine --parallel says how many.")
    return make_executor(parallel, limit)


def check_cluster(cluster: str, workers: int | None = None) -> None:
    """Make sure that there can be a cluster of that name, without starting it.

    Parameters
    ----------
    cluster
        'tcp://HOST:PORT', 'slurm' or 'local'.
    workers
        How many workers to start.

    Raises
    ------
    OptionError
        If the name or the number of workers makes no sense.
    ClusterError
        If a package is missing.
    """
    if cluster not in (SLURM, LOCAL) and not ADDRESS.fullmatch(cluster):
        raise OptionError(f"--cluster: {cluster!r} is unknown; give a scheduler's address, 'slurm' or 'local'.")
    if workers is not None and (workers < 1 or workers != int(workers)):
        raise OptionError(f"--workers is {workers}: give a whole number from 1 up.")
    if cluster == SLURM and workers is None:
        raise OptionError("--cluster slurm needs --workers N: how many to ask for.")
    if workers is not None and ADDRESS.fullmatch(cluster):
        raise OptionError(f"--workers is for clusters that are started for the run; {cluster} has its own.")
    for package, name in (("distributed", "distributed"), ("dask_jobqueue", "dask-jobqueue")):
        if (cluster == SLURM or package == "distributed") and importlib.util.find_spec(package) is None:
            raise ClusterError(f"--cluster {cluster} needs the package {name}: pip install -r requirements-cluster.txt")
    if cluster == SLURM and shutil.which("sbatch") is None:
        raise ClusterError("--cluster slurm: there is no sbatch here; run this where jobs are submitted.")


def cluster_executor(
    cluster: str,
    workers: int | None = None,
    memory_limit: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> DaskExecutor:
    """The executor for a cluster; it connects when there is something to run.

    Parameters
    ----------
    cluster, workers
        See `check_cluster`. A local cluster without a number takes as many jobs at once as there are cores.
    memory_limit
        Bytes that the jobs on one worker may need together; None leaves it to the workers' own limits.
    environment
        Variables that jobs are to find.

    Raises
    ------
    InputError
        As `check_cluster`.
    """
    check_cluster(cluster, workers)
    limit = math.inf if memory_limit is None else memory_limit
    if ADDRESS.fullmatch(cluster):
        return DaskExecutor(
            lambda: _connect(cluster, cluster), patience=PATIENCE_S, memory=limit, environment=environment
        )
    if cluster == LOCAL:
        started = _Started(lambda: _start_local(workers or available_cores(), memory_budget(memory_limit)), LOCAL)
    else:
        started = _Started(lambda: _start_slurm(workers), SLURM)
    patience = PATIENCE_S if cluster == LOCAL else math.inf
    return DaskExecutor(started.connect, started.end, patience=patience, memory=limit, environment=environment)


class _Started:
    """A cluster that is started for a run and ended with it."""

    def __init__(self, start: "Callable[[], Cluster]", name: str) -> None:
        self._start, self._name = start, name
        self._cluster: Cluster | None = None

    def connect(self) -> "Client":
        self._cluster = self._start()
        return _connect(self._cluster.scheduler_address, self._name)

    def end(self) -> None:
        if self._cluster is not None:
            self._cluster.close(timeout=ANSWER_S)


def _connect(address: str, name: str) -> "Client":
    from distributed import Client

    try:
        return Client(address, timeout=ANSWER_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ClusterError(f"--cluster {name}: no Dask scheduler answers at {address} ({reason})") from error


def _start_local(slots: int, memory: float) -> "Cluster":
    from distributed import LocalCluster

    # One worker, so that its jobs share one account of the memory there is, and in this process: jobs have their own.
    return LocalCluster(
        n_workers=1, threads_per_worker=slots, processes=False, memory_limit=int(memory), dashboard_address=":0"
    )


def _start_slurm(workers: int) -> "Cluster":
    import dask

    # Importing it makes Ctrl-C end the process without a word.
    former = signal.getsignal(signal.SIGINT)
    from dask_jobqueue import SLURMCluster

    signal.signal(signal.SIGINT, former)
    unset = [name for name in ("cores", "memory") if dask.config.get(f"jobqueue.slurm.{name}") is None]
    if unset:
        raise ClusterError(
            f"--cluster slurm: {' and '.join(unset)} of a job are not set; write them under jobqueue: slurm: in "
            "~/.config/dask/jobqueue.yaml."
        )
    cluster = SLURMCluster()
    # Asked for again when they end, as they do when their time is up.
    cluster.adapt(minimum=workers, maximum=workers)
    return cluster
