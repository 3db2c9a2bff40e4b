"""What the spectra of a planet have in common: its lines, told from residual fringes. Arrays only.

A fit of sines takes lines a few cm-1 apart for fringes, and planets have many. But lines are alike in all spectra of a
cube, and differ by little more than their depth from place to place; fringes have another phase in each slice and at
each position along it. So the logarithm of the spectra, less a smooth continuum, is taken apart:

    ln I - continuum = median over spectra + sum_k a_k(spectrum) v_k(wavelength) + rest

with v_k the strongest principal components of the differences to the median. A component is of the lines unless a
single sine of a fringe's period makes up a good part of it (its Lomb-Scargle power): fringes give pairs of nearly pure
sines, lines give less than a tenth. Median and components of lines make the line model; the fringes are in the rest.

What fringes of amplitude A in N slices have in common by chance goes with the lines: A / sqrt(2 N) rms is left of them.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

from sine_fit import Periodogram

# Spectra from which lines are learned: those brighter than this fraction of the brightest; so many of them at least.
BRIGHTNESS = 0.1
MINIMUM_SPECTRA = 20
# Of the Gaussian that smooths spectra to the continuum [cm-1]. A box would let lines of a fringe's period through.
CONTINUUM_SIGMA = 8.0
# The most components, the least rms of one (relative to the continuum), and the power of a sine that makes it a fringe.
MAX_COMPONENTS = 10
MINIMUM_RMS = 0.002
FRINGE_POWER = 0.12
# Differences to the median are clipped at so many of their standard deviations, for bad values' sake.
CLIP = 5.0


def shared_lines(
    spectra: np.ndarray, wavelength: np.ndarray, fringes: Sequence[tuple[float, float]]
) -> np.ndarray | None:
    """The lines in spectra, relative to the continuum, as far as the spectra share them.

    Parameters
    ----------
    spectra
        (spectrum, wavelength), any unit; what is not finite or not positive is left out.
    wavelength
        (wavelength,) [um].
    fringes
        Periods of the fringes and half widths of the search for them [cm-1].

    Returns
    -------
    numpy.ndarray or None
        (spectrum, wavelength), about 1, and 1 for spectra too faint to tell; None if less than `MINIMUM_SPECTRA` are
        bright enough.
    """
    wavenumber = 1e4 / np.asarray(wavelength, dtype=float)
    there = np.isfinite(spectra) & (spectra > 0)
    bright = _bright(spectra, there)
    if bright.size < MINIMUM_SPECTRA or wavenumber.size < 2:
        return None
    place = np.arange(wavenumber.size)
    ln = np.array([np.interp(place, place[there[n]], np.log(spectra[n, there[n]])) for n in bright])
    ln -= gaussian_filter1d(ln, CONTINUUM_SIGMA / np.median(np.abs(np.diff(wavenumber))), axis=1, mode="nearest")
    median = np.median(ln, axis=0)
    difference = ln - median
    limit = CLIP * difference.std()
    np.clip(difference, -limit, limit, out=difference)
    components = _line_components(difference, wavenumber, fringes)
    lines = np.ones(spectra.shape)
    lines[bright] = np.exp(median + difference @ components.T @ components)
    return lines


def _bright(spectra: np.ndarray, there: np.ndarray) -> np.ndarray:
    mostly_there = np.flatnonzero(there.mean(axis=1) > 0.5)
    level = np.array([np.median(spectra[n, there[n]]) for n in mostly_there])
    return mostly_there[level > BRIGHTNESS * level.max()] if level.size else mostly_there


def _line_components(
    difference: np.ndarray, wavenumber: np.ndarray, fringes: Sequence[tuple[float, float]]
) -> np.ndarray:
    """Orthonormal principal components (component, wavelength) that are not fringes."""
    values, components = np.linalg.eigh(difference.T @ difference)
    strongest = np.argsort(values)[::-1][:MAX_COMPONENTS]
    rms = np.sqrt(np.maximum(values[strongest], 0) / difference.size)
    components = components[:, strongest[rms > MINIMUM_RMS]].T
    if len(components) == 0:
        return components
    power = np.zeros(len(components))
    for period, half_width in fringes:
        periodogram = Periodogram(wavenumber, period, half_width)
        everywhere = np.ones(components.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = periodogram.power(components, everywhere, periodogram.mask_sums(everywhere)).max(axis=1)
        power = np.maximum(power, np.nan_to_num(found))
    return components[power < FRINGE_POWER]
