"""Rows of the table for constructing a flat and dividing by it."""

from pathlib import Path

import numpy as np

from benchmarks.reference_flat import plain_flat_field
from benchmarks.workspace import FIELD, Benchmark, Workspace
from cubes import read_cube, write_cube

# Four dithers [arcsec east, north] about a field on the disc.
DITHERS = ((0.4, 3.7), (-0.4, 4.3), (0.5, 4.2), (-0.5, 3.8))
_SNR = 300
_LOOP_PLANES = 5


def flat_field(space: Workspace) -> Benchmark:
    """Divide the full cube by a flat."""
    from flat_field import flat_field_file
    from flat_files import Flat, IfuGrid, write_flat

    cube = read_cube(space.cube)
    values = 1 + 0.03 * np.random.default_rng(0).standard_normal(cube.shape)
    every = np.ones(space.planes, bool)
    flat = Flat(values, np.full(cube.shape, 0.002), every, cube.wavelength, IfuGrid.of_cube(cube))
    flat_path = space.directory / "flat.fits"
    write_flat(flat, flat_path, "Flat constructed", {})
    some = slice(_LOOP_PLANES)
    return Benchmark(
        name="flat_field",
        run=lambda: flat_field_file(space.cube, space.directory / "flat_fielded_s3d.fits", flat_path=flat_path),
        inputs=[space.cube],
        limit=lambda floor, plain: 2 * floor,
        rule="2 x floor",
        reference=lambda: plain_flat_field(cube.sci[some], cube.err[some], cube.dq[some], flat.flat, flat.error),
        share=_LOOP_PLANES / space.planes,
    )


def construct_flat_field(space: Workspace) -> Benchmark:
    """Construct the flat of all wavelengths from four dithers of a full cube."""
    from construct_flat_field import construct_flat_field_files

    dithers = [_dither(space, number) for number in range(len(DITHERS))]
    return Benchmark(
        name="construct_flat_field",
        run=lambda: construct_flat_field_files(dithers, space.directory / "constructed_flat.fits"),
        inputs=dithers,
        limit=lambda floor, plain: 5.0,
        rule="5 s",
    )


def _dither(space: Workspace, number: int) -> Path:
    from navigate import navigate_file

    path = space.directory / f"d{number + 1}_s3d.fits"
    cube = space.draw(path, offset=DITHERS[number], dither=number + 1, dithers=len(DITHERS))
    random = np.random.default_rng(number)
    stripes = 1 + 0.03 * np.random.default_rng(9).standard_normal((FIELD[0], 1))
    sci = cube.sci * stripes.astype(np.float32)
    cube.hdul["SCI"].data = sci * (1 + random.standard_normal(cube.shape, np.float32) / _SNR)
    cube.hdul["ERR"].data = np.abs(sci) / _SNR
    write_cube(cube, path)
    navigate_file(path, path, kernel_path=space.kernels)
    return path
