"""Time the steps on a full MRS cube: `python -m benchmarks`.

Each step's file function is timed on one core on a simulated cube of 1050 x 45 x 41 voxels, next to merely reading and
writing that cube (the floor) and, where there is one, to the plain reference loop doing the same work. Times are the
best of several runs in turn, after one that pays for the imports; memory is the peak that Python allocated.
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from command_line import ArgumentParser, run_command
from cubes import read_cube, write_cube

SHAPE = (1050, 45, 41)
UTC = "2022-11-13T10:00:00"


@dataclass(frozen=True)
class Benchmark:
    """One row of the table.

    Attributes
    ----------
    name
        Of the step.
    run
        What is timed.
    reference
        The plain loop in the same work without reading and writing, or None.
    limit
        Longest time allowed [s], from the floor [s].
    rule
        That limit in words.
    """

    name: str
    run: Callable[[], object]
    reference: Callable[[], object] | None
    limit: Callable[[float], float]
    rule: str


def _make_cube(directory: Path, kernels: Path) -> Path:
    from simulate.cubes import simulate_cube
    from simulate.kernels import write_kernels
    from simulate.scene import Scene

    write_kernels(kernels, "2022-11-11", "2022-11-15", "saturn")
    few = simulate_cube(
        Scene("saturn", kernels),
        UTC,
        directory / "few_s3d.fits",
        shape=SHAPE[1:],
        n_wave=10,
        offset=(0.0, 7.5),
        noise=100.0,
    )
    cube = read_cube(few)
    times = SHAPE[0] // 10
    for name in ("SCI", "ERR", "DQ", "WMAP"):
        cube.hdul[name].data = np.repeat(cube.hdul[name].data, times, axis=0)
    cube.sci_header["CDELT3"] /= times
    path = directory / "full_s3d.fits"
    write_cube(cube, path)
    return path


def _navigate(path: Path, kernels: Path) -> Benchmark:
    from benchmarks.reference_navigate import reference_backplanes
    from navigate import cube_geometry, navigate_file
    from spice_kernels import kernels_loaded

    cube = read_cube(path)

    def reference() -> None:
        from cubes import sky_coordinates

        with kernels_loaded(kernels):
            geometry = cube_geometry(cube, kernel_path=kernels)
            reference_backplanes(*sky_coordinates(cube.sci_header), geometry.target, geometry.et)

    return Benchmark(
        name="navigate",
        run=lambda: navigate_file(path, path.with_name("navigated.fits"), kernel_path=kernels),
        reference=reference,
        limit=lambda floor: floor + 0.1,
        rule="floor + 0.1 s",
    )


def _plot(path: Path, kernels: Path) -> Benchmark:
    from navigate import navigate_file
    from summary_plots import plot_file

    navigated = path.with_name("plotted_s3d_nav.fits")
    navigate_file(path, navigated, kernel_path=kernels)
    return Benchmark(
        name="plot",
        run=lambda: plot_file(navigated, path.with_name("plot.png"), kernel_path=kernels),
        reference=None,
        limit=lambda floor: 1.0,
        rule="1 s",
    )


def _best_times(functions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    # In turn, so that a busy moment of the machine strikes all of them.
    times = np.full((rounds, len(functions)), np.inf)
    for i in range(rounds):
        for j, function in enumerate(functions):
            start = time.perf_counter()
            function()
            times[i, j] = time.perf_counter() - start
    return list(times.min(axis=0))


def _peak_memory(function: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _command(argv: Sequence[str] | None) -> int:
    from benchmarks import bench_corrections, bench_flat

    parser = ArgumentParser(prog="python -m benchmarks", description="Time the steps on a full MRS cube.")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, of which the best counts")
    rounds = parser.parse_args(argv).rounds
    with tempfile.TemporaryDirectory() as name, threadpool_limits(1):
        directory = Path(name)
        path = _make_cube(directory, directory / "kernels")
        size = path.stat().st_size
        print(f"one core, cube of {' x '.join(map(str, SHAPE))} voxels, {size / 1e6:.0f} MB on disk")
        print(
            f"{'step':<24}{'time':>9}{'limit':>9}{'':>4}{'rule':<22}{'plain loop':>11}{'ratio':>8}{'peak / cube':>13}"
        )

        def floor() -> None:
            write_cube(read_cube(path), directory / "copied.fits")

        missed = 0
        for prepare in (
            _navigate,
            bench_corrections.psf_correct,
            bench_flat.construct_flat_field,
            bench_flat.flat_field,
            bench_corrections.despike,
            _plot,
        ):
            benchmark = prepare(path, directory / "kernels")
            benchmark.run()
            floor_time, step_time = _best_times([floor, benchmark.run], rounds)
            plain = _best_times([benchmark.reference], 1)[0] + floor_time if benchmark.reference else np.nan
            limit = benchmark.limit(floor_time)
            missed += step_time > limit
            memory = _peak_memory(benchmark.run) / size
            print(f"{'read + write (floor)':<24}{floor_time:>8.3f}s")
            print(
                f"{benchmark.name:<24}{step_time:>8.3f}s{limit:>8.3f}s{' ok' if step_time <= limit else ' NO':<4}"
                f"{benchmark.rule:<22}{plain:>10.3f}s{plain / step_time:>8.1f}{memory:>13.2f}"
            )
    return 1 if missed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 1 if a step took longer than it may."""
    return run_command(_command, argv)
