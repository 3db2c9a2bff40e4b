"""Time the steps on a full MRS cube: `python -m benchmarks`.

Each step's file function is timed on one core on a simulated cube of 1050 x 45 x 41 voxels (several, where it takes
several), next to merely reading and writing that (the floor) and, where there is one, to the plain reference loop doing
the same work, of which a part is timed if it takes long. Times are processor times (of child processes, too), which
other work on the machine disturbs least, the best of some runs in turn, after one that pays for the imports; memory is
the peak that Python allocated, in sizes of the cubes read.
"""

import resource
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.workspace import FIELD, PLANES, Benchmark, Workspace
from command_line import ArgumentParser, run_command
from cubes import read_cube, write_cube
from errors import OptionError

MOST_MEMORY = 4.0  # cubes held


def _rows() -> dict[str, Callable[[Workspace], Benchmark]]:
    from benchmarks import (
        bench_corrections,
        bench_defringe,
        bench_desaturate,
        bench_engine,
        bench_flat,
        bench_navigate,
        bench_plots,
    )

    return {
        "navigate": bench_navigate.navigate,
        "psf": bench_corrections.psf_correct,
        "desaturate": bench_desaturate.desaturate,
        "construct_flat_field": bench_flat.construct_flat_field,
        "flat_field": bench_flat.flat_field,
        "despike": bench_corrections.despike,
        "defringe_1d_channel_1": bench_defringe.channel_1,
        "defringe_1d_channel_4": bench_defringe.channel_4,
        "defringe_1d_alone_channel_1": bench_defringe.channel_1_alone,
        "defringe_1d_alone_channel_4": bench_defringe.channel_4_alone,
        "plot": bench_plots.plot,
        "animation": bench_plots.animation,
        "engine": bench_engine.engine,
        "engine_resume": bench_engine.resume,
        "engine_plan": bench_engine.plan,
    }


def _best_times(functions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    # In turn, so that a busy moment of the machine strikes all of them.
    times = np.full((rounds, len(functions)), np.inf)
    for i in range(rounds):
        for j, function in enumerate(functions):
            start = _processor_time()
            function()
            times[i, j] = _processor_time() - start
    return list(times.min(axis=0))


def _processor_time() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in usage)


def _peak_memory(function: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def measure(benchmark: Benchmark, rounds: int) -> tuple[str, bool]:
    """One row of the table, and whether all limits are met."""

    def floor() -> None:
        cubes = [read_cube(path) for path in benchmark.inputs]
        write_cube(cubes[0], benchmark.inputs[0].with_name("copied_s3d.fits"))

    benchmark.run()
    floor_time, step_time = _best_times([floor, benchmark.run], rounds)
    plain = np.nan
    if benchmark.reference:
        plain = _best_times([benchmark.reference], 1)[0] / benchmark.share + floor_time
    limit = benchmark.limit(floor_time, plain)
    memory = _peak_memory(benchmark.run) / sum(path.stat().st_size for path in benchmark.inputs)
    met = bool(step_time <= limit and memory <= MOST_MEMORY)
    ratio = f"{plain:>10.1f}s{plain / step_time:>8.1f}" if benchmark.reference else f"{'-':>11}{'-':>8}"
    row = (
        f"{benchmark.name:<24}{step_time:>8.3f}s{floor_time:>8.3f}s{limit:>8.3f}s  {benchmark.rule:<20}{ratio}"
        f"{memory:>8.2f}  {'ok' if met else 'NOT MET'}"
    )
    return row, met


def _command(argv: Sequence[str] | None) -> int:
    parser = ArgumentParser(prog="python -m benchmarks", description="Time the steps on a full MRS cube.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help="rows of the table to make; all without")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, of which the best counts")
    parser.add_argument("--planes", type=int, default=PLANES, help="wavelengths of a cube; limits are for the default")
    options = parser.parse_args(argv)
    rows = _rows()
    unknown = [name for name in options.steps if name not in rows]
    if unknown:
        raise OptionError(f"there is no benchmark '{unknown[0]}': choose from {', '.join(rows)}.")
    missed = 0
    with tempfile.TemporaryDirectory() as name, threadpool_limits(1):
        space = Workspace.make(Path(name), options.planes)
        size = space.cube.stat().st_size / 1e6
        print(f"one core, cubes of {' x '.join(map(str, (options.planes, *FIELD)))} voxels, {size:.0f} MB on disk")
        print(
            f"{'step':<24}{'time':>9}{'floor':>9}{'limit':>9}  {'rule':<20}{'plain loop':>11}{'ratio':>8}{'memory':>8}"
        )
        for row in options.steps or rows:
            line, met = measure(rows[row](space), options.rounds)
            print(line, flush=True)
            missed += not met
    print(f"time: best of {options.rounds}; memory: peak in sizes of the cubes read, {MOST_MEMORY:.0f} at most")
    return 1 if missed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 1 if a step took longer, or more memory, than it may."""
    return run_command(_command, argv)
