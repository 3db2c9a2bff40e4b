"""Running plans: what is done stays done, what changed is made anew, what fails costs nothing else."""

import gc
import json
import logging
import os
import shutil
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import psutil
import pytest
from engine_steps import chain_plan, products
from threadpoolctl import threadpool_info, threadpool_limits

from errors import InputError
from pipeline import Plan, PlanError, RunLocked, Task, pending_tasks, run_plan
from pipeline.housekeeping import root_lock
from pipeline.records import ContentHashes, Records
from pipeline.runlog import RunLog

CHAIN_PRODUCT = "".join(f"photons of exposure {n}.txt;>exposure {n}.txt>exposure {n}.txt" for n in range(4))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "Saturn's north pole \N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.mark.parametrize("parallel", [False, 1])
def test_tasks_have_one_thread_wherever_they_run(root, parallel):
    """Of more, sums are rounded in another order: one run in a row and one side by side would differ."""
    tasks = [single_task(root, "count_threads")]
    with threadpool_limits(2):
        assert run_quietly(Plan(root, tasks), parallel=parallel).exit_status == 0
        assert max(library["num_threads"] for library in threadpool_info()) == 2
    assert (root / "step/out.txt").read_text() == "1"


def run_quietly(plan: Plan, **options):
    return run_plan(plan, quiet=True, **options)


def single_task(root: Path, function: str, name: str = "out.txt", step: str = "step", inputs=(), **arguments) -> Task:
    path_out = root / step / name
    return Task(step, f"engine_steps:{function}", {"path_out": path_out, **arguments}, tuple(inputs), (path_out,))


def names_of(results) -> list[str]:
    return [result.name for result in results]


def change_time(path: Path) -> None:
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000_000))


# What a run makes and leaves behind


def test_a_chain_is_made_in_the_order_of_its_files(root):
    result = run_quietly(chain_plan(root))
    assert result.exit_status == 0
    assert len(result.done) == 9
    assert (root / "stage3/combined/cube.txt").read_text() == CHAIN_PRODUCT
    assert not result.warnings


def test_order_of_tasks_does_not_matter(root):
    plan = chain_plan(root)
    result = run_quietly(Plan(root, plan.tasks[::-1]))
    assert result.exit_status == 0
    assert (root / "stage3/combined/cube.txt").read_text().count("photons") == 4


def test_run_json_tells_the_whole_run_and_keeps_the_one_before(root):
    plan = chain_plan(root)
    options = {"command": ["miri_pipeline.py", "x"], "settings": {"root": root}, "versions": {"jwst": "1"}}
    run_quietly(plan, **options)
    first = json.loads((root / "logs/run.json").read_text())
    assert first["command"] == ["miri_pipeline.py", "x"]
    assert first["versions"] == {"jwst": "1"}
    assert first["status"] == "finished"
    assert first["exit_status"] == 0
    assert first["start"] < first["end"]
    last = first["tasks"][-1]
    assert last["step"] == "stage3"
    assert last["status"] == "done"
    assert last["inputs"] == [f"stage2/exposure {n}.txt" for n in range(4)]
    assert last["outputs"] == ["stage3/combined/cube.txt"]
    assert last["facts"] == {"n_inputs": 4}
    assert last["notes"] == ["joined 4"]
    assert last["peak_memory"] > 1e6
    assert (root / last["log"]).read_text().rstrip().splitlines()[-1].startswith("done in")
    run_quietly(plan)
    second = json.loads((root / "logs/run.json").read_text())
    assert {task["status"] for task in second["tasks"]} == {"skipped"}
    assert second["tasks"][-1]["facts"] == {"n_inputs": 4}
    (kept,) = (root / "logs").glob("run-*.json")
    assert json.loads(kept.read_text()) == first


def test_the_console_is_quiet_and_the_table_counts(root, capfd):
    result = run_plan(chain_plan(root))
    out, err = capfd.readouterr()
    assert err.splitlines()[0].startswith("stage1: 4 done")
    assert len(err.splitlines()) == 3
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["step", "done", "as", "before", "failed", "not", "run", "time"]
    assert rows[1][:5] == ["stage1", "4", "0", "0", "0"]
    assert result.table in out
    run_plan(chain_plan(root), quiet=True)
    assert capfd.readouterr() == ("", "")
    run_plan(chain_plan(root))
    out, err = capfd.readouterr()
    assert out.splitlines()[1].split()[:5] == ["stage1", "0", "4", "0", "0"]
    assert err == ""


def test_everything_a_task_says_goes_to_its_log(root, capfd):
    logger = logging.getLogger("stand_in")
    before = (list(logging.getLogger().handlers), logging.getLogger().level, list(logger.handlers), sys.stdout)
    filters, show = list(warnings.filters), warnings.showwarning
    plan = Plan(root, [single_task(root, "be_loud", name) for name in ("first", "second")])
    result = run_plan(plan)
    assert len(result.done) == 2
    for log in plan.logs:
        lines = log.read_text().splitlines()
        for said in ("on stdout", "on stderr", "in the log", "as a warning", "by a child", "from C"):
            assert sum(line.endswith(f"said {said}") for line in lines) == 1, said
        assert "too softly" not in log.read_text()
    out, err = capfd.readouterr()
    assert "said" not in out + err
    assert (list(logging.getLogger().handlers), logging.getLogger().level, list(logger.handlers), sys.stdout) == before
    assert (list(warnings.filters), warnings.showwarning) == (filters, show)
    assert logging.root.manager.disable == logging.NOTSET
    assert "a warning" in out
    assert "a note" in out
    assert result.done[0].facts == {"value": 1.5, "path": str(root / "step/first")}


# What is done stays done


def test_a_finished_run_is_not_repeated(root):
    run_quietly(chain_plan(root))
    times = {path: path.stat().st_mtime_ns for path in root.glob("stage*/**/*.txt")}
    result = run_quietly(chain_plan(root))
    assert len(result.skipped) == 9
    assert times == {path: path.stat().st_mtime_ns for path in root.glob("stage*/**/*.txt")}


@pytest.mark.parametrize("way", ["copied", "moved"])
def test_a_copied_or_moved_root_stays_done(root, way):
    run_quietly(chain_plan(root))
    other = root.parent / "elsewhere"
    if way == "moved":
        root.rename(other)
    else:
        shutil.copytree(root, other, copy_function=shutil.copy)
    assert len(run_quietly(chain_plan(other)).skipped) == 9


def test_new_times_alone_change_nothing(root):
    run_quietly(chain_plan(root))
    for path in root.glob("stage*/**/*.txt"):
        change_time(path)
    assert len(run_quietly(chain_plan(root)).skipped) == 9


def test_a_changed_input_costs_what_depends_on_it(root):
    run_quietly(chain_plan(root))
    (root / "stage0/exposure 2.txt").write_text("other photons;")
    result = run_quietly(chain_plan(root))
    assert names_of(result.done) == ["stage1/exposure 2.txt", "stage2/exposure 2.txt", "stage3/combined/cube.txt"]
    assert "other photons" in (root / "stage3/combined/cube.txt").read_text()


def test_a_change_that_keeps_size_and_time_is_seen(root):
    run_quietly(chain_plan(root))
    path = root / "stage0/exposure 2.txt"
    status = path.stat()
    path.write_text(path.read_text().replace("photons", "PHOTONS"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert len(run_quietly(chain_plan(root)).done) == 3


def test_parameters_versions_and_overwrite_make_anew(root):
    plan = chain_plan(root)
    run_quietly(plan)
    result = run_quietly(chain_plan(root, seconds=1e-3))
    # The files of the first two steps come out the same, so what is made of them stays.
    assert len(result.done) == 8
    assert names_of(result.skipped) == ["stage3/combined/cube.txt"]
    run_quietly(plan)
    tasks = [Task(**{**vars(task), "versions": {"jwst": "2"}}) for task in plan.tasks[:4]]
    assert len(run_quietly(Plan(root, tasks)).done) == 4
    assert len(run_quietly(plan, overwrite=True).done) == 9


def test_a_change_of_the_function_s_module_makes_anew(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "changing_step.py"
    module.write_text("def make(path_out):\n    path_out.write_text('1')\n")
    plan = Plan(root, [Task("step", "changing_step:make", {"path_out": root / "out"}, (), (root / "out",))])
    assert len(run_quietly(plan).done) == len(run_quietly(plan).skipped) == 1
    module.write_text("def make(path_out):\n    path_out.write_text('1')  # in another way\n")
    assert len(run_quietly(plan).done) == 1


def test_a_change_of_a_module_it_imports_makes_anew(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    inner, stranger = tmp_path / "inner_of_step.py", tmp_path / "stranger_to_step.py"
    (tmp_path / "importing_step.py").write_text(
        "def make(path_out):\n    from middle_of_step import text\n\n    path_out.write_text(text())\n"
    )
    (tmp_path / "middle_of_step.py").write_text("import numpy\nfrom inner_of_step import text\n")
    inner.write_text("def text():\n    return '1'\n")
    stranger.write_text("")
    plan = Plan(root, [Task("step", "importing_step:make", {"path_out": root / "out"}, (), (root / "out",))])
    assert len(run_quietly(plan).done) == 1
    stranger.write_text("# nobody imports this\n")
    assert len(run_quietly(plan).skipped) == 1
    inner.write_text("def text():\n    return '2'\n")
    assert len(run_quietly(plan).done) == 1


def _remove(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    os.truncate(path, 5)


def _alter(path: Path) -> None:
    path.write_text(path.read_text().swapcase())


@pytest.mark.parametrize("damage", [_remove, _truncate, _alter])
def test_a_damaged_output_is_made_anew(root, damage):
    run_quietly(chain_plan(root))
    undisturbed = products(root)
    damage(root / "stage2/exposure 1.txt")
    result = run_quietly(chain_plan(root))
    assert names_of(result.done) == ["stage2/exposure 1.txt"]
    assert products(root) == undisturbed


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": 1}', b"\xff\x00"])
def test_a_damaged_record_is_no_record(root, content):
    plan = chain_plan(root)
    run_quietly(plan)
    Records(root, ContentHashes(root)).path(plan.tasks[1].outputs[0]).write_bytes(content)
    result = run_quietly(plan)
    assert names_of(result.done) == ["stage1/exposure 1.txt"]
    assert "damaged" in result.done[0].notes[0]


def test_an_output_without_record_is_not_trusted(root):
    plan = chain_plan(root)
    for task in plan.tasks:
        task.outputs[0].parent.mkdir(parents=True, exist_ok=True)
        task.outputs[0].write_text("left by somebody")
    assert len(run_quietly(plan).done) == 9
    assert (root / "stage3/combined/cube.txt").read_text() == CHAIN_PRODUCT


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 3}', "null"])
def test_lost_hashes_only_cost_reading(root, content):
    run_quietly(chain_plan(root))
    (root / "logs/hashes.json").write_text(content)
    assert len(run_quietly(chain_plan(root)).skipped) == 9


def test_pending_tasks_are_those_that_a_run_would_run(root):
    plan = chain_plan(root)
    assert pending_tasks(plan) == list(plan.tasks)
    run_quietly(plan)
    assert pending_tasks(plan) == []
    (root / "stage1/exposure 1.txt").unlink()
    names = [task.outputs[0].name for task in pending_tasks(plan)]
    # What is made anew may come out differently, so what follows it is pending too.
    assert names == ["exposure 1.txt", "exposure 1.txt", "cube.txt"]
    Records(root, ContentHashes(root)).path(plan.tasks[0].outputs[0]).write_text("{")
    assert len(pending_tasks(plan)) == 5


# What fails


def failing_plan(root: Path, n_bad: int = 1, minimum: int | None = 2) -> Plan:
    plan = chain_plan(root)
    tasks = []
    for number, task in enumerate(plan.tasks):
        if task.step == "stage1":
            if number < n_bad:
                task.inputs[0].write_text("bad pixels")
            arguments = {"path_in": task.inputs[0], "path_out": task.outputs[0], "word": "bad"}
            task = Task("stage1", "engine_steps:fail_on", arguments, task.inputs, task.outputs)
        elif task.step == "stage3":
            task = Task(**{**vars(task), "minimum_inputs": minimum})
        tasks.append(task)
    return Plan(root, tasks)


def test_a_failure_costs_what_depends_on_it_and_no_more(root, capfd):
    result = run_plan(failing_plan(root))
    assert result.exit_status == 1
    assert names_of(result.failed) == ["stage1/exposure 0.txt"]
    assert result.failed[0].error == "ValueError: exposure 0.txt holds bad"
    assert names_of(result.not_run) == ["stage2/exposure 0.txt"]
    assert result.not_run[0].error == "because stage1/exposure 0.txt failed"
    cube = (root / "stage3/combined/cube.txt").read_text()
    assert cube.count("photons") == 3
    assert cube.endswith("[without exposure 0.txt]")
    assert result.warnings == ["stage3 stage3/combined/cube.txt: made without stage2/exposure 0.txt"]
    out, _ = capfd.readouterr()
    assert "ValueError: exposure 0.txt holds bad  (log: logs/stage1/exposure 0.txt.log)" in out
    assert "made without stage2/exposure 0.txt" in out
    assert "Traceback" not in out
    assert "Traceback" in (root / "logs/stage1/exposure 0.txt.log").read_text()
    assert "without" in (root / "logs/stage3/cube.txt.log").read_text()


def test_the_warning_stays_until_the_cause_is_gone(root):
    run_quietly(failing_plan(root))
    again = run_quietly(failing_plan(root))
    assert again.exit_status == 1
    assert names_of(again.failed) == ["stage1/exposure 0.txt"]
    assert len(again.skipped) == 7
    assert again.warnings == ["stage3 stage3/combined/cube.txt: made without stage2/exposure 0.txt"]
    (root / "stage0/exposure 0.txt").write_text("good photons;")
    mended = run_quietly(failing_plan(root, n_bad=0))
    assert mended.exit_status == 0
    assert len(mended.done) == 3
    assert (root / "stage3/combined/cube.txt").read_text().count("photons") == 4


def test_without_inputs_to_spare_a_failure_is_passed_on(root):
    result = run_quietly(failing_plan(root, minimum=None))
    assert names_of(result.not_run) == ["stage2/exposure 0.txt", "stage3/combined/cube.txt"]


def test_too_few_inputs_are_left(root):
    result = run_quietly(failing_plan(root, n_bad=3))
    assert names_of(result.not_run)[-1] == "stage3/combined/cube.txt"
    assert result.not_run[-1].error.startswith("1 of 4 inputs are left, 2 are needed, because stage1/exposure 0.txt")


def test_only_droppable_inputs_are_dropped(root):
    plan = failing_plan(root)
    last = plan.tasks[-1]
    kept = Plan(root, [*plan.tasks[:-1], Task(**{**vars(last), "droppable": last.inputs[1:]})])
    assert names_of(run_quietly(kept).not_run)[-1] == "stage3/combined/cube.txt"


def test_outputs_of_an_earlier_run_are_not_taken_for_new_ones(root):
    run_quietly(failing_plan(root, n_bad=0))
    result = run_quietly(failing_plan(root, n_bad=1))
    assert not (root / "stage1/exposure 0.txt").exists()
    assert (root / "stage3/combined/cube.txt").read_text().count("photons") == 3
    # The user's earlier products are not taken away, but it is said what they are.
    assert (root / "stage2/exposure 0.txt").exists()
    assert "stage2 stage2/exposure 0.txt: the file on disk is that of an earlier run" in result.warnings


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("leave", "SystemExit: 3"),
        ("write_then_fail", "RuntimeError"),
        ("write_nothing", "engine_steps:write_nothing did not write out.txt"),
        ("no_such_function", "AttributeError"),
    ],
)
def test_ways_to_fail(root, function, message):
    result = run_quietly(Plan(root, [single_task(root, function)]))
    assert result.failed[0].error.startswith(message)
    assert products(root) == {}
    assert result.exit_status == 1


def test_an_input_that_changes_during_the_task_fails_it(root):
    path = root / "in.txt"
    root.mkdir()
    path.write_text("x")
    plan = Plan(root, [single_task(root, "change_input", inputs=[path], path_in=path)])
    assert "changed while it was being used" in run_quietly(plan).failed[0].error
    assert not plan.tasks[0].outputs[0].exists()


def test_an_input_that_nobody_makes_is_named(root):
    path = root / "stage0/none.txt"
    plan = Plan(root, [single_task(root, "touch", inputs=[path], path_in=path)])
    assert run_quietly(plan).failed[0].error == "the input stage0/none.txt does not exist"


def test_a_function_without_module_is_refused_before_any_work(root):
    with pytest.raises(PlanError, match="no_such_module"):
        run_plan(Plan(root, [Task("step", "no_such_module:f", {}, (), (root / "x",))]))


def test_a_full_or_read_only_disk_is_an_error_and_no_record(root, monkeypatch):
    """Records that can not be written: the tasks fail with the reason, and are not done the next time."""
    plan = chain_plan(root, n_exposures=1)

    def refuse(path, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.records.write_json", refuse)
        result = run_quietly(plan)
    assert "No space left" in result.failed[0].error
    assert len(run_quietly(plan).failed) == 0


def test_unusable_inputs_are_no_success(root, capfd):
    result = run_plan(chain_plan(root), unusable_inputs=["a_uncal.fits is truncated."])
    assert result.exit_status == 1
    assert len(result.done) == 9
    assert "a_uncal.fits is truncated." in result.warnings
    assert "a_uncal.fits is truncated." in capfd.readouterr().out
    assert json.loads((root / "logs/run.json").read_text())["unusable_inputs"] == ["a_uncal.fits is truncated."]


def test_a_log_that_can_not_be_written_fails_its_task_only(root):
    plan = chain_plan(root, n_exposures=2)
    plan.logs[0].parent.mkdir(parents=True)
    plan.logs[0].mkdir()
    result = run_quietly(plan)
    assert names_of(result.failed) == ["stage1/exposure 0.txt"]
    assert len(result.done) == 2


# Order in the root


def test_orphans_are_removed_and_live_ones_left(root):
    plan = chain_plan(root)
    dead = 2**22 - 3
    orphans = [root / "stage1" / f".partial-{dead}-a.fits", root / "plots/deep" / f".partial-{dead}-b"]
    own = root / "stage1" / f".partial-{os.getpid()}-c"
    user = root / "stage0" / f".partial-{dead}-d"
    reused = root / "stage2" / ".partial-1-e"
    for path in (orphans[0], own, user, reused):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    orphans[1].mkdir(parents=True)
    (orphans[1] / "inside").write_text("half")
    # Older than process 1: its number is in use by another one now.
    os.utime(reused, (1, 1))
    run_quietly(plan)
    assert not any(path.exists() for path in (*orphans, reused))
    assert own.exists()
    assert user.exists()


def test_a_second_run_is_refused_by_name(root):
    plan = chain_plan(root)
    with root_lock(root), pytest.raises(RunLocked, match=rf"process {os.getpid()} on .*started 20..-"):
        run_plan(plan)
    assert run_quietly(plan).exit_status == 0
    assert not (root / "logs/.lock").exists()


def test_the_lock_of_a_dead_process_is_void(root):
    (root / "logs").mkdir(parents=True)
    (root / "logs/.lock").write_text('{"pid": 1, "host": "here", "start": "2024-01-01 00:00:00"}')
    assert run_quietly(chain_plan(root)).exit_status == 0


def test_a_root_that_is_not_writable_is_one_sentence(root):
    root.parent.mkdir(exist_ok=True)
    root.write_text("a file")
    with pytest.raises(InputError, match="can not be written"):
        run_plan(Plan(root, []))


def test_an_empty_plan_is_no_failure(root, capfd):
    assert run_plan(Plan(root, [])).exit_status == 0
    assert "nothing to do" in capfd.readouterr().out


# Speed


def trivial_plan(root, n_tasks):
    tasks = []
    for number in range(n_tasks):
        path_in, path_out = root / f"stage0/{number}.txt", root / f"stage1/{number}.txt"
        path_in.parent.mkdir(parents=True, exist_ok=True)
        path_in.write_text(str(number))
        arguments = {"path_in": path_in, "path_out": path_out}
        tasks.append(Task("stage1", "engine_steps:touch", arguments, (path_in,), (path_out,)))
    return Plan(root, tasks)


def test_the_engine_costs_little_time(root):
    n_tasks = 1000
    plan = trivial_plan(root, n_tasks)
    # Processor time: what else this machine is doing is not the engine's fault.
    start = time.process_time()
    result = run_quietly(plan)
    first = time.process_time()
    assert len(result.done) == n_tasks
    assert (first - start) / n_tasks < 5e-3
    assert len(run_quietly(trivial_plan(root, n_tasks)).skipped) == n_tasks
    assert time.process_time() - first < 1


def test_the_engine_costs_little_memory(tmp_path):
    """What is kept of a task is what became of it, no logs and records; tables of all are written in pieces."""
    run_quietly(trivial_plan(tmp_path / "first", 10))
    plan = trivial_plan(tmp_path / "all", n_tasks := 400)
    tracemalloc.start()
    try:
        result = run_quietly(plan)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
        log = RunLog(plan, result.results, {})
        hashes = ContentHashes(plan.root)
        for path in (tmp_path / "all").rglob("*.txt"):
            hashes.remember(path, ((1, 2, 3, 4), "0" * 64))
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        hashes.save()
        log.finish("finished", 0)
        written = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert kept / n_tasks < 2e3
    assert written < 1e5


@pytest.mark.skipif(sys.platform != "linux", reason="only the C library of GNU gives memory back when asked")
def test_what_a_large_task_took_is_given_back(root, monkeypatch):
    monkeypatch.setattr("pipeline.work.LARGE_MEMORY", 1e8)
    process = psutil.Process()
    before = process.memory_info().rss
    out = root / "stage1/hole.txt"
    result = run_quietly(Plan(root, [Task("stage1", "engine_steps:leave_a_hole", {"path_out": out}, (), (out,))]))
    assert result.done[0].peak_memory > before + 1.5e8
    assert process.memory_info().rss < before + 3e7


def test_small_tasks_in_a_large_process_do_not_wait_for_memory_to_be_given_back(tmp_path, monkeypatch):
    given_back = []
    monkeypatch.setattr("pipeline.work._give_memory_back", lambda: given_back.append(1))
    monkeypatch.setattr("pipeline.work.LARGE_MEMORY", 3e7)
    assert psutil.Process().memory_info().rss > 3e7
    run_quietly(trivial_plan(tmp_path, 5))
    assert given_back == []
