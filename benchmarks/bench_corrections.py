"""Rows of the table for despiking and the PSF correction."""

import numpy as np

from benchmarks.workspace import FIELD, Benchmark, Workspace
from cubes import read_cube, write_cube

_LOOP_ROWS = 4  # of a plane, that the plain PSF loop does
_LOOP_VOXELS = (12, 12, 12)  # that the plain despiking loop does


def despike(space: Workspace) -> Benchmark:
    """Despike the full cube with a thousand spikes in it."""
    from benchmarks.reference_despike import reference_find_spikes
    from despike import despike_file

    cube = read_cube(space.cube)
    rng = np.random.default_rng(0)
    good = np.argwhere(cube.good)
    place = tuple(good[rng.choice(len(good), 1000, replace=False)].T)
    cube.sci[place] += np.exp(rng.uniform(np.log(7), np.log(1000), 1000)).astype(np.float32) * cube.err[place]
    spiked = space.directory / "spiked_s3d.fits"
    write_cube(cube, spiked)
    part = tuple(slice(n) for n in _LOOP_VOXELS)
    sci, err = cube.sci[part], cube.err[part]
    return Benchmark(
        name="despike",
        run=lambda: despike_file(spiked, space.directory / "despiked_s3d.fits"),
        inputs=[spiked],
        limit=lambda floor, plain: 1.5,
        rule="1.5 s",
        reference=lambda: reference_find_spikes(sci, err),
        share=sci.size / cube.sci.size,
    )


def psf_correct(space: Workspace) -> Benchmark:
    """Correct the full cube for the PSF."""
    from benchmarks.reference_psf import reference_blurred_disc
    from psf_correct import psf_correct_file
    from psf_model import ForwardModel

    x, y = ((np.arange((n + 20) * 5) + 0.5) / 5 - 10.5 for n in FIELD[::-1])
    model = ForwardModel(np.ones((y.size, x.size)), x, y, 5)
    return Benchmark(
        name="psf",
        run=lambda: psf_correct_file(space.cube, space.directory / "psf_s3d.fits", kernel_path=space.kernels),
        inputs=[space.cube],
        limit=lambda floor, plain: 2.0,
        rule="2 s",
        reference=lambda: reference_blurred_disc(model, np.array([2.1]), (_LOOP_ROWS, FIELD[1])),
        share=_LOOP_ROWS / FIELD[0] / space.planes,
    )
