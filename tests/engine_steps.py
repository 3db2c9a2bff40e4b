"""Cheap stand-ins for steps, for the tests of the engine: text files in, text files out."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from files import written_whole
from pipeline import Plan, Task


def write(path_out: Path, text: str) -> None:
    """Write a text whole."""
    with written_whole(path_out) as path:
        path.write_text(text)


def join(paths_in: list[Path], path_out: Path, suffix: str = "") -> dict:
    """Write the texts of the inputs one after the other."""
    write(path_out, "".join(path.read_text() for path in paths_in) + suffix)
    return {"n_inputs": len(paths_in), "notes": f"joined {len(paths_in)}"}


def join_most(paths_in: list[Path], path_out: Path, missing: list[Path]) -> dict:
    """As `join`, and name what is missing."""
    names = ",".join(path.name for path in missing)
    return join(paths_in, path_out, suffix=f"[without {names}]" if names else "")


def touch(path_in: Path, path_out: Path) -> None:
    """The cheapest task there is: no waiting for the disk."""
    path_out.write_bytes(path_in.read_bytes())


def fail_on(path_in: Path, path_out: Path, word: str) -> None:
    """Fail if the input holds a word, else copy it."""
    if word in path_in.read_text():
        raise ValueError(f"{path_in.name} holds {word}\nsecond line")
    write(path_out, path_in.read_text())


def leave_a_hole(path_out: Path) -> None:
    """Take 160 MB in small blocks and free all but the last, which the C library then can not give back by itself."""
    blocks = [ctypes.create_string_buffer(16_000) for _ in range(10_000)]
    globals()["last_block"] = blocks[-1]
    write(path_out, "done")


def leave(path_out: Path) -> None:
    """Exit as crds does when it gives up."""
    sys.exit(3)


def write_nothing(path_out: Path) -> None:
    """Promise an output and not write it."""


def write_then_fail(path_out: Path) -> None:
    """Fail when an output is there already."""
    write(path_out, "too early")
    raise RuntimeError


def write_then_die(path_out: Path) -> None:
    """Be killed when an output is there already."""
    write(path_out, "too early")
    os.kill(os.getpid(), signal.SIGKILL)


def change_input(path_in: Path, path_out: Path) -> None:
    """Change the input while using it."""
    path_in.write_text(path_in.read_text() + "!")
    write(path_out, "x")


def be_loud(path_out: Path) -> dict:
    """Speak in all the ways there are, and leave logging in disorder."""
    print("said on stdout")
    print("said on stderr", file=sys.stderr)
    logging.getLogger("stand_in").info("said in the log")
    logging.getLogger("stand_in").debug("said too softly")
    warnings.warn("said as a warning", UserWarning, stacklevel=1)
    subprocess.run(["sh", "-c", "echo said by a child"], check=True)
    ctypes.CDLL(None).write(1, b"said from C\n", 12)
    logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
    logging.getLogger().setLevel(logging.CRITICAL)
    logging.getLogger("stand_in").addHandler(logging.StreamHandler(sys.stdout))
    logging.disable(logging.CRITICAL)
    write(path_out, "loud")
    return {"notes": ["a note"], "warnings": ["a warning"], "value": 1.5, "path": path_out}


def describe_process(path_out: Path) -> None:
    """Write what a task sees of its process."""
    main = sys.modules["__main__"]
    content = [os.environ.get(name, "") for name in ("CRDS_PATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
    write(path_out, "\n".join([*content, os.getcwd(), str(os.getpid()), str(getattr(main, "__file__", None))]))


def count_threads(path_out: Path) -> None:
    """Write how many threads BLAS and OpenMP may use."""
    np.linalg.inv(np.eye(2))
    write(path_out, str(max(library["num_threads"] for library in threadpool_info())))


def die_once(path_out: Path, marker: Path) -> None:
    """Be killed the first time, succeed the second."""
    if not marker.exists():
        marker.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    write(path_out, "survived")


def die(path_out: Path) -> None:
    """Be killed, with a half-written file left behind."""
    with written_whole(path_out) as path:
        path.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def kill_dask_worker(path_out: Path) -> None:
    """Kill what this process was started by, and wait for the end."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def take_time(path_in: Path, path_out: Path, seconds: float, journal: Path | None = None) -> None:
    """Copy the input slowly, half of it at first; note start and end in a journal."""
    if journal is not None:
        with open(journal, "a") as stream:
            stream.write(f"start {path_out.name} {os.getpid()} {time.monotonic()}\n")
    text = path_in.read_text()
    with written_whole(path_out) as path:
        path.write_text(text[: len(text) // 2])
        time.sleep(seconds)
        path.write_text(f"{text}>{path_out.name}")
    if journal is not None:
        with open(journal, "a") as stream:
            stream.write(f"end {path_out.name} {os.getpid()} {time.monotonic()}\n")


def run_child(path_out: Path, seconds: float) -> None:
    """Wait for a child process."""
    child = subprocess.Popen(["sleep", str(seconds)])
    path_out.with_suffix(".pid").write_text(str(child.pid))
    child.wait()
    write(path_out, "waited")


def chain_plan(root: Path, n_exposures: int = 4, seconds: float = 0.0, **options) -> Plan:
    """Make `stage0` if there is none, and plan three steps: two for each exposure, and one that joins them."""
    raw = [root / "stage0" / f"exposure {number}.txt" for number in range(n_exposures)]
    for path in raw:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(f"photons of {path.name};")
    tasks = []
    files = raw
    for step in ("stage1", "stage2"):
        made = [root / step / path.name for path in files]
        for path_in, path_out in zip(files, made, strict=True):
            arguments = {"path_in": path_in, "path_out": path_out, "seconds": seconds, **options}
            tasks.append(Task(step, "engine_steps:take_time", arguments, (path_in,), (path_out,)))
        files = made
    combined = root / "stage3" / "combined" / "cube.txt"
    arguments = {"paths_in": files, "path_out": combined}
    tasks.append(Task("stage3", "engine_steps:join_most", arguments, tuple(files), (combined,), minimum_inputs=2))
    return Plan(root, tasks)


def products(root: Path) -> dict[str, str]:
    """All files of a root but its logs, with their content."""
    paths = [path for path in root.rglob("*") if path.is_file() and "logs" not in path.relative_to(root).parts]
    return {str(path.relative_to(root)): path.read_text() for path in paths}


def lose_an_interrupt(path_out: Path, pid: int) -> None:
    """Ctrl-C comes and gets lost, as in a destructor; then work goes on for long."""
    with suppress(KeyboardInterrupt):
        os.kill(pid, signal.SIGINT)
        time.sleep(30)
    time.sleep(30)
    write(path_out, "too late")
