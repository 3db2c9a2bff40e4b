"""Spectra of a cube with what saturation took from them, out of cubes of shorter ramps: for fits to whole spectra."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cubes import Cube, read_cube
from desaturate import desaturate_cubes, has_coverage, last_resorts, sorted_ramps
from errors import InputError


def whole_spectra(cube: Cube, shorter_paths: Sequence[str | Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Saturated voxels replaced by those of shorter ramps, see `desaturate.desaturate_cubes`.

    Parameters
    ----------
    cube
        Of the longest ramp; it stays as it is.
    shorter_paths
        Cubes of the same exposure and band from shorter ramps.

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
        If the cubes do not belong together, or one is of a longer ramp.
    """
    cubes = sorted_ramps([cube, *map(read_cube, shorter_paths)])
    if cubes[0] is not cube:
        raise InputError(f"{cubes[0].path} is of a longer ramp than {cube.path}: give shorter ones.")
    sci, err = ([ramp.hdul[name].data.astype(np.float32) for ramp in cubes] for name in ("SCI", "ERR"))
    known = all(map(has_coverage, cubes))
    coverage = [ramp.hdul["WMAP"].data.astype(np.float32) for ramp in cubes] if known else None
    merged = desaturate_cubes(sci, err, [ramp.dq for ramp in cubes], coverage, reserve=last_resorts(cubes))
    return merged.pick(sci), merged.pick(err), merged.has_data
