"""Worker processes, and what happens to them: killed, interrupted, out of memory, orphaned."""

import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from engine_steps import chain_plan, products

from files import PARTIAL_PREFIX
from pipeline import Plan, RunLocked, Task, run_plan
from pipeline.executors import Executor, ProcessExecutor

REPOSITORY = Path(__file__).parents[1]

# Without `if __name__ == "__main__"`, as users write scripts.
SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from engine_steps import chain_plan
from pipeline import run_plan
plan = chain_plan(Path({root!r}), n_exposures={n_exposures}, seconds={seconds})
sys.exit(run_plan(plan, parallel={parallel}).exit_status)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("undisturbed")
    assert run_plan(chain_plan(root), quiet=True).exit_status == 0
    return products(root)


def make_task(root: Path, function: str, name: str, inputs=(), memory: float = 0.0, **arguments) -> Task:
    path_out = root / "step" / name
    arguments = {"path_out": path_out, **arguments}
    return Task("step", f"engine_steps:{function}", arguments, tuple(inputs), (path_out,), memory=memory)


def start_script(root: Path, parallel: float | bool, seconds: float = 0.0, n_exposures: int = 4, **options):
    script = root.parent / "user_script.py"
    paths = [str(REPOSITORY), str(REPOSITORY / "tests")]
    script.write_text(
        SCRIPT.format(paths=paths, root=str(root), n_exposures=n_exposures, seconds=seconds, parallel=parallel)
    )
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, str(script)], start_new_session=True, text=True, **streams)


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def partial_files(root: Path) -> list[Path]:
    return list(root.rglob(f"{PARTIAL_PREFIX}*"))


@contextlib.contextmanager
def ended_afterwards(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_processes_make_what_one_process_makes(tmp_path, undisturbed):
    result = run_plan(chain_plan(tmp_path), parallel=2, quiet=True)
    assert result.exit_status == 0
    assert products(tmp_path) == undisturbed
    assert run_plan(chain_plan(tmp_path), quiet=True).done == []
    facts = [json.loads((tmp_path / "logs/run.json").read_text())["tasks"][n]["facts"] for n in (-1, 0)]
    assert facts == [{"n_inputs": 4}, {}]


def test_workers_have_the_parent_s_environment_and_one_thread_each(tmp_path, monkeypatch):
    monkeypatch.setenv("CRDS_PATH", "/somewhere/crds cache")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    tasks = [make_task(tmp_path, "describe_process", name) for name in ("a", "b", "c")]
    main = vars(sys.modules["__main__"]).copy()
    result = run_plan(Plan(tmp_path, tasks), parallel=2, quiet=True)
    assert result.exit_status == 0
    seen = [(tmp_path / "step" / name).read_text().splitlines() for name in ("a", "b", "c")]
    for crds_path, omp, openblas, directory, pid, main_file in seen:
        assert crds_path == "/somewhere/crds cache"
        assert int(omp) == int(openblas) == 1
        assert directory == str(tmp_path)
        assert int(pid) != os.getpid()
        assert main_file == "None"
    assert os.environ["OMP_NUM_THREADS"] == "64"
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    assert vars(sys.modules["__main__"]) == main
    assert not any(psutil.pid_exists(int(description[4])) for description in seen)


def test_work_goes_on_as_soon_as_its_inputs_exist(tmp_path):
    """Steps are not done in lock step: the quick exposure is through both before the slow one has ended the first."""
    journal = tmp_path / "journal"
    plan = chain_plan(tmp_path, n_exposures=2, seconds=0.05, journal=journal)
    tasks = list(plan.tasks)
    tasks[0] = Task(**{**vars(tasks[0]), "arguments": {**tasks[0].arguments, "seconds": 1.0}})
    assert run_plan(Plan(tmp_path, tasks), parallel=2, quiet=True).exit_status == 0
    events = [line.rsplit(" ", 2)[0] for line in journal.read_text().splitlines()]
    assert events.index("start exposure 1.txt", events.index("end exposure 1.txt")) < events.index("end exposure 0.txt")


def test_memory_limits_how_many_run_at_once(tmp_path):
    (tmp_path / "in").write_text("x")
    inputs = [tmp_path / "in"]
    journal = tmp_path / "journal"
    tasks = [
        make_task(tmp_path, "take_time", name, inputs, 8e9, path_in=inputs[0], seconds=0.05, journal=journal)
        for name in "abc"
    ]
    # Each needs more than half of it, and one alone runs even if it needs more than there is.
    tasks.append(make_task(tmp_path, "take_time", "d", inputs, 9e12, path_in=inputs[0], seconds=0, journal=journal))
    executor = ProcessExecutor(2, memory=10e9)
    assert run_plan(Plan(tmp_path, tasks), executor=executor, quiet=True).exit_status == 0
    words = [line.split()[0] for line in journal.read_text().splitlines()]
    assert words == ["start", "end"] * 4


def test_a_killed_task_is_run_once_more_on_a_fresh_worker(tmp_path):
    plan = Plan(tmp_path, [make_task(tmp_path, "die_once", "phoenix", marker=tmp_path / "marker")])
    result = run_plan(plan, parallel=2, quiet=True)
    assert result.exit_status == 0
    assert (tmp_path / "step/phoenix").read_text() == "survived"
    assert result.done[0].notes == ["worker killed (out of memory?); run again"]
    assert "attempt 1" in plan.logs[0].read_text()
    assert "attempt 2" in plan.logs[0].read_text()


def test_a_task_that_kills_its_worker_twice_costs_only_itself(tmp_path):
    (tmp_path / "in").write_text("x")
    inputs = [tmp_path / "in"]
    others = [make_task(tmp_path, "take_time", name, inputs, path_in=inputs[0], seconds=0.05) for name in "abcd"]
    killers = [make_task(tmp_path, "die", "killer 1"), make_task(tmp_path, "write_then_die", "killer 2")]
    result = run_plan(Plan(tmp_path, [others[0], *killers, *others[1:]]), parallel=2, quiet=True)
    assert result.exit_status == 1
    assert [failure.name for failure in result.failed] == ["step/killer 1", "step/killer 2"]
    assert {failure.error for failure in result.failed} == {"worker killed (out of memory?), 2 times"}
    assert sorted(path.name for path in (tmp_path / "step").iterdir()) == ["a", "b", "c", "d"]
    assert partial_files(tmp_path) == []


class _Killing(ProcessExecutor):
    """Kills one of its workers in the middle of a task, as an operator would."""

    def __init__(self, number: int) -> None:
        super().__init__(2)
        self._victim = number

    def wait(self, timeout):
        for worker, job in self._busy.values():
            if job.number == self._victim and job.attempt == 1 and job.log.exists():
                os.kill(worker.process.pid, signal.SIGKILL)
                self._victim = -1
        return super().wait(min(timeout, 0.02))


def test_a_worker_killed_from_outside_is_replaced(tmp_path, undisturbed):
    result = run_plan(chain_plan(tmp_path, seconds=0.2), executor=_Killing(2), quiet=True)
    assert result.exit_status == 0
    assert [done.name for done in result.done if done.notes and "killed" in done.notes[0]] == ["stage1/exposure 2.txt"]
    assert products(tmp_path) == undisturbed
    assert partial_files(tmp_path) == []


class _Recording(Executor):
    """Runs nothing: shows that the loop asks an executor for nothing else than what it promises."""

    capacity = 3

    def __init__(self) -> None:
        self.calls: list[str] = []

    def submit(self, job) -> None:
        self.calls.append("submit")
        raise KeyboardInterrupt

    def wait(self, timeout):
        return []

    def close(self) -> None:
        self.calls.append("close")

    def terminate(self) -> None:
        self.calls.append("terminate")


def test_an_interrupted_executor_is_terminated(tmp_path):
    executor = _Recording()
    result = run_plan(chain_plan(tmp_path), executor=executor, quiet=True)
    assert executor.calls == ["submit", "terminate"]
    assert result.exit_status == 130
    assert [result.results[n].status for n in (0, 1)] == ["interrupted", "waiting"]


def test_a_script_without_a_guard_runs_in_parallel(tmp_path, undisturbed):
    root = tmp_path / "root"
    with ended_afterwards(start_script(root, parallel=2)) as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert products(root) == undisturbed
    assert out.count("stage1") == 1


@pytest.mark.parametrize("parallel", [False, 2])
@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(tmp_path, undisturbed, parallel, whole_group):
    root = tmp_path / "root"
    with ended_afterwards(start_script(root, parallel, seconds=0.3)) as process:
        wait_for(lambda: any((root / "logs/records").glob("*.json")) and partial_files(root))
        children = psutil.Process(process.pid).children(recursive=True)
        # A terminal sends it to every process of the group, `kill` to one.
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "interrupted" in out
    assert "Traceback" not in out + err
    assert partial_files(root) == []
    # The resource tracker of Python itself ends a moment later.
    assert psutil.wait_procs(children, timeout=3)[1] == []
    run = json.loads((root / "logs/run.json").read_text())
    assert run["status"] == "interrupted"
    assert {task["status"] for task in run["tasks"]} >= {"done", "interrupted", "waiting"}
    result = run_plan(chain_plan(root, seconds=0.3), parallel=4, quiet=True)
    assert result.exit_status == 0
    assert len(result.skipped) >= 1
    assert products(root) == undisturbed


def test_ctrl_c_ends_what_tasks_have_started(tmp_path):
    plan = Plan(tmp_path, [make_task(tmp_path, "run_child", "waiter", seconds=60)])
    executor = ProcessExecutor(1)
    pid_file = tmp_path / "step/waiter.pid"

    def interrupt(timeout):
        wait_for(lambda: pid_file.exists() and pid_file.read_text())
        raise KeyboardInterrupt

    executor.wait = interrupt
    assert run_plan(plan, executor=executor, quiet=True).exit_status == 130
    wait_for(lambda: not is_running(int(pid_file.read_text())), 3)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_a_random_moment_the_next_run_goes_on(tmp_path, undisturbed, seed):
    root = tmp_path / "root"
    moment = random.Random(seed).uniform(0.0, 1.2)
    with ended_afterwards(start_script(root, parallel=seed % 3, seconds=0.1)) as process:
        wait_for(lambda: (root / "logs").exists())
        time.sleep(moment)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=5)
        # No worker outlives the run by more than a moment.
        assert psutil.wait_procs(children, timeout=3)[1] == []
        done = {path: path.stat().st_mtime_ns for path in root.glob("stage1/*.txt")}
    final = {name: text for name, text in products(root).items() if PARTIAL_PREFIX not in name}
    assert final.items() <= undisturbed.items()
    result = run_plan(chain_plan(root, seconds=0.1), quiet=True, parallel=4)
    assert result.exit_status == 0
    assert products(root) == undisturbed
    assert partial_files(root) == []
    # At most those that had just been written and were not recorded yet are made again.
    assert len([path for path, modified in done.items() if path.stat().st_mtime_ns != modified]) <= 2


def test_a_second_run_names_the_first(tmp_path):
    root = tmp_path / "root"
    with ended_afterwards(start_script(root, parallel=False, seconds=1)) as process:
        wait_for(lambda: (root / "logs/.lock").exists() and (root / "logs/.lock").read_text())
        with pytest.raises(RunLocked, match=f"process {process.pid} on"):
            run_plan(chain_plan(root))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert run_plan(chain_plan(root), quiet=True).exit_status == 0


def test_bars_on_a_terminal_count_every_task(tmp_path):
    root = tmp_path / "root"
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with ended_afterwards(start_script(root, parallel=2, stdout=theirs, stderr=theirs)) as process:
        os.close(theirs)
        seen = b""
        # Reading from a terminal nobody writes to any more is an error on Linux.
        with contextlib.suppress(OSError):
            while block := os.read(ours, 65536):
                seen += block
        process.wait(timeout=10)
    os.close(ours)
    text = seen.decode()
    assert process.returncode == 0
    for step, count in (("stage1", 4), ("stage2", 4), ("stage3", 1)):
        assert f"{step}: 100%" in text
        assert f"{count}/{count}" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("parallel", [False, 1])
def test_an_interrupt_that_gets_lost_comes_again(tmp_path, parallel):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    task = make_task(tmp_path, "lose_an_interrupt", "out.txt", pid=os.getpid())
    start = time.monotonic()
    result = run_plan(Plan(tmp_path, [task]), parallel=parallel, quiet=True)
    assert result.exit_status == 130
    assert time.monotonic() - start < 25
    assert not task.outputs[0].exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
