"""Find cosmic rays in a calibrated IFU exposure, on its detector, and mend them before they are spread into a cube.

In: a `*_cal.fits` exposure of the MRS or the NIRSpec IFU, and others of the same setting (the other dithers). Out: the
same exposure as `*_crf.fits`, `jwst`'s name for exposures whose cosmic rays are flagged. Its own outlier detection of
IFU data looks for what is bad in all exposures, never for a hit in one.

Along the dispersion y, a pixel's spectrum is over some tens of pixels nearly a combination of spectra beside it:

    I(x, y) = c_0 + c_1 I(x - 1, y) + c_2 I(x + 1, y) + sum_k c_k J_k(x, y) + sum_l d_l J(x_l, y_l) + noise,

with J_k the other exposures at the same detector pixel, J their mean, and x_l, y_l the four pixels next to it. Those
see another place on the sky, but with the same wavelength, flat field and fringes: so no image is resampled, and the
planet's motion and rotation, limbs and stripes do not matter; neighbours along y allow for Doppler shifts. The
coefficients are least squares in running windows along y. The statistic is the difference of a pixel to what the others
lead to expect, itself left out (with leverage h, the residual over 1 - h), in units of its error, that of the
expectation included, or of the scatter found in its surroundings if that is larger.

A hit stands out by `nsigma`, and is sharper along the dispersion than the instrument's line spread lets light be, which
covers two pixels or so (Argyriou et al. 2023, A&A 675, A111; Jakobsen et al. 2022, A&A 661, A80): so no line of a moon,
spot or limb is taken for one, whatever the other dithers show. What the hit left in the pixels around it goes with it.

A pixel that was hit gets the expectation for its value and its error, OUTLIER and FLUX_ESTIMATED. It is not left out: a
voxel is the mean of few pixels, and without one of them moves along limbs and lines by more than most hits do.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from command_line import ArgumentParser, run_command
from cubes import DQ, Cube, read_fits, write_cube
from errors import FileFormatError, OptionError
from medians import median_along_rows, nan_median

STEP = "cosmic_rays"
EXPOSURE_TYPES = ("MIR_MRS", "NRS_IFU")
# Coefficients are fitted in windows of five blocks of so many pixels along the dispersion; the outer two count half.
BLOCK = 8
WINDOW = (0.5, 1.0, 1.0, 1.0, 0.5)
# How often to fit; from the second time on without pixels that deviate by more than `FIT_LIMIT` sigma.
PASSES = 3
FIT_LIMIT = 4.0
# Pixels this many times the scatter around them away from the median there are left out of the first fit.
FAR = 8.0
# Columns from which the scatter along x is taken, and what it must come to.
BESIDE = 9
LEAST_SCATTER_BESIDE = 3.5
# Relative; makes coefficients of spectra that are all alike definite.
RIDGE = 1e-5
MOST_LEVERAGE = 0.8
# Both neighbours along the dispersion together have at least this share of the peak of an unresolved line, twice that
# if the line spread has a FWHM of two pixels.
LEAST_WINGS = 0.5
# Pixels around a hit go with it from here on.
WING_SIGMA = 2.5
VARIANCES = ("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")


def find_cosmic_rays(
    image: np.ndarray,
    error: np.ndarray,
    slices: np.ndarray,
    others: Sequence[np.ndarray],
    *,
    nsigma: float = 5.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pixels of an exposure that cosmic rays hit, and what they would be without.

    Parameters
    ----------
    image, error
        (y, x), y along the dispersion, any unit. Pixels that are NaN in either are bad already, and never hits.
    slices
        (y, x) int, number of the slice that a pixel belongs to, negative between slices.
    others
        Exposures of the same detector and setting, one at least, each (y, x) in the unit of `image`, NaN where bad.
    nsigma
        Height of the faintest hits to be found.

    Returns
    -------
    hits : numpy.ndarray
        bool, (y, x).
    expected, expected_error : numpy.ndarray
        (y, x) float, what a pixel should be by the others and the error of this; meant for hits, NaN elsewhere.

    Raises
    ------
    OptionError
        If `nsigma` is not positive, the shapes differ or there are no others.
    """
    if not len(others):
        raise OptionError("cosmic rays are found by comparison: give one other exposure at least.")
    if not nsigma > 0:
        raise OptionError(f"nsigma ({nsigma}) must be above zero.")
    shapes = {np.shape(array) for array in (image, error, slices, *others)}
    if len(shapes) > 1:
        raise OptionError(f"exposures, errors and slices must have one shape, not {sorted(shapes)}.")
    hits = np.zeros(image.shape, bool)
    expected, expected_error = (np.full(image.shape, np.nan, np.float32) for _ in range(2))
    for number in np.unique(slices[slices >= 0]):
        inside = slices == number
        rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        values, errors, *compared = (np.where(inside[box], array[box], np.nan) for array in (image, error, *others))
        found, value, value_error = _hits_in_slice(values, errors, compared, nsigma)
        hits[box] |= found
        expected[box][found], expected_error[box][found] = value[found], value_error[found]
    return hits, expected, expected_error


def _hits_in_slice(
    values: np.ndarray, errors: np.ndarray, others: list[np.ndarray], nsigma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known = np.isfinite(values) & (errors > 0)
    errors = np.where(known, errors, np.inf)
    values = np.where(known, values, np.nan)
    fixed = _spectra_of_others(others)
    middle = _median_around(values)
    deviation = (values - middle) / errors
    far = np.abs(deviation) > FAR * _scatter_around(deviation)
    fitted, smooth = known & ~far, np.where(far, middle, values)
    for number in range(PASSES):
        # A hit and what it left beside it would explain one another, so the first expectation is by the others alone.
        spectra = fixed if number == 0 else [*_beside(_bridged(smooth)), *fixed]
        expected, gain = _expect(values, spectra, errors, fitted)
        deviation = (values - expected) / (errors * gain)
        scatter = np.maximum(_scatter_around(deviation), _scatter_beside(deviation))
        gain, deviation = gain * scatter, deviation / scatter
        # A hit must not raise what its neighbours are expected to be; hits in other exposures leave holes here.
        odd = _hits(deviation, values - expected, FIT_LIMIT)
        hole = _hits(-deviation, expected - values, FIT_LIMIT)
        fitted, smooth = known & ~odd & ~hole, np.where(odd, expected, values)
    hits = _hits(deviation, values - expected, nsigma)
    # The errors around a hit: its own has the noise of its charge.
    return hits, expected, _median_around(np.where(known, errors, np.nan)) * gain


def _spectra_of_others(others: list[np.ndarray]) -> list[np.ndarray]:
    """The spectra that other exposures lend to the combination: each one's own, and those around it in their mean."""
    known = np.isfinite(others)
    count = known.sum(axis=0)
    mean = _bridged(np.where(known, others, 0).sum(axis=0) / np.where(count, count, np.nan))
    return [*(_bridged(values) for values in others), *_beside(mean), *_along(mean, beyond=mean)]


def _bridged(values: np.ndarray) -> np.ndarray:
    """Values with those missing between two pairs along y interpolated by a cubic."""
    edge = np.full((2, values.shape[1]), np.nan)
    padded = np.vstack([edge, values, edge])
    bridge = (9 * (padded[1:-3] + padded[3:-1]) - padded[:-4] - padded[4:]) / 16
    return np.where(np.isnan(values), bridge, values)


def _beside(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What lies left and right of each pixel; beyond the slice's edge, what lies on its other side."""
    edge = np.full((len(values), 1), np.nan)
    left, right = np.hstack([edge, values[:, :-1]]), np.hstack([values[:, 1:], edge])
    return np.where(np.isnan(left), right, left), np.where(np.isnan(right), left, right)


def _along(values: np.ndarray, beyond: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """What lies below and above each pixel; where there is nothing, what is in `beyond`."""
    edge = np.full((1, values.shape[1]), np.nan)
    below, above = np.vstack([edge, values[:-1]]), np.vstack([values[1:], edge])
    return np.where(np.isnan(below), beyond, below), np.where(np.isnan(above), beyond, above)


def _expect(
    values: np.ndarray, spectra: list[np.ndarray], errors: np.ndarray, fitted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What each pixel should be, itself left out, and the error of its difference to that in units of its own.

    Parameters
    ----------
    values, errors
        (y, x).
    spectra
        What is combined, besides a constant, each (y, x).
    fitted
        bool, pixels that the coefficients are fitted to.
    """
    terms = np.stack([np.ones_like(values), *spectra], axis=-1)
    usable = np.isfinite(terms).all(axis=-1)
    terms = np.where(usable[..., None], terms, 0)
    weight = np.where(fitted & usable, 1 / errors, 0)[..., None]
    design, target = _in_blocks(terms * weight), _in_blocks(np.nan_to_num(values)[..., None] * weight)
    transposed = design.swapaxes(-1, -2)
    normal, right = _over_windows(transposed @ design), _over_windows(transposed @ target)
    scale = np.sqrt(np.maximum(np.einsum("...ii->...i", normal), 1e-30))[..., None]
    normal = normal / scale / scale.swapaxes(-1, -2) + RIDGE * np.eye(normal.shape[-1])
    inverse = np.linalg.inv(normal) / scale / scale.swapaxes(-1, -2)
    coefficients = _at_pixels((inverse @ right)[..., 0], len(values))
    leverage = ((design @ inverse) * design).sum(axis=-1).swapaxes(1, 2).reshape(-1, values.shape[1])[: len(values)]
    left = 1 - np.minimum(leverage, MOST_LEVERAGE)
    with_itself = np.where(usable, (coefficients * terms).sum(axis=-1), np.nan)
    # What others add to the noise: taken as equal to the pixel's own error, also for their mean, which has less.
    gain = np.sqrt((1 + (coefficients[..., 1:] ** 2).sum(axis=-1)) / left)
    return values - (values - with_itself) / left, gain


def _in_blocks(values: np.ndarray) -> np.ndarray:
    """(y, x, ...) as (block, x, y in block, ...), filled up with zeros."""
    ny, *rest = values.shape
    count = -(-ny // BLOCK)
    padded = np.concatenate([values, np.zeros((count * BLOCK - ny, *rest))])
    return padded.reshape(count, BLOCK, *rest).swapaxes(1, 2)


def _over_windows(sums: np.ndarray) -> np.ndarray:
    half = len(WINDOW) // 2
    edge = np.zeros((half, *sums.shape[1:]))
    padded = np.concatenate([edge, sums, edge])
    return sum(weight * padded[k : k + len(sums)] for k, weight in enumerate(WINDOW))


def _at_pixels(coefficients: np.ndarray, ny: int) -> np.ndarray:
    """Coefficients (block, x, k), interpolated between the blocks' middles: (y, x, k)."""
    place = np.clip((np.arange(ny) + 0.5) / BLOCK - 0.5, 0, len(coefficients) - 1)
    low = place.astype(int)
    share = (place - low)[:, None, None]
    return coefficients[low] * (1 - share) + coefficients[np.minimum(low + 1, len(coefficients) - 1)] * share


def _scatter_around(deviation: np.ndarray) -> np.ndarray:
    """Robust scatter in the window around each pixel, where that is larger than one; one where there is nothing."""
    return np.fmax(1.4826 * _median_around(np.abs(deviation)), 1.0)


def _scatter_beside(deviation: np.ndarray) -> np.ndarray:
    """The same along x, one where it may be chance: what many columns show in one row is a line."""
    padded = np.pad(np.abs(deviation), ((0, 0), (BESIDE // 2,) * 2), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, BESIDE, axis=1)
    scatter = 1.4826 * nan_median(np.moveaxis(windows, -1, 0).copy())
    return np.where(scatter > LEAST_SCATTER_BESIDE, scatter, 1.0)


def _median_around(values: np.ndarray) -> np.ndarray:
    """Median along y in the window around each pixel, (y, x); NaN where there is no value."""
    ny, nx = values.shape
    half = len(WINDOW) // 2
    count = -(-ny // BLOCK)
    padded = np.full(((count + 2 * half) * BLOCK, nx), np.nan, np.float32)
    padded[half * BLOCK : half * BLOCK + ny] = values
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(WINDOW) * BLOCK, axis=0)[::BLOCK]
    median = median_along_rows(windows.reshape(count * nx, -1)).reshape(count, nx)
    return np.repeat(median, BLOCK, axis=0)[:ny]


def _hits(deviation: np.ndarray, excess: np.ndarray, nsigma: float) -> np.ndarray:
    """Peaks that no line spread could have made, with the pixels around them that stand out, too.

    How sharp they are is told by the excess, in the unit of the image: a hit has a larger error than what is beside it.
    """
    below, above = _along(excess, beyond=np.nan)
    below, above = np.where(np.isnan(below), above, below), np.where(np.isnan(above), below, above)
    high = (deviation > nsigma) & (excess >= below) & (excess >= above)
    sharp = high & (below + above < LEAST_WINGS * excess)
    return sharp | (binary_dilation(sharp, np.ones((3, 3))) & (deviation > WING_SIGMA))


def mend_cosmic_rays_file(
    path_in: str | Path, path_out: str | Path, others: Sequence[str | Path] = (), *, nsigma: float = 5.0
) -> dict[str, Any]:
    """Mend the pixels of a calibrated exposure that cosmic rays hit.

    Parameters
    ----------
    path_in, path_out
        The `*_cal.fits` to read and the file to write; they may be the same.
    others
        Calibrated exposures of the same detector and setting, best three: with two hits left are half as many again,
        with one three times as many. Without any, nothing is found, and a warning says so.
    nsigma
        See `find_cosmic_rays`.

    Returns
    -------
    dict
        'notes' and 'warnings' (lists of sentences), 'hits' (number of pixels).

    Raises
    ------
    FileFormatError
        If a file is no calibrated IFU exposure.
    OptionError
        If the exposures do not go together or `nsigma` is not positive.
    """
    path_in = Path(path_in)
    exposure = read_exposure_file(path_in)
    facts: dict[str, Any] = {"notes": [], "warnings": [], "hits": 0}
    if others:
        facts["hits"] = _mend(exposure, [_image(read_exposure_file(Path(path))) for path in others], nsigma)
        facts["notes"].append(f"{facts['hits']} pixels hit, by comparison with {len(others)} other exposures")
    else:
        facts["warnings"].append(f"{path_in.name}: no other exposure is left to find cosmic rays by comparison with")
    parameters = {"nsigma": nsigma, "compared": len(others), "hits": facts["hits"]}
    exposure.add_note(STEP, "Cosmic rays mended", parameters)
    write_cube(exposure, path_out)
    return facts


def _mend(exposure: Cube, others: list[np.ndarray], nsigma: float) -> int:
    arrays = (_image(exposure), exposure.err, slice_numbers(exposure), *others)
    along_x = exposure.sci_header.get("DISPAXIS") == 1
    image, error, slices, *compared = (array.T if along_x else array for array in arrays)
    found = find_cosmic_rays(image, error, slices, compared, nsigma=nsigma)
    hits, expected, expected_error = (array.T if along_x else array for array in found)
    for name in VARIANCES:
        if name in exposure.hdul and exposure.hdul[name].shape == hits.shape:
            exposure.hdul[name].data[hits] *= (expected_error[hits] / exposure.err[hits]) ** 2
    exposure.sci[hits], exposure.err[hits] = expected[hits], expected_error[hits]
    exposure.dq[hits] |= np.uint32(DQ.OUTLIER | DQ.FLUX_ESTIMATED)
    return int(hits.sum())


def read_exposure_file(path: Path) -> Cube:
    """A calibrated IFU exposure with all that its file holds; arrays are (y, x).

    Raises
    ------
    FileFormatError
        If the file is something else.
    """
    exposure = Cube(path, read_fits(path))
    shapes = {exposure.hdul[name].shape if name in exposure.hdul else None for name in ("SCI", "ERR", "DQ")}
    kind = exposure.header.get("EXP_TYPE")
    if kind not in EXPOSURE_TYPES or len(shapes) > 1 or len(shapes.pop() or ()) != 2:
        raise FileFormatError(f"{path} is no calibrated IFU exposure ({kind}): give a '*_cal.fits' file.")
    return exposure


def _image(exposure: Cube) -> np.ndarray:
    return np.where(exposure.good, exposure.sci, np.nan)


def slice_numbers(exposure: Cube) -> np.ndarray:
    """Number of the slice that each pixel of a calibrated exposure belongs to, (y, x) int; -1 between slices.

    Raises
    ------
    FileFormatError
        If the file doesn't tell.
    """
    if "REGIONS" in exposure.hdul:
        return exposure.hdul["REGIONS"].data.astype(int) - 1
    if exposure.header["EXP_TYPE"] != "MIR_MRS":
        raise FileFormatError(f"{exposure.path} has no extension REGIONS: make it with stage 2 of jwst 3 or newer.")
    from stdatamodels.jwst import datamodels

    rows, columns = exposure.sci.shape
    y, x = np.mgrid[:rows, :columns].astype(float)
    with datamodels.open(exposure.path) as model:
        _, beta, _ = model.meta.wcs.get_transform("detector", "alpha_beta")(x, y)
    numbers = np.full(beta.shape, -1)
    inside = np.isfinite(beta)
    # Each half of the detector has a channel of its own, whose slices differ in beta by 0.1 arcsec and more.
    half = np.where(x < columns / 2, 0, 1000)
    _, numbers[inside] = np.unique(np.round(100 * beta + half)[inside], return_inverse=True)
    return numbers


def _command(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = ArgumentParser(prog="cosmic_rays.py", description="Mend cosmic rays in a calibrated IFU exposure.")
    parser.add_argument("path_in", metavar="IN", help="exposure to read (*_cal.fits)")
    parser.add_argument("others", metavar="OTHER", nargs="+", help="exposures of other dithers to compare it with")
    parser.add_argument("path_out", metavar="OUT", help="file to write (*_crf.fits)")
    parser.add_flag("nsigma", type=float, default=5.0, help="height of the faintest hits to be found [sigma]")
    return mend_cosmic_rays_file(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python cosmic_rays.py IN OTHER ... OUT [options]`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
