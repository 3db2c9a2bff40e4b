"""The plan: what it refuses, how tasks depend on one another, and how it describes itself."""

from pathlib import Path

import numpy as np
import pytest
from engine_steps import chain_plan

from errors import InputError
from pipeline import DiskFull, Plan, PlanError, Task, check_disk_space
from pipeline.executors import available_cores, count_workers
from pipeline.memory import available_in_cgroup, memory_budget, parse_bytes
from pipeline.plan import plain_value


def make_task(root: Path, name_in: str, name_out: str, step: str = "stage1", **fields) -> Task:
    path_in, path_out = root / name_in, root / name_out
    arguments = fields.pop("arguments", {"path_in": path_in, "path_out": path_out})
    return Task(step, "engine_steps:touch", arguments, (path_in,), (path_out,), **fields)


def test_dependencies_follow_from_files(tmp_path):
    plan = chain_plan(tmp_path, n_exposures=2)
    names = [plan.name(number) for number in range(len(plan.tasks))]
    assert names[0] == "stage1/exposure 0.txt"
    assert plan.steps == ("stage1", "stage2", "stage3")
    assert plan.dependants == [[2], [3], [4], [4], []]
    assert set(plan.producers[4].values()) == {2, 3}


def test_two_tasks_may_not_write_one_file(tmp_path):
    tasks = [make_task(tmp_path, "stage0/a", "stage1/x"), make_task(tmp_path, "stage0/b", "stage1/x", step="stage2")]
    with pytest.raises(PlanError, match=r"'stage1' and 'stage2'.*stage1/x"):
        Plan(tmp_path, tasks)


def test_one_file_is_recognised_through_links(tmp_path):
    (tmp_path / "stage1").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "stage1")
    tasks = [make_task(tmp_path, "stage0/a", "stage1/x"), make_task(tmp_path, "stage0/b", "link/x")]
    with pytest.raises(PlanError, match="would write"):
        Plan(tmp_path, tasks)
    plan = Plan(tmp_path, [tasks[0], make_task(tmp_path, "link/x", "stage2/x", step="stage2")])
    assert plan.dependants[0] == [1]


@pytest.mark.parametrize(
    "pairs",
    [[("stage1/a", "stage1/a")], [("stage1/a", "stage1/b"), ("stage1/b", "stage1/c"), ("stage1/c", "stage1/a")]],
)
def test_circles_are_refused(tmp_path, pairs):
    with pytest.raises(PlanError, match="its own output"):
        Plan(tmp_path, [make_task(tmp_path, *pair) for pair in pairs])


def test_outputs_stay_in_the_root_and_out_of_stage0(tmp_path):
    root = tmp_path / "root"
    with pytest.raises(PlanError, match="user's own files"):
        Plan(root, [make_task(root, "stage0/a", "stage0/b")])
    with pytest.raises(PlanError, match="outside"):
        Plan(root, [make_task(root, "stage0/a", "../elsewhere/b")])
    (root / "stage0").mkdir(parents=True)
    (root / "link").symlink_to(root / "stage0")
    with pytest.raises(PlanError, match="user's own files"):
        Plan(root, [make_task(root, "stage0/a", "link/b")])


def test_a_stage_may_be_a_link_to_another_disk(tmp_path):
    root = tmp_path / "root"
    (tmp_path / "big disk").mkdir()
    root.mkdir()
    (root / "stage1").symlink_to(tmp_path / "big disk")
    plan = Plan(root, [make_task(root, "stage0/a", "stage1/b")])
    assert plan.name(0) == "stage1/b"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"arguments": {"scale": object()}}, "can not be recorded"),
        ({"minimum_inputs": 1}, "argument of its own"),
        ({"droppable": (Path("/elsewhere"),)}, "not an input"),
    ],
)
def test_wrong_fields_are_named(tmp_path, fields, match):
    with pytest.raises(PlanError, match=match) as caught:
        Plan(tmp_path, [make_task(tmp_path, "stage0/a", "stage1/a", **fields)])
    assert isinstance(caught.value, InputError)


def test_unknown_steps_and_tasks_without_output_are_refused(tmp_path):
    with pytest.raises(PlanError, match="not among"):
        Plan(tmp_path, [make_task(tmp_path, "stage0/a", "stage1/a")], steps=["stage2"])
    with pytest.raises(PlanError, match="no output"):
        Plan(tmp_path, [Task("stage1", "engine_steps:touch", {}, (), ())])
    with pytest.raises(PlanError, match="module:function"):
        Plan(tmp_path, [Task("stage1", "touch", {}, (), (tmp_path / "x",))])


def test_logs_have_short_unique_names(tmp_path):
    outputs = ["d1/cube", "d2/cube", "d1/other", "groups/d1/cube"]
    tasks = [make_task(tmp_path, "stage0/a", f"stage3/{name}", step="stage3") for name in outputs]
    tasks.append(make_task(tmp_path, "stage0/a", "stage4/cube", step="stage4"))
    names = [path.relative_to(tmp_path / "logs").as_posix() for path in Plan(tmp_path, tasks).logs]
    assert names == [
        "stage3/stage3__d1__cube.log",
        "stage3/d2__cube.log",
        "stage3/other.log",
        "stage3/groups__d1__cube.log",
        "stage4/cube.log",
    ]


def test_description_shows_files_and_parameters_relative_to_the_root(tmp_path):
    text = chain_plan(tmp_path, n_exposures=5, seconds=0.25).describe()
    assert "stage1: 5 tasks" in text
    assert "stage0/exposure 3.txt -> stage1/exposure 3.txt" in text
    assert "engine_steps:take_time(" in text
    assert "seconds=0.25" in text
    assert "(5 files) -> stage3/combined/cube.txt" in text
    assert str(tmp_path) not in text.splitlines()[-1]


def test_relative_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = Plan("root", [make_task(Path("root"), "stage0/a", "stage1/a")])
    assert plan.tasks[0].arguments["path_in"] == plan.tasks[0].inputs[0] == tmp_path / "root" / "stage0" / "a"


def test_plain_values_are_equal_for_equal_parameters(tmp_path):
    first = {"a": np.float64(0.5), "b": np.arange(3), "c": (1, 2), "d": tmp_path / "x", "e": {"k": np.int32(4)}}
    second = {"a": 0.5, "b": [0, 1, 2], "c": [1, 2], "d": tmp_path / "x", "e": {"k": 4}}
    assert plain_value(first, tmp_path) == plain_value(second, tmp_path)
    assert plain_value(np.nan, tmp_path) == plain_value(float("nan"), tmp_path)
    assert plain_value(tmp_path / "x", tmp_path) != plain_value("x", tmp_path)
    assert plain_value(True, tmp_path) is True


def test_number_of_workers():
    cores = available_cores()
    assert count_workers(False) == 0
    assert count_workers(True) == count_workers(1.0) == cores
    assert count_workers(1e-6) == 1
    assert count_workers(0.5) == max(1, cores // 2)
    assert count_workers(7) == 7
    for wrong in (-1, 2.5, float("nan"), "all"):
        with pytest.raises(InputError, match="parallel"):
            count_workers(wrong)


@pytest.mark.parametrize(
    ("size", "n_bytes"), [("16GB", 16e9), ("512 mb", 512e6), ("2GiB", 2**31), (1e9, 1e9), ("1.5T", 1.5e12), ("7", 7)]
)
def test_amounts_of_memory(size, n_bytes):
    assert parse_bytes(size) == n_bytes


@pytest.mark.parametrize("size", ["", "lots", "-1GB", "0", "1.2.3GB", "inf", float("nan")])
def test_what_is_no_amount_of_memory(size):
    with pytest.raises(InputError, match="no amount of memory"):
        parse_bytes(size)


def write_group(directory: Path, names: tuple[str, str], limit: str, used: int, cache: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / names[0]).write_text(limit)
    (directory / names[1]).write_text(str(used))
    (directory / "memory.stat").write_text(f"anon 5\n{cache}\n")


def test_limits_of_control_groups_count(tmp_path):
    """Both versions; the narrowest of the groups above one another; cached files count as free."""
    own = tmp_path / "own"
    second, first = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    assert available_in_cgroup(tmp_path, own) == np.inf
    own.write_text("0::/job/step\n")
    assert available_in_cgroup(tmp_path, own) == np.inf
    write_group(tmp_path / "job/step", second, "max\n", 0, "inactive_file 0")
    assert available_in_cgroup(tmp_path, own) == np.inf
    write_group(tmp_path / "job", second, "8000000000\n", 3_000_000_000, "inactive_file 1000000000")
    assert available_in_cgroup(tmp_path, own) == 6e9
    own.write_text("9:cpuset:/\n4:cpu,memory:/job\n")
    write_group(tmp_path / "memory", first, str(2**63 - 4096), 0, "total_inactive_file 0")
    write_group(tmp_path / "memory/job", first, "4000000000", 4_500_000_000, "total_inactive_file 0")
    assert available_in_cgroup(tmp_path, own) == 0
    # In a container only the mount itself is seen.
    own.write_text("4:memory:/docker/0123\n")
    write_group(tmp_path / "memory", first, "5000000000", 1_000_000_000, "total_inactive_file 0")
    assert available_in_cgroup(tmp_path, own) == 4e9


def test_the_memory_budget_is_the_narrowest_of_all(monkeypatch):
    free = memory_budget()
    assert memory_budget(1e6) == 1e6
    assert memory_budget(1e18) == pytest.approx(free, rel=0.3)
    monkeypatch.setattr("pipeline.memory.available_in_cgroup", lambda: 1e6)
    assert memory_budget() == 0.8e6


def test_disk_space_is_checked_where_the_directory_is_to_be(tmp_path):
    check_disk_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(DiskFull, match="GB free"):
        check_disk_space(tmp_path / "not" / "yet", 1e18)
