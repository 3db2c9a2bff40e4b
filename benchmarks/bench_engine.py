"""Rows of the table for the engine: what it costs to run, to resume and to plan thousands of tasks that do nothing."""

import itertools
import os
from pathlib import Path

import numpy as np
from astropy.io import fits

from benchmarks.workspace import Benchmark, Workspace

_TASKS = 5000
_SECONDS_A_TASK = 5e-3
_TILES = 10  # of a mosaic in all MRS bands: some 6,000 tasks
_DETECTORS = (("MIRIFUSHORT", "12"), ("MIRIFULONG", "34"))


def touch(path_in: Path, path_out: Path) -> None:
    """The cheapest task there is."""
    path_out.write_bytes(path_in.read_bytes())


def _trivial_plan(root: Path):
    from pipeline import Plan, Task

    (root / "stage0").mkdir(parents=True)
    tasks = []
    for number in range(_TASKS):
        path_in, path_out = root / "stage0" / f"{number}", root / "stage1" / f"{number}"
        path_in.write_text(str(number))
        arguments = {"path_in": path_in, "path_out": path_out}
        tasks.append(Task("stage1", "benchmarks.bench_engine:touch", arguments, (path_in,), (path_out,)))
    return Plan(root, tasks)


def engine(space: Workspace) -> Benchmark:
    """Run trivial tasks, one after the other, with their records and logs."""
    from pipeline import run_plan

    plans = (_trivial_plan(space.directory / f"engine{number}") for number in itertools.count())
    return Benchmark(
        name=f"engine ({_TASKS} tasks)",
        run=lambda: run_plan(next(plans), quiet=True),
        inputs=[space.cube],
        limit=lambda floor, plain: _SECONDS_A_TASK * _TASKS,
        rule="5 ms a task",
    )


def resume(space: Workspace) -> Benchmark:
    """Find that they are done."""
    from pipeline import run_plan

    plan = _trivial_plan(space.directory / "resumed")
    run_plan(plan, quiet=True)
    return Benchmark(
        name=f"engine, resumed ({_TASKS})",
        run=lambda: run_plan(plan, quiet=True),
        inputs=[space.cube],
        limit=lambda floor, plain: 3.0,
        rule="3 s",
    )


def plan(space: Workspace) -> Benchmark:
    """Read the headers of a large mosaic and plan its reduction."""
    import instrument_pipeline
    from miri_pipeline import MIRI
    from pipeline_input import find_input

    root = space.directory / "mosaic"
    (root / "stage0").mkdir(parents=True)
    bands = itertools.product(range(_TILES), _DETECTORS, ("SHORT", "MEDIUM", "LONG"), range(1, 5))
    for tile, (detector, channel), band, dither in bands:
        header = fits.Header({"TELESCOP": "JWST", "INSTRUME": "MIRI", "EXP_TYPE": "MIR_MRS", "NGROUPS": 5})
        header.update(
            DETECTOR=detector, CHANNEL=channel, BAND=band, PATT_NUM=dither, OBSERVTN=f"{tile:03d}", VISIT="001"
        )
        hdus = [fits.PrimaryHDU(header=header), fits.ImageHDU(np.ones((1, 5, 2, 2), np.uint16), name="SCI")]
        fits.HDUList(hdus).writeto(root / "stage0" / f"{tile}_{band}_{dither}_{detector}_uncal.fits")
    # Kernels are part of what tasks depend on.
    os.environ["PLANETMAPPER_KERNEL_PATH"] = str(space.kernels)

    def run() -> None:
        found = find_input(MIRI, root, MIRI.step_names)
        options = instrument_pipeline.make_options(root)
        instrument_pipeline.make_plan(MIRI, options, MIRI.step_names, found, [])

    return Benchmark(
        name="plan of 6,200 tasks",
        run=run,
        inputs=[space.cube],
        limit=lambda floor, plain: 10.0,
        rule="10 s",
    )
