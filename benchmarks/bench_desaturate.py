"""Time the merging of five ramp lengths: `python -m benchmarks.bench_desaturate`.

The file function on one core, with five full MRS cubes (1050 x 45 x 41 voxels) of a bright planet that saturates in
half of its voxels, beside merely reading the five and writing one (the floor). Design limit: three times the floor. The
plain loop is timed on a part of the cube.
"""

import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.reference_desaturate import reference_onset, reference_usable
from command_line import ArgumentParser, run_command
from cubes import read_cube, write_cube
from desaturate import desaturate_files
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.scene import Scene

LIMIT = 3.0
SHAPE = (1050, 45, 41)
UTC = "2022-11-13T10:00:00"
GROUPS = (5, 4, 3, 2, 1)
PLANES = 50  # that are drawn and then repeated
LOOP_PLANES = 5


def make_cubes(directory: Path) -> list[Path]:
    """Cubes of the five ramp lengths, longest first."""
    kernels = directory / "kernels"
    write_kernels(kernels, "2022-11-11", "2022-11-15", "saturn")
    path = directory / "scene_s3d.fits"
    simulate_cube(Scene("saturn", kernels), UTC, path, "3", shape=SHAPE[1:], n_wave=PLANES, offset=(0.0, 7.5))
    random = np.random.default_rng(0)
    truth = np.repeat(read_cube(path).sci, SHAPE[0] // PLANES, axis=0)
    brightness = np.nan_to_num(truth / np.nanmedian(truth))
    groups = [brightness + 0.005 * np.sqrt(np.abs(brightness)) * random.standard_normal(SHAPE) for _ in range(5)]
    wells = 2.2 * random.normal(1, 0.03, SHAPE)
    paths = []
    for n in GROUPS:
        cube = read_cube(path)
        charge = n * brightness / wells
        low = 0.1 * np.clip((charge - 1) / 0.08, 0, 1)
        lost = (charge > 1.08) | np.isnan(truth)
        sci = np.where(lost, np.nan, np.mean(groups[:n], axis=0) * (1 - low))
        err = np.where(lost, np.nan, 0.005 * np.sqrt((np.abs(brightness) + 0.01) / n))
        for name, values in (("SCI", sci), ("ERR", err), ("WMAP", np.where(lost, 0, 8))):
            cube.hdul[name].data = values.astype(np.float32)
        cube.hdul["DQ"].data = np.where(lost, 1, 0).astype(np.uint32)
        cube.sci_header["CDELT3"] *= PLANES / SHAPE[0]
        cube.header["NGROUPS"] = n
        paths.append(directory / f"{n}_groups_s3d.fits")
        write_cube(cube, paths[-1])
    return paths


def _loop_time(paths: Sequence[Path]) -> float:
    cubes = [read_cube(path) for path in paths]
    some = slice(None, LOOP_PLANES)
    start = time.perf_counter()
    ok = [reference_usable(cube.sci[some], cube.dq[some]) for cube in cubes]
    coverage = [cube.hdul["WMAP"].data[some] for cube in cubes]
    reference_onset([cube.sci[some] for cube in cubes], [cube.err[some] for cube in cubes], ok, coverage)
    return (time.perf_counter() - start) * SHAPE[0] / LOOP_PLANES


def _command(argv: Sequence[str] | None) -> int:
    parser = ArgumentParser(prog="python -m benchmarks.bench_desaturate", description="Time the merging of five ramps.")
    parser.add_argument("--rounds", type=int, default=5, help="runs, of which the best counts")
    rounds = parser.parse_args(argv).rounds
    with tempfile.TemporaryDirectory() as name, threadpool_limits(1):
        directory = Path(name)
        paths = make_cubes(directory)

        def floor() -> None:
            cubes = [read_cube(path) for path in paths]
            write_cube(cubes[0], directory / "copy_s3d.fits")

        def step() -> None:
            desaturate_files(paths, directory / "merged_s3d.fits")

        step()
        times = np.array([[_time(floor), _time(step)] for _ in range(rounds)])
        floor_time, step_time = times.min(axis=0)
        tracemalloc.start()
        step()
        memory = tracemalloc.get_traced_memory()[1] / sum(path.stat().st_size for path in paths)
        tracemalloc.stop()
        print(
            f"floor (5 reads, 1 write) {floor_time:.3f} s; desaturate {step_time:.3f} s: {step_time / floor_time:.2f}"
        )
        print(f"limit {LIMIT}; plain loop {_loop_time(paths):.0f} s; peak memory {memory:.2f} x the cubes")
    return 1 if step_time > LIMIT * floor_time else 0


def _time(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> int:
    """Print the times; the exit status is 1 if the limit is missed."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
