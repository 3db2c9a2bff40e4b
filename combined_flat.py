"""The flat of a cube that combines dithers: what the flats of the dithers, each in its own place, come to together.

In: the dithers' cubes, their flats, and where each spaxel of the combined cube lies in each dither. Out: the effective
flat R of the combined cube and its error. A combined cube is a weighted mean of the dithers' data, so with brightness
I_d, flat F_d, weight w_d (the dither's WMAP) and S_d the sampling of dither d at the combined cube's spaxels,

    R = sum_d S_d(w_d I_d) / sum_d S_d(w_d I_d / F_d)

over the voxels good in both: the mean flat, weighted by the corrected brightness. To divide the combined cube by R
keeps its resolution, which resampling corrected cubes would not, and holds for every variant of it. S_d is bilinear.
"""

from collections.abc import Iterable

import numpy as np
from scipy import sparse

from cube_pointing import original_wcs
from cubes import Cube

_LEAST_SHARE = 0.5  # of the weight that must have a flat


def effective_flat(
    dithers: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """The effective flat of a combined cube.

    Parameters
    ----------
    dithers
        For each dither (brightness, its error, weight, flat, flat error), all (wavelength, y, x), and (2, rows,
        columns) the row and column in it of each spaxel of the combined cube, see `positions_in`. Brightness is NaN
        where not usable; a flat that is NaN or not positive is not known.

    Returns
    -------
    flat, error : numpy.ndarray
        (wavelength, rows, columns) float32. NaN where less than half of the weight has a flat. The error takes the
        flats' errors for the same within a dither, where neighbours share their noise, and for independent between
        dithers.
    """
    seen = known_weight = measured = corrected = variance = 0.0
    for sci, err, weight, flat, flat_error, position in dithers:
        shape = position.shape[1:]
        sampled = _bilinear(position, sci.shape[1:])

        def sample(values: np.ndarray, matrix: sparse.csr_matrix = sampled) -> np.ndarray:
            return matrix @ values.reshape(len(values), -1).T

        usable = np.isfinite(sci) & (weight > 0)
        known = usable & (flat > 0) & (flat < np.inf)
        divisor = np.where(known, flat, 1)
        # Where there is no more than noise, brightness must not change sign: the mean would have no bounds.
        bright = np.where(known, weight * np.fmax(sci, err), 0)
        relative_error = np.where(known, np.nan_to_num(flat_error) / divisor, 0)
        seen = seen + sample(np.where(usable, weight, 0))
        known_weight = known_weight + sample(np.where(known, weight, 0))
        measured = measured + sample(bright)
        bright /= divisor
        corrected = corrected + sample(bright)
        variance = variance + np.square(sample(bright * relative_error))
    enough = (known_weight >= _LEAST_SHARE * seen) & (corrected > 0)
    divisor = np.where(enough, corrected, 1)
    result = np.where(enough, measured / divisor, np.nan)
    error = result * np.sqrt(variance) / divisor
    return tuple(values.T.reshape(-1, *shape).astype(np.float32) for values in (result, error))


def positions_in(dither: Cube, combined: Cube) -> np.ndarray:
    """Where the spaxels of a combined cube lie in the cube of one dither, by both WCS as `jwst` made them.

    Cubes of a moving target are each in the frame of the target at their own time (MT_RA, MT_DEC).

    Returns
    -------
    numpy.ndarray
        (2, rows, columns) row and column in the dither's cube, from 0, whole at the centres of spaxels.
    """
    rows, columns = combined.shape[1:]
    y, x = np.mgrid[:rows, :columns]
    sky = original_wcs(combined).all_pix2world(x.ravel(), y.ravel(), 0)
    moved = [
        values + dither.sci_header.get(key, 0.0) - combined.sci_header.get(key, 0.0)
        for values, key in zip(sky, ("MT_RA", "MT_DEC"), strict=True)
    ]
    return np.stack(original_wcs(dither).all_world2pix(*moved, 0)[::-1]).reshape(2, rows, columns)


def _bilinear(position: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Bilinear weights, (positions, spaxels); none for neighbours that are outside."""
    target = np.arange(position[0].size)
    row, column = (values.ravel() for values in position)
    bottom, left = np.floor(row).astype(int), np.floor(column).astype(int)
    parts = []
    for y, share_y in ((bottom, bottom + 1 - row), (bottom + 1, row - bottom)):
        for x, share_x in ((left, left + 1 - column), (left + 1, column - left)):
            inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            parts.append((target[inside], (y * shape[1] + x)[inside], (share_y * share_x)[inside]))
    rows, columns, weights = (np.concatenate(values) for values in zip(*parts, strict=True))
    return sparse.csr_matrix((weights, (rows, columns)), shape=(target.size, shape[0] * shape[1]))
