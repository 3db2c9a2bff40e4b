"""Runs in the world: killed at any moment, on full or read-only disks, with clocks and files that lie."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from engine_steps import chain_plan, products

from errors import InputError
from files import PARTIAL_PREFIX
from pipeline import run_plan
from pipeline.records import ContentHashes, Records

SECONDS = 0.004
KILLS = 50
YEAR_S = 365.25 * 86400


def run(root: Path, **options):
    return run_plan(chain_plan(root, seconds=SECONDS), quiet=True, **options)


def partial_files(root: Path) -> list[Path]:
    return list(root.rglob(f"{PARTIAL_PREFIX}*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("undisturbed")
    assert run(root).exit_status == 0
    return products(root)


@pytest.fixture(scope="module")
def server():
    """Processes that have the engine loaded when they begin, so that kills fall into the run and not into imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["engine_steps", "pipeline", "pipeline.runner"])
    return context


def kill_at(server, root: Path, count: int, delay: float) -> bool:
    """Start a run, and kill it `delay` seconds after `count` of its products are there; False if it ended before."""
    outputs = [path for task in chain_plan(root, seconds=SECONDS).tasks for path in task.outputs]
    process = server.Process(target=run, args=(root,))
    process.start()
    while process.exitcode is None and sum(path.exists() for path in outputs) < count:
        time.sleep(1e-3)
    time.sleep(delay)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def test_killed_at_fifty_random_moments_every_run_goes_on_to_the_undisturbed_result(tmp_path, server, undisturbed):
    generator = random.Random(6)
    killed, counts = 0, set()
    for number in range(4 * KILLS):
        root = tmp_path / str(number)
        # From before the first task to the writing of the last record and of the log.
        if not kill_at(server, root, number % 10, generator.uniform(0, 3 * SECONDS)):
            continue
        killed += 1
        final = {name: text for name, text in products(root).items() if PARTIAL_PREFIX not in name}
        counts.add(len(final))
        assert final.items() <= undisturbed.items()
        result = run(root)
        assert result.exit_status == 0
        assert products(root) == undisturbed
        assert partial_files(root) == []
        assert json.loads((root / "logs/run.json").read_text())["status"] == "finished"
        assert len(run(root).skipped) == 9
        if killed == KILLS:
            break
    assert killed == KILLS
    assert len(counts) >= 6


def test_killed_again_and_again_one_root_comes_to_its_end(tmp_path, server, undisturbed):
    generator = random.Random(7)
    for count in range(9):
        kill_at(server, tmp_path, count, generator.uniform(0, SECONDS))
    assert run(tmp_path).exit_status == 0
    assert products(tmp_path) == undisturbed
    assert partial_files(tmp_path) == []


# --- disks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs more rights")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_fills_up_costs_no_half_file_and_the_next_run_goes_on(small_disk, undisturbed):
    root = small_disk / "root"
    chain_plan(root)
    ballast = root / "stage0" / "ballast"
    for left in (0, 4096, 16384, 40960):
        ballast.write_bytes(b"")
        with open(ballast, "wb", buffering=0) as stream:
            free = os.statvfs(small_disk)
            stream.write(bytes(max(0, free.f_bavail * free.f_frsize - left)))
        try:
            result = run(root)
        except InputError as error:
            assert "can not be written" in str(error) and "No space left" in str(error)
        else:
            assert result.exit_status == 1
            assert any("No space left" in failure.error for failure in result.failed)
        ballast.unlink()
        assert products(root).items() <= undisturbed.items()
        assert partial_files(root) == []
    assert run(root).exit_status == 0
    assert products(root) == undisturbed


@pytest.fixture
def read_only(tmp_path):
    """Makes directories read-only, also for root, who may write everywhere."""
    mounted = []

    def make(directory: Path) -> None:
        if os.geteuid() != 0:
            directory.chmod(0o555)
            return
        bind = subprocess.run(["mount", "--bind", directory, directory], capture_output=True, check=False)
        if bind.returncode:
            pytest.skip("a read-only directory for root needs the right to mount")
        mounted.append(directory)
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)

    def mend(directory: Path) -> None:
        if os.geteuid() != 0:
            directory.chmod(0o755)
        else:
            subprocess.run(["umount", "--lazy", directory], check=True)
            mounted.remove(directory)

    yield make, mend
    for directory in list(mounted):
        mend(directory)


def test_a_read_only_root_is_one_sentence(tmp_path, read_only):
    make, mend = read_only
    root = tmp_path / "root"
    chain_plan(root)
    make(root)
    with pytest.raises(InputError, match="can not be written"):
        run(root)
    mend(root)


def test_a_read_only_output_directory_costs_its_tasks_alone(tmp_path, read_only, undisturbed):
    make, mend = read_only
    root = tmp_path / "root"
    (root / "stage2").mkdir(parents=True)
    make(root / "stage2")
    result = run(root)
    assert [failure.step for failure in result.failed] == ["stage2"] * 4
    assert all("ermission denied" in f.error or "Read-only" in f.error for f in result.failed)
    assert len(result.done) == 4
    mend(root / "stage2")
    assert len(run(root).done) == 5
    assert products(root) == undisturbed


# --- what lies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("years", [-40, 30])
def test_a_clock_that_jumps_changes_nothing(tmp_path, undisturbed, years):
    """Files from the future or from before their inputs are judged by their content."""
    run(tmp_path)
    moment = time.time() + years * YEAR_S
    for number, path in enumerate(sorted(path for path in tmp_path.rglob("*") if path.is_file())):
        # Not even in the order in which they were made.
        os.utime(path, (moment - 60 * number,) * 2)
    assert len(run(tmp_path).skipped) == 9
    # Neither is a record older than what it is of, nor is a new input that seems old taken for the one before.
    changed = tmp_path / "stage0/exposure 1.txt"
    changed.write_text("other photons;")
    os.utime(changed, (0, 0))
    assert len(run(tmp_path).done) == 3
    changed.write_text("photons of exposure 1.txt;")
    os.utime(changed, (moment, moment))
    assert run(tmp_path).exit_status == 0
    assert products(tmp_path) == undisturbed


def test_a_clock_set_back_between_runs_keeps_every_run_s_log(tmp_path, monkeypatch):
    for now in ("2030-01-01T00:00:00+00:00", "2020-01-01T00:00:00+00:00", "2030-01-01T00:00:00+00:00"):
        monkeypatch.setattr("pipeline.runlog._now", lambda now=now: now)
        assert run(tmp_path).exit_status == 0
    kept = [json.loads(path.read_text())["start"][:4] for path in sorted((tmp_path / "logs").glob("run-*.json"))]
    assert kept == ["2020", "2030"]
    assert len(run(tmp_path).skipped) == 9


def test_an_input_that_changes_between_runs_never_leaves_a_stale_product(tmp_path):
    """Whatever is killed, changed back or changed in part: products belong to the inputs as they are."""
    generator = random.Random(8)
    for _ in range(12):
        path = tmp_path / f"stage0/exposure {generator.randrange(4)}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{generator.choice(['photons', 'PHOTONS', 'electrons'])};")
        assert run(tmp_path).exit_status == 0
        raw = [(tmp_path / f"stage0/exposure {n}.txt").read_text() for n in range(4)]
        expected = "".join(f"{text}>exposure {n}.txt>exposure {n}.txt" for n, text in enumerate(raw))
        assert (tmp_path / "stage3/combined/cube.txt").read_text() == expected


def damaged_records(content: bytes, generator: random.Random) -> list[bytes]:
    """Bytes flipped, cut and doubled, and values of the wrong type under every name."""
    versions = [b"", content[: len(content) // 2], content + content, b"null", b"{}"]
    for _ in range(20):
        changed = bytearray(content)
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
        versions.append(bytes(changed))
    record = json.loads(content)
    versions += [json.dumps({**record, name: bad}).encode() for name in record for bad in (None, 3, "x", [1], {"a": 1})]
    return versions


def test_a_damaged_record_never_stops_a_run_nor_spoils_its_result(tmp_path, undisturbed):
    run(tmp_path)
    plan = chain_plan(tmp_path, seconds=SECONDS)
    path = Records(tmp_path, ContentHashes(tmp_path)).path(plan.tasks[1].outputs[0])
    for content in damaged_records(path.read_bytes(), random.Random(9)):
        path.write_bytes(content)
        result = run(tmp_path)
        assert result.exit_status == 0
        assert len(result.done) <= 1
        assert products(tmp_path) == undisturbed


def test_other_damaged_files_of_a_root_never_stop_a_run(tmp_path, undisturbed):
    run(tmp_path)
    generator = random.Random(10)
    for name in ("hashes.json", "run.json", "run.toml", ".lock"):
        path = tmp_path / "logs" / name
        for content in (b"", b"\xff\x00", b"[]", b'{"start": 3, "x": [1, 2]}', generator.randbytes(200)):
            path.write_bytes(content)
            assert run(tmp_path).exit_status == 0
            assert products(tmp_path) == undisturbed
