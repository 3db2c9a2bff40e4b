"""Spectra of a cube with what saturation took from them, out of cubes of shorter ramps: for fits to whole spectra."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cubes import Cube, read_cube
from desaturate import desaturate_cubes, last_resorts


def whole_spectra(cube: Cube, shorter_paths: Sequence[str | Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Saturated voxels replaced by those of shorter ramps, see `desaturate.desaturate_cubes`.

    Parameters
    ----------
    cube
        Of the longest ramp; it stays as it is.
    shorter_paths
        Cubes of the same exposure and shape from shorter ramps, the longest first.

    Returns
    -------
    sci, err : numpy.ndarray
        (wavelength, y, x) float32, in the cube's unit.
    good : numpy.ndarray
        Where any of the ramps has data.

    Raises
    ------
    FileFormatError
        If a file is no cube.
    InputError
        If the shapes differ.
    """
    cubes = [cube, *map(read_cube, shorter_paths)]
    sci, err = ([ramp.hdul[name].data.astype(np.float32) for ramp in cubes] for name in ("SCI", "ERR"))
    coverage = None
    if all("WMAP" in ramp.hdul and ramp.hdul["WMAP"].shape == ramp.shape for ramp in cubes):
        coverage = [ramp.hdul["WMAP"].data.astype(np.float32) for ramp in cubes]
    merged = desaturate_cubes(sci, err, [ramp.dq for ramp in cubes], coverage, reserve=last_resorts(cubes))
    return merged.pick(sci), merged.pick(err), merged.has_data
