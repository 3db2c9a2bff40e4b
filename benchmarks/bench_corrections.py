"""Rows of the table for despiking and the PSF correction."""

from pathlib import Path

import numpy as np

from benchmarks.run import Benchmark
from cubes import read_cube, write_cube


def despike(path: Path, kernels: Path) -> Benchmark:
    """Despike the full cube with a thousand spikes in it."""
    from despike import despike_file

    cube = read_cube(path)
    rng = np.random.default_rng(0)
    good = np.argwhere(cube.good)
    place = tuple(good[rng.choice(len(good), 1000, replace=False)].T)
    cube.sci[place] += np.exp(rng.uniform(np.log(7), np.log(1000), 1000)).astype(np.float32) * cube.err[place]
    spiked = path.with_name("spiked_s3d.fits")
    write_cube(cube, spiked)
    return Benchmark(
        name="despike",
        run=lambda: despike_file(spiked, path.with_name("despiked_s3d.fits")),
        reference=None,
        limit=lambda floor: 1.5,
        rule="1.5 s",
    )


def psf_correct(path: Path, kernels: Path) -> Benchmark:
    """Correct the full cube for the PSF."""
    from psf_correct import psf_correct_file

    return Benchmark(
        name="psf_correct",
        run=lambda: psf_correct_file(path, path.with_name("psf_s3d.fits"), kernel_path=kernels),
        reference=None,
        limit=lambda floor: 2.0,
        rule="2 s",
    )
