"""Despike a cube: find voxels that no telescope could have imaged (cosmic rays, bad pixels) and mark them bad.

In: a `*_s3d.fits` cube. Out: the same cube with the spikes NaN in SCI and ERR, DO_NOT_USE | OUTLIER in DQ, and an
extension SPIKES.
A voxel is a spike where three things hold, in each of which noise is ERR scaled to the scatter that the cube shows:

1. wavelength test: it is not what the other wavelengths lead to expect (`cube_model`: each image is a combination of a
   few images), nor is it odd in the same way as its neighbours in wavelength. Taken off, the expectation leaves an
   image that is flat on limbs, belts, moons and lines alike, where a spike of a few sigma shows.
2. local median test: in that image it deviates from the median of the 9 x 9 spaxels around it.
3. sharpness test: it is sharper there than the PSF allows, by itself or in a block of 2 x 2 spaxels (`sharpness`), and
   not lower than its neighbours as far as they are no spikes.

Along the ragged edge of the field, where spaxels have data at some wavelengths only, the cube jumps as detector pixels
enter and leave them: there noise is what the largest deviations of a spectrum show, more so beside a gap.

Spikes found are left out and the whole is repeated, by default three times with the same windows, so that spikes next
to brighter ones are found and none bends the expectation for its neighbours. It begins with a first guess at the
expectation, from a voxel's neighbours alone: spikes by that are kept out of the model.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from command_line import ArgumentParser, run_command
from cube_model import CubeModel, expect_from_neighbours
from cubes import DQ, read_cube, spaxel_scale, write_cube
from errors import OptionError
from medians import local_median, median_along_rows, nan_median
from psf_model import psf_fwhm as instrument_psf_fwhm
from sharpness import ring_shares, sharp_parts

STEP = "despike"
# A spike of nsigma is itself scattered by noise; a threshold this many sigma lower finds 98 in 100 of those.
NOISE_ALLOWANCE = 2.0
# ERR is scaled to the scatter found, but not by less: noiseless or smoothed cubes have next to no scatter.
LEAST_NOISE_SCALE = 0.5
# Of fewer values no scatter is measured.
LEAST_SAMPLE = 25
# Spaxels with data at fewer wavelengths than this share, and those around them, are the ragged edge of the field. Their
# scatter is also taken from this quantile of the deviations, and raised by this factor for a voxel beside a gap.
WHOLE_SPECTRUM = 0.98
EDGE_QUANTILE, EDGE_QUANTILE_SIGMA = 0.95, 1.96
BESIDE_GAP = 3.0
# Of fewer wavelengths nothing is learnt about one of them.
LEAST_WAVELENGTHS = 3

_Deviations = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def despike_cube(sci: np.ndarray, err: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Cube with its spikes NaN, and the mask of them.

    Parameters
    ----------
    sci, err, **options
        As in `find_spikes`.

    Returns
    -------
    cleaned : numpy.ndarray
        Copy of `sci`, NaN where there is a spike.
    spikes : numpy.ndarray
        bool, of the same shape.
    """
    spikes = find_spikes(sci, err, **options)
    cleaned = np.array(sci)
    cleaned[spikes] = np.nan
    return cleaned, spikes


def find_spikes(
    sci: np.ndarray,
    err: np.ndarray,
    *,
    nsigma: float = 7.0,
    box_size: int = 9,
    window: int = 7,
    iterations: int = 3,
    psf_fwhm: float | np.ndarray = 2.0,
    median_test: bool = True,
    sharpness_test: bool = True,
    wavelength_test: bool = True,
) -> np.ndarray:
    """Mask of the spikes in a cube.

    Parameters
    ----------
    sci
        (wavelength, y, x), in any unit; voxels that are not finite are bad already, and never spikes.
    err
        1-sigma errors, same shape and unit. Where they are not positive and finite, the image's median error serves.
    nsigma
        Height, in sigma, of the faintest spikes to be found. The threshold lies `NOISE_ALLOWANCE` below.
    box_size
        Side of the box of the local median [spaxels], odd.
    window
        Number of wavelengths around a voxel's own, which counts, for the comparison with those next to it; odd.
    iterations
        How often to look, with the same windows.
    psf_fwhm
        FWHM of the PSF [spaxels], one or one per wavelength.
    median_test, sharpness_test, wavelength_test
        Whether to make each test. Without the wavelength test, the local median is taken of the images as they are,
        always: the classical method, which with the sharpness test off, too, is fit for flat scenes only.

    Returns
    -------
    numpy.ndarray
        bool, of the shape of `sci`. The wavelength test needs three wavelengths at least, and is not made of fewer.

    Raises
    ------
    OptionError
        If an option makes no sense, or the shapes differ.
    """
    _check_options(sci, err, nsigma, box_size, window, iterations, (median_test, sharpness_test, wavelength_test))
    values = np.asarray(sci, np.float32)
    if np.isinf(values).any():
        values = np.where(np.isfinite(values), values, np.nan)
    noise = _usable_errors(err, np.isfinite(values))
    compare_wavelengths = wavelength_test and len(values) >= LEAST_WAVELENGTHS
    tests = _Tests(
        threshold=nsigma - NOISE_ALLOWANCE,
        shares=ring_shares(np.broadcast_to(psf_fwhm, len(values))) if sharpness_test else None,
        box_size=box_size if median_test else None,
        window=window if compare_wavelengths else None,
        iterations=iterations,
    )
    nothing = np.zeros(values.shape, bool)
    if not compare_wavelengths:
        return tests.repeat(nothing, noise, lambda spikes: (_beside_local_median(values, spikes, box_size), None))
    local = values - expect_from_neighbours(values, noise, window)
    suspects = tests.repeat(nothing, noise, lambda spikes: (local, None))
    model = CubeModel.fit(values, noise, suspects, local)
    if model is not None:
        return tests.repeat(suspects, noise, lambda spikes: (model.deviation(spikes, elsewhere=local), local))

    def beside_neighbours(spikes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        deviation = values - expect_from_neighbours(np.where(spikes, np.nan, values), noise, window)
        return deviation, deviation

    return tests.repeat(suspects, noise, beside_neighbours)


@dataclass(frozen=True)
class _Tests:
    """Thresholds of the tests; `shares`, `box_size` and `window` are None where they are not made.

    In the images as they are, without the wavelength test, the local median is the expectation itself.
    """

    threshold: float
    shares: np.ndarray | None
    box_size: int | None
    window: int | None
    iterations: int

    def repeat(self, spikes: np.ndarray, noise: np.ndarray, deviations: _Deviations) -> np.ndarray:
        """Spikes found by looking several times, at first beside those given.

        `deviations` tells the deviations from the expectation if spikes are left out, and those from the first guess.
        """
        for _ in range(self.iterations):
            found = self._look(*deviations(spikes), spikes, noise)
            if np.array_equal(found, spikes):
                break
            spikes = found
        return spikes

    def _look(
        self, deviation: np.ndarray, local: np.ndarray | None, flagged: np.ndarray, noise: np.ndarray
    ) -> np.ndarray:
        """Which voxels are spikes, seen beside those that are not `flagged` so far.

        A source that shines in one line only is no surprise to the model in its wings, but in its middle, which is left
        out: so sharpness is asked of the deviation from the first guess, too.
        """
        by_wavelength = self.window is not None
        scale = _noise_scale(deviation, noise) if by_wavelength else _image_scale(deviation, noise)[:, None, None]
        sigma = noise * scale
        place = np.nonzero(np.abs(deviation) > self.threshold * sigma)
        background = np.zeros_like(deviation[place])
        if by_wavelength:
            unflagged = np.where(flagged, np.nan, deviation)
            here, least = deviation[place], self.threshold * sigma[place]
            found = np.abs(here - _median_of_neighbouring_wavelengths(unflagged, place, self.window)) > least
            if self.box_size is not None:
                background = np.nan_to_num(local_median(unflagged, place, self.box_size), nan=0.0)
                found &= np.abs(here - background) > least
            place, background = tuple(axis[found] for axis in place), background[found]
        spikes = np.zeros(deviation.shape, bool)
        spikes[place] = True
        if self.shares is not None:
            spikes &= sharp_parts(deviation, flagged, place, background, self.shares, also_in=local)
        return spikes


def _beside_local_median(values: np.ndarray, spikes: np.ndarray, box_size: int) -> np.ndarray:
    """The classical method: values minus the median around them, in which `spikes` do not count; NaN without value."""
    deviation = values.copy()
    place = np.nonzero(np.isfinite(deviation))
    deviation[place] -= local_median(np.where(spikes, np.nan, values), place, box_size)
    return deviation


def _check_options(sci, err, nsigma, box_size, window, iterations, tests) -> None:
    if np.ndim(sci) != 3 or np.shape(sci) != np.shape(err):
        raise OptionError(f"despike needs a cube and its errors in one shape, not {np.shape(sci)} and {np.shape(err)}.")
    if nsigma <= NOISE_ALLOWANCE or iterations < 1:
        raise OptionError(
            f"nsigma ({nsigma}) must be greater than {NOISE_ALLOWANCE} and iterations ({iterations}) at least 1."
        )
    if box_size < 3 or window < 3 or box_size % 2 == 0 or window % 2 == 0:
        raise OptionError(f"box_size ({box_size}) and window ({window}) must be odd and at least 3.")
    if not any(tests):
        raise OptionError(
            "all three tests are switched off: leave one on, or leave the step out (--skip_steps despike)."
        )


def _usable_errors(err: np.ndarray, valid: np.ndarray) -> np.ndarray:
    usable = np.isfinite(err) & (err > 0)
    errors = np.where(usable & valid, err, np.nan).astype(np.float32)
    rows = errors.reshape(len(errors), -1)
    typical = median_along_rows(rows)
    overall = median_along_rows(typical[None])[0]
    typical = np.where(np.isfinite(typical), typical, overall if np.isfinite(overall) else 1.0)
    return np.where(usable, err, typical[:, None, None]).astype(np.float32)


def _image_scale(deviation: np.ndarray, noise: np.ndarray) -> np.ndarray:
    # Robust scatter of each image in units of ERR.
    ratio = np.abs(deviation / noise).reshape(len(deviation), -1)
    scale = 1.4826 * median_along_rows(ratio)
    few = np.isfinite(ratio).sum(axis=1) < LEAST_SAMPLE
    if few.any():
        scale[few] = 1.4826 * median_along_rows(ratio.reshape(1, -1))[0]
    return np.maximum(np.nan_to_num(scale, nan=1.0), LEAST_NOISE_SCALE).astype(np.float32)


def _noise_scale(deviation: np.ndarray, noise: np.ndarray) -> np.ndarray:
    # By image, and more for spaxels whose spectrum scatters more than the images do: there the expectation is poor.
    by_image = _image_scale(deviation, noise)[:, None, None]
    there = np.isfinite(deviation)
    ratio = np.abs(deviation / (noise * by_image)).reshape(len(deviation), -1).T
    by_spaxel = 1.4826 * median_along_rows(ratio)
    share = there.mean(axis=0)
    ragged = binary_dilation((share > 0) & (share < WHOLE_SPECTRUM), np.ones((3, 3))) & (share > 0)
    edge = ragged.ravel()
    by_spaxel[edge] = np.fmax(by_spaxel[edge], np.nanquantile(ratio[edge], EDGE_QUANTILE, axis=1) / EDGE_QUANTILE_SIGMA)
    by_spaxel[there.reshape(len(there), -1).sum(axis=0) < LEAST_SAMPLE] = 1.0
    scale = by_image * np.fmax(by_spaxel, 1.0).reshape(share.shape).astype(np.float32)
    beside_gap = np.zeros(there.shape, bool)
    beside_gap[1:] = ~there[:-1]
    beside_gap[:-1] |= ~there[1:]
    scale[beside_gap & ragged] *= BESIDE_GAP
    return scale


def _median_of_neighbouring_wavelengths(image: np.ndarray, place: tuple[np.ndarray, ...], window: int) -> np.ndarray:
    wavelength, y, x = place
    half = window // 2
    padded = np.pad(image, ((half, half), (0, 0), (0, 0)), constant_values=np.nan)
    around = np.stack([padded[wavelength + k, y, x] for k in range(window) if k != half])
    return np.nan_to_num(nan_median(around), nan=0.0)


def despike_file(
    path_in: str | Path,
    path_out: str | Path,
    *,
    nsigma: float = 7.0,
    box_size: int = 9,
    window: int = 7,
    iterations: int = 3,
    psf_fwhm: float | None = None,
    median_test: bool = True,
    sharpness_test: bool = True,
    wavelength_test: bool = True,
) -> dict[str, Any]:
    """Mark the spikes of a cube bad.

    Parameters
    ----------
    path_in, path_out
        The cube to read and the one to write; they may be the same.
    psf_fwhm
        FWHM of the PSF [arcsec]; by default the instrument's at each wavelength (`psf_model.psf_fwhm`).
    nsigma, box_size, window, iterations, median_test, sharpness_test, wavelength_test
        As in `find_spikes`.

    Returns
    -------
    dict
        'notes' and 'warnings' (lists of sentences), 'spikes' and 'good_voxels' (numbers).

    Raises
    ------
    FileFormatError
        If the cube cannot be read.
    OptionError
        If an option makes no sense.
    """
    cube = read_cube(path_in)
    parameters = {
        "nsigma": nsigma,
        "box_size": box_size,
        "window": window,
        "iterations": iterations,
        "median_test": median_test,
        "sharpness_test": sharpness_test,
        "wavelength_test": wavelength_test,
    }
    arcsec = instrument_psf_fwhm(cube.wavelength, cube.header.get("INSTRUME", "MIRI")) if psf_fwhm is None else psf_fwhm
    good = cube.good
    spikes = find_spikes(
        np.where(good, cube.sci, np.nan), cube.err, psf_fwhm=arcsec / spaxel_scale(cube.sci_header), **parameters
    )
    cube.mark_bad(spikes, DQ.OUTLIER)
    marks = spikes.astype(np.uint8)
    if "SPIKES" in cube.hdul and cube.hdul["SPIKES"].shape == marks.shape:
        marks |= cube.hdul["SPIKES"].data.astype(np.uint8)
    cube.set_extension("SPIKES", marks, "", "1 where despike found a spike and made the voxel bad, 0 elsewhere.")
    number, total = int(spikes.sum()), int(good.sum())
    cube.add_note(STEP, "Despiked", {**parameters, "psf_fwhm": psf_fwhm or "instrument", "spikes": number})
    write_cube(cube, path_out)
    facts: dict[str, Any] = {"notes": [], "warnings": [], "spikes": number, "good_voxels": total}
    facts["notes"].append(f"{number} spikes among {total} voxels marked bad")
    if number > 0.01 * total:
        facts["warnings"].append(
            f"{number / total:.1%} of the voxels were taken for spikes: look at the SPIKES extension, and raise "
            "--nsigma if they are real"
        )
    if wavelength_test and len(spikes) < LEAST_WAVELENGTHS:
        facts["warnings"].append("fewer than three wavelengths: the wavelength test was left out")
    return facts


def _command(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = ArgumentParser(prog="despike.py", description="Find spikes in a cube and mark them bad.")
    parser.add_argument("path_in", metavar="IN", help="cube to read (*_s3d.fits)")
    parser.add_argument("path_out", metavar="OUT", help="cube to write")
    parser.add_flag("nsigma", type=float, default=7.0, help="height of the faintest spikes to be found [sigma]")
    parser.add_flag("box_size", type=int, default=9, help="side of the box of the local median [spaxels], odd")
    parser.add_flag("window", type=int, default=7, help="wavelengths in the window of the wavelength test, odd")
    parser.add_flag("iterations", type=int, default=3, help="how often to look, with the same windows")
    parser.add_flag("psf_fwhm", type=float, default=None, help="FWHM of the PSF [arcsec], instead of the instrument's")
    for test in ("median_test", "sharpness_test", "wavelength_test"):
        parser.add_flag(f"no_{test}", dest=test, action="store_false", help=f"leave the {test.replace('_', ' ')} out")
    return despike_file(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python despike.py IN OUT [options]`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
