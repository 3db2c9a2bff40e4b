"""Find cosmic rays in a calibrated IFU exposure, on its detector, and mend them before they are spread into a cube.

In: a `*_cal.fits` exposure of the MRS or the NIRSpec IFU, and others of the same setting (the other dithers). Out: the
same exposure as `*_crf.fits`, `jwst`'s name for exposures whose cosmic rays are flagged. Its own outlier detection of
IFU data looks for what is bad in all exposures, never for a hit in one.

Along the dispersion y, a pixel's spectrum is over some tens of pixels nearly a combination of spectra beside it:

    I(x, y) = c_0 + c_1 I(x - 1, y) + c_2 I(x + 1, y) + sum_k c_k J_k(x, y) + sum_l d_l J(x_l, y_l) + noise,

with J_k the other exposures at the same detector pixel, J their mean, and x_l, y_l the four pixels next to it. Those
see another place on the sky, but with the same wavelength, flat field and fringes: so no image is resampled, and the
planet's motion and rotation, limbs and stripes do not matter; neighbours along y allow for Doppler shifts. The
coefficients are least squares in running windows along y (`spectral_neighbours`). The statistic is the difference of a
pixel to what the others lead to expect, itself left out, in units of its error, that of the expectation included, or of
the scatter found in its surroundings if that is larger. The other exposures are freed of their own hits first.

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
from cubes import DQ, Cube, check_types, read_fits, write_cube
from errors import FileFormatError, OptionError
from medians import nan_median
from spectral_neighbours import along, beside, bridged, expect, median_around, scatter_around

STEP = "cosmic_rays"
EXPOSURE_TYPES = ("MIR_MRS", "NRS_IFU")
# How often to fit; from the second time on without pixels that deviate by more than `FIT_LIMIT` sigma.
PASSES = 3
FIT_LIMIT = 4.0
# Height of the hits that the other exposures are freed of before.
FIRST_SIGMA = 6.0
# Pixels this many times the scatter around them away from the median there are left out of the first fit.
FAR = 8.0
# Columns from which the scatter along x is taken, and what it must come to.
BESIDE = 9
LEAST_SCATTER_BESIDE = 3.5
# Both neighbours along the dispersion together have at least this share of the peak of an unresolved line, twice that
# if the line spread has a FWHM of two pixels.
LEAST_WINGS = 0.5
# The lower neighbour once more added, which has no share of a hit: so a hit may share more of its charge.
LEAST_WINGS_OF_CLEAR = 0.65
# Pixels around a hit go with it from here on.
WING_SIGMA = 2.0
# What is this many times as high as the faintest hits is seen too well to be the remains of another exposure's hit, or
# to have a line's wings hidden in the noise.
CLEAR = 3.0
VARIANCES = ("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")


def find_cosmic_rays(
    image: np.ndarray,
    error: np.ndarray,
    slices: np.ndarray,
    others: Sequence[np.ndarray],
    other_errors: Sequence[np.ndarray],
    *,
    nsigma: float = 4.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pixels of an exposure that cosmic rays hit, and what they would be without.

    Parameters
    ----------
    image, error
        (y, x), y along the dispersion, any unit. Pixels that are NaN in either are bad already, and never hits.
    slices
        (y, x) int, number of the slice that a pixel belongs to, negative between slices.
    others, other_errors
        Exposures of the same detector and setting, one at least, each (y, x) in the unit of `image`, NaN where bad, and
        their errors.
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
        If `nsigma` is not positive, the shapes differ, there are no others or not as many errors.
    """
    if not len(others):
        raise OptionError("cosmic rays are found by comparison: give one other exposure at least.")
    if not nsigma > 0:
        raise OptionError(f"nsigma ({nsigma}) must be above zero.")
    if len(other_errors) != len(others):
        raise OptionError(f"{len(others)} other exposures need as many errors, not {len(other_errors)}.")
    shapes = {np.shape(array) for array in (image, error, slices, *others, *other_errors)}
    if len(shapes) > 1:
        raise OptionError(f"exposures, errors and slices must have one shape, not {sorted(shapes)}.")
    hits = np.zeros(image.shape, bool)
    expected, expected_error = (np.full(image.shape, np.nan, np.float32) for _ in range(2))
    for number in np.unique(slices[slices >= 0]):
        inside = slices == number
        rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        images, errors = [], []
        for seen, uncertain in zip((image, *others), (error, *other_errors), strict=True):
            known = inside[box] & np.isfinite(seen[box]) & (uncertain[box] > 0)
            images.append(np.where(known, seen[box], np.nan))
            errors.append(np.where(known, uncertain[box], np.inf))
        found, value, value_error = _hits_in_slice(images, errors, nsigma)
        hits[box] |= found
        expected[box][found], expected_error[box][found] = value[found], value_error[found]
    return hits, expected, expected_error


def _hits_in_slice(
    images: list[np.ndarray], all_errors: list[np.ndarray], nsigma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the first of some exposures; unknown values are NaN, their errors infinite."""
    values, errors = images[0], all_errors[0]
    others, reached = _without_hits(images[1:], all_errors[1:])
    fixed = _spectra_of_others(others, all_errors[1:])
    known = np.isfinite(values)
    smooth, far = _without_far(values, errors)
    fitted = known & ~far
    for number in range(PASSES):
        # A hit and what it left beside it would explain one another, so the first expectation is by the others alone.
        own = [] if number == 0 else zip(beside(bridged(smooth)), beside(errors), strict=True)
        spectra = [*own, *fixed]
        expected, gain = expect(values, spectra, errors, fitted)
        deviation = (values - expected) / (errors * gain)
        scatter = np.maximum(scatter_around(deviation), _scatter_beside(deviation))
        gain, deviation = gain * scatter, deviation / scatter
        # A hit must not raise what its neighbours are expected to be; hits in other exposures leave holes here.
        odd = _hits(deviation, values - expected, FIT_LIMIT)
        hole = _hits(-deviation, expected - values, FIT_LIMIT)
        fitted, smooth = known & ~odd & ~hole, np.where(odd, expected, values)
    hits = _hits(deviation, values - expected, nsigma) & ~(reached & (deviation < CLEAR * nsigma))
    # The errors around a hit: its own has the noise of its charge.
    return hits, expected, median_around(np.where(known, errors, np.nan)) * gain


def _without_hits(images: list[np.ndarray], errors: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """The other exposures with NaN where a first look finds hits, and all pixels that these may have reached.

    Through a negative coefficient such a hit would look like one in the exposure itself, which for that reason has no
    part in this.
    """
    first = [_without_far(image, error) for image, error in zip(images, errors, strict=True)]
    smooth = [bridged(image) for image, _ in first]
    cleaned, reached = [], np.zeros(images[0].shape, bool)
    for number, (image, error) in enumerate(zip(images, errors, strict=True)):
        spectra = [*zip(beside(smooth[number]), beside(error), strict=True)]
        spectra += [(smooth[k], errors[k]) for k in range(len(images)) if k != number]
        expected, gain = expect(image, spectra, error, np.isfinite(image) & ~first[number][1])
        deviation = (image - expected) / (error * gain)
        hits = _hits(deviation / scatter_around(deviation), image - expected, FIRST_SIGMA)
        cleaned.append(np.where(hits, np.nan, image))
        reached |= binary_dilation(hits, np.ones((3, 3)))
    return cleaned, reached


def _without_far(values: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values with the median around them where they are far from it, and where that is."""
    middle = median_around(values)
    deviation = (values - middle) / errors
    far = np.abs(deviation) > FAR * scatter_around(deviation)
    return np.where(far, middle, values), far


def _spectra_of_others(others: list[np.ndarray], errors: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """What others lend to the combination, each with its error: their spectra, and those around their mean."""
    others = [bridged(other) for other in others]
    # All or none: they see different places, so that a mean of some would step where one is missing.
    mean, error = np.mean(others, axis=0), np.sqrt(np.sum(np.square(errors), axis=0)) / len(others)
    mean = bridged(mean)
    around = [*beside(mean), *along(mean, beyond=mean)]
    errors_around = [*beside(error), *along(error, beyond=error)]
    return [*zip(others, errors, strict=True), *zip(around, errors_around, strict=True)]


def _scatter_beside(deviation: np.ndarray) -> np.ndarray:
    """The same along x, one where it may be chance: what many columns show in one row is a line."""
    width, columns = min(BESIDE, deviation.shape[1]), np.arange(deviation.shape[1])
    windows = np.lib.stride_tricks.sliding_window_view(np.abs(deviation), width, axis=1)
    # At the slice's edges the window moves inward: of few columns two hits would be most.
    start = np.clip(columns - width // 2, 0, columns.size - width)
    scatter = 1.4826 * nan_median(np.moveaxis(windows, -1, 0).copy())[:, start]
    return np.where(scatter > LEAST_SCATTER_BESIDE, scatter, 1.0)


def _hits(deviation: np.ndarray, excess: np.ndarray, nsigma: float) -> np.ndarray:
    """Peaks that no line spread could have made, with the pixels around them that stand out, too.

    How sharp they are is told by the excess, in the unit of the image: a hit has a larger error than what is beside it.
    """
    below, above = along(excess, beyond=np.nan)
    below, above = np.where(np.isnan(below), above, below), np.where(np.isnan(above), below, above)
    # The flank of a line has its peak beside it; so may a hit, which is found by that one then.
    left, right = (side.T for side in along(deviation.T, beyond=-np.inf))
    highest = (excess >= below) & (excess >= above) & (deviation >= left) & (deviation >= right)
    high = (deviation > nsigma) & highest
    wings = below + above
    clear = (deviation > CLEAR * nsigma) & (wings + np.minimum(below, above) < LEAST_WINGS_OF_CLEAR * excess)
    sharp = high & ((wings < LEAST_WINGS * excess) | clear)
    return sharp | (binary_dilation(sharp, np.ones((3, 3))) & (deviation > WING_SIGMA))


def mend_cosmic_rays_file(
    path_in: str | Path, path_out: str | Path, others: Sequence[str | Path] = (), *, nsigma: float = 4.0
) -> dict[str, Any]:
    """Mend the pixels of a calibrated exposure that cosmic rays hit.

    Parameters
    ----------
    path_in, path_out
        The `*_cal.fits` to read and the file to write; they may be the same.
    others
        Calibrated exposures of the same detector and setting, best three: with two, hits left are a third more, with
        one twice as many. Without any, nothing is found, and a warning says so.
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
        facts["hits"] = _mend(exposure, [read_exposure_file(Path(path)) for path in others], nsigma)
        facts["notes"].append(f"{facts['hits']} pixels hit, by comparison with {len(others)} other exposures")
    else:
        facts["warnings"].append(f"{path_in.name}: no other exposure is left to find cosmic rays by comparison with")
    parameters = {"nsigma": nsigma, "compared": len(others), "hits": facts["hits"]}
    exposure.add_note(STEP, "Cosmic rays mended", parameters)
    write_cube(exposure, path_out)
    return facts


def _mend(exposure: Cube, others: list[Cube], nsigma: float) -> int:
    arrays = (_image(exposure), exposure.err, slice_numbers(exposure), *map(_image, others), *(o.err for o in others))
    along_x = exposure.sci_header.get("DISPAXIS") == 1
    image, error, slices, *compared = (array.T if along_x else array for array in arrays)
    count = len(others)
    found = find_cosmic_rays(image, error, slices, compared[:count], compared[count:], nsigma=nsigma)
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
    check_types(exposure, ("SCI", "ERR", *(name for name in VARIANCES if name in exposure.hdul)))
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
    parser.add_flag("nsigma", type=float, default=4.0, help="height of the faintest hits to be found [sigma]")
    return mend_cosmic_rays_file(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python cosmic_rays.py IN OTHER ... OUT [options]`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
