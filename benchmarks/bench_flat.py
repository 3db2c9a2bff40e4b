"""Rows of the table for constructing a flat and dividing by it."""

from pathlib import Path

import numpy as np

from benchmarks.reference_flat import plain_flat_field
from benchmarks.run import SHAPE, UTC, Benchmark
from cubes import read_cube, write_cube

# Four dithers [arcsec east, north] about a field on the disc.
DITHERS = ((0.4, 3.7), (-0.4, 4.3), (0.5, 4.2), (-0.5, 3.8))
_PLANES = 10  # that are drawn and then repeated
_SNR = 300


def flat_field(path: Path, kernels: Path) -> Benchmark:
    """Divide the full cube by a flat."""
    from flat_field import flat_field_file
    from flat_files import Flat, IfuGrid, write_flat

    cube = read_cube(path)
    values = 1 + 0.03 * np.random.default_rng(0).standard_normal(cube.shape)
    flat = Flat(values, np.full(cube.shape, 0.002), np.ones(SHAPE[0], bool), cube.wavelength, IfuGrid.of_cube(cube))
    flat_path = path.with_name("flat.fits")
    write_flat(flat, flat_path, "Flat constructed", {})
    return Benchmark(
        name="flat_field",
        run=lambda: flat_field_file(path, path.with_name("flat_fielded_s3d.fits"), flat_path=flat_path),
        reference=lambda: plain_flat_field(cube.sci, cube.err, cube.dq, flat.flat, flat.error),
        limit=lambda floor: 2 * floor,
        rule="2 x floor",
    )


def construct_flat_field(path: Path, kernels: Path) -> Benchmark:
    """Construct the flat of all wavelengths from four dithers of a full cube."""
    from construct_flat_field import construct_flat_field_files

    dithers = [_dither(path, kernels, number) for number in range(len(DITHERS))]
    return Benchmark(
        name="construct_flat_field",
        run=lambda: construct_flat_field_files(dithers, path.with_name("constructed_flat.fits")),
        reference=None,
        limit=lambda floor: 5.0,
        rule="5 s",
    )


def _dither(directory: Path, kernels: Path, number: int) -> Path:
    from navigate import navigate_file
    from simulate.cubes import simulate_cube
    from simulate.scene import Scene

    path = directory.with_name(f"d{number + 1}_s3d.fits")
    scene = Scene("saturn", kernels)
    simulate_cube(
        scene, UTC, path, shape=SHAPE[1:], n_wave=_PLANES, offset=DITHERS[number], dither=number + 1, dithers=4
    )
    cube = read_cube(path)
    times = SHAPE[0] // _PLANES
    for name in ("SCI", "ERR", "DQ", "WMAP"):
        cube.hdul[name].data = np.repeat(cube.hdul[name].data, times, axis=0)
    random = np.random.default_rng(number)
    stripes = 1 + 0.03 * np.random.default_rng(9).standard_normal((SHAPE[1], 1))
    sci = cube.sci * stripes.astype(np.float32)
    cube.hdul["SCI"].data = sci * (1 + random.standard_normal(SHAPE, np.float32) / _SNR)
    cube.hdul["ERR"].data = np.abs(sci) / _SNR
    cube.sci_header["CDELT3"] /= times
    write_cube(cube, path)
    navigate_file(path, path, kernel_path=kernels)
    return path
