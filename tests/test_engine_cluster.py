"""Plans on a Dask cluster: a real scheduler and real workers on loopback, killed in all the ways there are."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import reduce
from engine_steps import chain_plan, products
from test_end_to_end import assert_same_data
from test_engine_processes import ended_afterwards, is_running, make_task, partial_files, wait_for

from errors import InputError
from pipeline import Plan, Task, run_plan
from pipeline.clusters import ClusterError, check_cluster, cluster_executor
from pipeline.dask_executor import DaskExecutor
from pipeline.work import Job

pytest.importorskip("distributed")

REPOSITORY = Path(__file__).parents[1]
SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from conftest import reduce
from engine_steps import chain_plan
from pipeline import run_plan
from pipeline.clusters import cluster_executor
plan = chain_plan(Path({root!r}), seconds={seconds})
sys.exit(run_plan(plan, executor=cluster_executor({address!r})).exit_status)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("undisturbed")
    assert run_plan(chain_plan(root), quiet=True).exit_status == 0
    return products(root)


def start(log: Path, *command, **options) -> subprocess.Popen:
    """Start a command of Dask as a user would, without this project on its search path."""
    with open(log, "a") as stream:
        return subprocess.Popen([sys.executable, "-m", *map(str, command)], stdout=stream, stderr=stream, **options)


def start_scheduler(directory: Path) -> tuple[subprocess.Popen, str]:
    contact = directory / "scheduler.json"
    command = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard")
    process = start(directory / "scheduler.log", *command, "--scheduler-file", contact)
    wait_for(contact.exists, 60)
    return process, json.loads(contact.read_text())["address"]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a scheduler without workers."""
    process, address = start_scheduler(tmp_path_factory.mktemp("scheduler"))
    yield address
    process.kill()
    process.wait()


@pytest.fixture
def start_worker(scheduler, tmp_path):
    """Starts workers: one process each, which takes one job at a time unless told otherwise."""
    processes = []

    def start_one(*options, address=scheduler) -> subprocess.Popen:
        command = ("distributed.cli.dask_worker", address, "--no-dashboard", "--local-directory", tmp_path / "dask")
        nanny = () if "--nanny" in options else ("--no-nanny",)
        log = tmp_path / f"worker {len(processes)}.log"
        process = start(log, *command, "--nthreads", 1, *nanny, *options, cwd=tmp_path)
        processes.append(process)
        wait_for(lambda: "Registered to" in log.read_text(), 60)
        return process

    yield start_one
    for process in processes:
        children = psutil.Process(process.pid).children() if process.poll() is None else []
        process.kill()
        process.wait()
        # Those of a nanny; the jobs' own processes end with theirs.
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def run_on(scheduler: str, plan: Plan, **options):
    return run_plan(plan, executor=cluster_executor(scheduler, **options), quiet=True)


def journal_of(root: Path) -> list[list[str]]:
    """What tasks noted: 'start' or 'end', name, process, time."""
    path = root.parent / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return [[line.split(" ")[0], *line.partition(" ")[2].rsplit(" ", 2)] for line in lines]


def slow_plan(root: Path, seconds: float) -> Plan:
    return chain_plan(root, seconds=seconds, journal=root.parent / "journal")


def test_a_cluster_makes_what_one_process_makes(root, scheduler, start_worker, undisturbed, monkeypatch):
    monkeypatch.setenv("CRDS_PATH", "/not/this/one")
    start_worker(), start_worker()
    plan = slow_plan(root, seconds=0.3)
    where = make_task(root, "describe_process", "where")
    result = run_on(scheduler, Plan(root, [*plan.tasks, where]), environment={"CRDS_PATH": "/of/the/run"})
    assert result.exit_status == 0, result.table
    crds_path, threads, _, directory, _, _ = (root / "step/where").read_text().splitlines()
    assert (crds_path, threads, directory) == ("/of/the/run", "1", os.getcwd())
    (root / "step/where").unlink()
    assert products(root) == undisturbed
    assert len({process for _, _, process, _ in journal_of(root)}) == 2
    tasks = json.loads((root / "logs/run.json").read_text())["tasks"]
    assert all(task["host"] and task["peak_memory"] for task in tasks)
    assert "done in" in (root / tasks[0]["log"]).read_text()
    assert run_plan(plan, quiet=True).done == []


def test_work_goes_on_as_soon_as_its_inputs_exist(root, scheduler, start_worker):
    start_worker("--nthreads", 2)
    tasks = list(slow_plan(root, seconds=0.05).tasks)
    tasks[0] = Task(**{**vars(tasks[0]), "arguments": {**tasks[0].arguments, "seconds": 2.5}})
    assert run_on(scheduler, Plan(root, tasks)).exit_status == 0
    # One worker with two threads: two jobs at once, each in a process of its own.
    events = [(place, name) for place, name, *_ in journal_of(root)]
    assert events.count(("start", "exposure 3.txt")) == 2
    assert events.index(("end", "exposure 0.txt")) > events.index(("end", "exposure 3.txt")) + 1


def test_a_killed_worker_s_task_goes_elsewhere_and_if_all_are_killed_the_next_run_goes_on(
    root, scheduler, start_worker, undisturbed
):
    workers = [start_worker(), start_worker()]
    executor = _Impatient(scheduler, patience=2.0)
    killed = []

    def kill_in_mid_task(running: list[str]) -> None:
        journal = journal_of(root)
        if not killed and any(place == "end" for place, *_ in journal) and len(running) == 2:
            killed.append(workers[0])
            workers[0].kill()
        elif len(killed) == 1 and sum(place == "end" for place, *_ in journal) >= 6 and running:
            killed.append(workers[1])
            workers[1].kill()

    executor.before_wait = kill_in_mid_task
    result = run_plan(slow_plan(root, seconds=0.4), executor=executor, quiet=True)
    assert len(killed) == 2
    assert result.exit_status == 1
    assert "no Dask worker has been there" in result.table
    notes = [note for task in result.results for note in task.notes]
    assert any("was lost; run again" in note for note in notes)
    # What the killed workers had made and not yet handed over is lost with them.
    assert 3 <= len(result.done) < 9
    assert result.failed == []
    assert partial_files(root) == []
    done = {path: path.stat().st_mtime_ns for path in root.glob("stage?/*.txt")}
    start_worker()
    again = run_on(scheduler, slow_plan(root, seconds=0.4))
    assert again.exit_status == 0, again.table
    assert len(again.skipped) == len(result.done)
    assert products(root) == undisturbed
    assert all(path.stat().st_mtime_ns == modified for path, modified in done.items())


class _Impatient(DaskExecutor):
    """Gives up soon when there is no worker, and lets a test act in the middle of the run."""

    def __init__(self, address: str, patience: float) -> None:
        executor = cluster_executor(address)
        super().__init__(executor._connect, patience=patience)
        self.before_wait = lambda running: None

    def wait(self, timeout):
        self.before_wait([job.outputs[0].name for _, job, _ in self._futures.values()])
        return super().wait(0.05)


def test_what_kills_its_process_or_its_worker_twice_is_named(root, scheduler, start_worker):
    start_worker("--nanny"), start_worker("--nanny")
    survivor = make_task(root, "die_once", "survivor", marker=root.parent / "marker")
    killers = [make_task(root, "die", "killer"), make_task(root, "kill_dask_worker", "murderer"), survivor]
    result = run_on(scheduler, Plan(root, killers))
    assert result.exit_status == 1
    assert [task.name for task in result.failed] == ["step/killer", "step/murderer"]
    assert result.failed[0].error == "worker killed (out of memory?), 2 times"
    assert "was lost, 2 times" in result.failed[1].error
    assert [task.name for task in result.done] == ["step/survivor"]
    assert sorted(path.name for path in (root / "step").iterdir()) == ["survivor"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_a_stopped_run_s_jobs_stop_on_the_workers(root, scheduler, start_worker, undisturbed, how):
    worker = start_worker("--nthreads", 2)
    script = root.parent / "user_script.py"
    paths = [str(REPOSITORY), str(REPOSITORY / "tests")]
    script.write_text(SCRIPT.format(paths=paths, root=str(root), seconds=30, address=scheduler))
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with ended_afterwards(subprocess.Popen([sys.executable, script], start_new_session=True, **streams)) as process:
        wait_for(lambda: len(partial_files(root)) == 2, 60)
        jobs = [child for child in psutil.Process(worker.pid).children() if "spawn_main" in " ".join(child.cmdline())]
        assert len(jobs) == 2
        os.kill(process.pid, how)
        process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -9)
    assert psutil.wait_procs(jobs, timeout=5)[1] == []
    if how == signal.SIGINT:
        assert partial_files(root) == []
    assert run_on(scheduler, chain_plan(root)).exit_status == 0
    assert products(root) == undisturbed
    assert partial_files(root) == []


def test_a_lost_scheduler_ends_the_run_with_its_table(root, start_worker, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.dask_executor.ANSWER_S", 2)
    process, address = start_scheduler(tmp_path)
    start_worker(address=address)
    executor = _Impatient(address, patience=60.0)
    executor.before_wait = lambda running: process.kill() if journal_of(root) else None
    before = time.monotonic()
    result = run_plan(slow_plan(root, seconds=60), executor=executor, quiet=True)
    process.wait()
    assert time.monotonic() - before < 60
    assert result.exit_status == 1
    assert "the Dask scheduler does not answer any more" in result.table
    assert {task.status for task in result.results} == {"interrupted", "waiting"}


def test_jobs_go_where_there_is_memory_for_them():
    """The small ones to the small worker, the large ones to the large; what fits nowhere to the largest, alone."""
    executor = DaskExecutor(lambda: None, memory=40e9)
    for address, slots, memory in (("small", 2, 8e9), ("large", 4, 64e9)):
        executor._nodes[address] = executor._make_node({"nthreads": slots, "memory_limit": memory})

    def place(number: int, memory: float) -> str | None:
        job = Job(number, "f", {}, (), (), (), {}, Path("log"), memory=memory)
        address = executor._place(job)
        if address is not None:
            executor._nodes[address].jobs[number] = job
        return address

    assert executor.capacity == executor.lookahead == 6
    assert [place(0, 5e9), place(1, 5e9), place(2, 3e9), place(3, 1e9)] == ["small", "large", "small", "large"]
    # 40 GB are all that may be used of the large one.
    assert [place(4, 35e9), place(5, 34e9), place(6, 50e9), place(7, 1.0)] == [None, "large", None, None]
    executor._nodes["large"].jobs.clear()
    assert [place(8, 50e9), place(9, 1.0)] == ["large", None]


SBATCH = """#!/bin/sh
cp "$1" "{directory}/job.sh"
setsid sh "{directory}/job.sh" > "{directory}/job.log" 2>&1 &
echo $! >> "{directory}/pids"
echo "Submitted batch job $!"
"""


def test_slurm_jobs_are_asked_for_and_cancelled(root, tmp_path, monkeypatch, undisturbed):
    """With stand-ins for `sbatch` and `scancel` that run the job script on this machine."""
    dask = pytest.importorskip("dask")
    pytest.importorskip("dask_jobqueue")
    for name, text in (("sbatch", SBATCH), ("scancel", '#!/bin/sh\nkill -- "-$1"\n')):
        (tmp_path / name).write_text(text.format(directory=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    own = {
        "scheduler-options": {"dashboard_address": ":0"},
        "cores": 2,
        "processes": 1,
        "memory": "2GB",
        "walltime": "00:07:00",
        "local-directory": str(tmp_path),
    }
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in own.items()}):
        result = run_plan(chain_plan(root), executor=cluster_executor("slurm", 1), quiet=True)
    assert result.exit_status == 0, result.table
    assert products(root) == undisturbed
    script = (tmp_path / "job.sh").read_text()
    assert "#SBATCH -t 00:07:00" in script
    assert "#SBATCH --cpus-per-task=2" in script
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_for(lambda: not any(map(is_running, pids)), 10)


def test_slurm_without_its_settings_is_one_sentence(root, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ClusterError, match="no sbatch"):
        check_cluster("slurm", 1)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    with pytest.raises(ClusterError, match=r"cores and memory of a job are not set.*jobqueue\.yaml"):
        run_plan(chain_plan(root), executor=cluster_executor("slurm", 1), quiet=True)


def test_a_local_cluster_needs_nothing_running(root, undisturbed):
    assert run_plan(chain_plan(root), executor=cluster_executor("local", 2), quiet=True).exit_status == 0
    assert products(root) == undisturbed


@pytest.mark.parametrize(
    ("cluster", "workers", "message"),
    [
        ("slrum", None, "'slrum' is unknown"),
        ("slurm", None, "--workers N"),
        ("local", 0, "--workers is 0"),
        ("tcp://host:8786", 4, "has its own"),
    ],
)
def test_clusters_that_make_no_sense_are_refused(cluster, workers, message):
    with pytest.raises(InputError, match=message):
        check_cluster(cluster, workers)


def test_missing_packages_and_schedulers_are_one_sentence(root, monkeypatch):
    monkeypatch.setattr("pipeline.clusters.ANSWER_S", 0.5)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 "):
        run_plan(chain_plan(root), executor=cluster_executor("tcp://127.0.0.1:9"), quiet=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"needs the package distributed: pip install -r requirements-cluster.txt"):
        check_cluster("local")


def test_the_demo_s_cubes_come_out_the_same(observation, scheduler, start_worker, tmp_path):
    data = observation.copy(tmp_path / "data")
    start_worker(), start_worker()
    flags = ["--start_step", "navigate", "--end_step", "despike", "--no_defringe_1d", "--overwrite"]
    result = reduce(data, *flags, "--cluster", scheduler)
    assert result.status == 0, result.output
    cubes = [path for path in observation.root.glob("stage5_despike/*/*_nav.fits") if "_" not in path.parent.name]
    assert len(cubes) == 10
    for cube in cubes:
        assert_same_data(data.root / cube.relative_to(observation.root), cube)
    run = json.loads((data.root / "logs" / "run.json").read_text())
    assert run["settings"]["cluster"] == scheduler
    assert {task["status"] for task in run["tasks"]} == {"done"}


def test_options_that_contradict_one_another_are_refused(raw_observation):
    for flags, part in (
        (["--cluster", "local", "--parallel"], "--parallel is for this machine"),
        (["--workers", "3"], "--workers is for --cluster"),
        (["--memory_limit", "lots"], "'lots' is no amount of memory"),
    ):
        result = reduce(raw_observation, *flags)
        assert result.status == 2
        assert result.output.strip().splitlines()[-1].startswith("error: ") and part in result.output
