"""What the spectra of a planet have in common: its lines, told from residual fringes. Arrays only.

A fit of sines takes lines a few cm-1 apart for fringes, and planets have many. But lines are alike in all spectra of a
cube, and differ by little more than their depth from place to place; fringes have another phase in each slice and at
each position along it. So the logarithm of the spectra, less a smooth continuum, is taken apart:

    ln I - continuum = median over spectra + sum_k a_k(spectrum) v_k(wavelength) + rest

with v_k the strongest principal components of the differences to the median. A component is of the lines unless a
single sine of a fringe's period makes up a good part of it (its Lomb-Scargle power): fringes give pairs of nearly pure
sines, lines give less than a tenth. Median and components of lines make the line model; the fringes are in the rest.

By chance fringes of amplitude A in N slices have A / sqrt(2 N) rms in common, which so goes to the lines. It is found
again by the fringes' amplitude, which is about the same in all slices. Demodulated, a fringe is a point in the complex
plane, those of all spectra lie on a circle about 0, and what the lines took has moved them:

    rest demodulated = A exp(i phase(spectrum)) - sum_k q_k(spectrum) g_k

with q_0 = 1 and q_k = a_k. The g_k that bring the points back on a circle are a least-squares fit of moduli, by
alternating projections (as in phase retrieval: Fienup 1982, Appl. Opt. 21, 2758). From there each slice, along which
the phase drifts, is given an arc with a radius of its own. How far amplitudes scatter about the radii says how far to
trust it. Lines are then sought once more in the spectra without the fringes that were found.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

from sine_fit import Periodogram

# Lines are learned from spectra brighter than this fraction of the brightest; so many of them at least.
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
# How often lines and fringes are sought by turns, and the steps of the fit of moduli: with one radius for all slices,
# then with one for each.
ROUNDS = 3
PROJECTIONS = (30, 60)
# Of the Gaussian over which a demodulated fringe is averaged, and from sample to sample of it [cm-1].
DEMODULATION_SIGMA = 20.0
SAMPLE_STEP = 5.0
# A fringe's period is found from so many spectra, evenly drawn.
PERIOD_SPECTRA = 100


def shared_lines(
    spectra: np.ndarray, wavelength: np.ndarray, fringes: Sequence[tuple[float, float]], slices: np.ndarray
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
    slices
        (spectrum,) int, the number of the slice, or row of the cube, that a spectrum lies in.

    Returns
    -------
    numpy.ndarray or None
        (spectrum, wavelength), about 1, and 1 for bright spectra without those lines (rings, say) and those with many
        gaps; None if less than `MINIMUM_SPECTRA` are bright enough.
    """
    wavenumber = 1e4 / np.asarray(wavelength, dtype=float)
    there = np.isfinite(spectra) & (spectra > 0)
    bright, faint = _bright_and_faint(spectra, there)
    if bright.size < MINIMUM_SPECTRA or wavenumber.size < 2:
        return None
    smoothing = CONTINUUM_SIGMA / np.median(np.abs(np.diff(wavenumber)))
    ln = _logarithms(spectra[bright], smoothing)
    periodograms = [Periodogram(wavenumber, period, half_width) for period, half_width in fringes]
    fringe = np.zeros_like(ln)
    for _ in range(ROUNDS):
        lines, strengths = _line_model(ln - fringe, periodograms)
        rest = _clipped(ln - lines)
        fringe[...] = 0
        carriers = [_carrier(rest, periodogram) for periodogram in periodograms]
        for carrier in carriers:
            found, taken = _fringe_and_share(rest, strengths, slices[bright], wavenumber, carrier)
            fringe += found
            lines -= taken
    result = np.ones_like(spectra)
    like_the_others = (ln - lines).std(axis=1) < ln.std(axis=1)
    result[bright[like_the_others]] = np.exp(lines[like_the_others])
    fit = _FitOfLines(strengths.T @ lines, wavenumber, carriers)
    for n in faint:
        result[n] = np.exp(fit.lines(_logarithms(spectra[n : n + 1], smoothing)[0]))
    return result


def _bright_and_faint(spectra: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mostly_there = np.flatnonzero(there.mean(axis=1) > 0.5)
    level = np.array([np.median(spectra[n, there[n]]) for n in mostly_there])
    bright = level > BRIGHTNESS * level.max(initial=0)
    return mostly_there[bright], mostly_there[~bright]


def _logarithms(spectra: np.ndarray, smoothing: float) -> np.ndarray:
    """Logarithms less the continuum, which is smoothed by a Gaussian of so many wavelengths; gaps are interpolated."""
    ln = np.empty(spectra.shape, np.float32)
    place = np.arange(spectra.shape[1])
    for row, spectrum in zip(ln, spectra, strict=True):
        there = np.isfinite(spectrum) & (spectrum > 0)
        row[:] = np.interp(place, place[there], np.log(spectrum[there]))
    return ln - gaussian_filter1d(ln, smoothing, axis=1, mode="nearest")


def _line_model(ln: np.ndarray, periodograms: Sequence[Periodogram]) -> tuple[np.ndarray, np.ndarray]:
    """Lines (spectrum, wavelength), and an orthonormal basis (spectrum, 1 + component) of how strong they are."""
    median = np.median(ln, axis=0)
    difference = _clipped(ln - median)
    components = _line_components(difference, periodograms)
    strengths = difference @ components.T
    basis, _ = np.linalg.qr(np.column_stack([np.ones(len(ln), ln.dtype), strengths]))
    return median + strengths @ components, basis


def _clipped(values: np.ndarray) -> np.ndarray:
    limit = CLIP * values.std()
    return np.clip(values, -limit, limit)


def _line_components(difference: np.ndarray, periodograms: Sequence[Periodogram]) -> np.ndarray:
    """Orthonormal principal components (component, wavelength) that are not fringes."""
    values, components = np.linalg.eigh((difference.T @ difference).astype(float))
    strongest = np.argsort(values)[::-1][:MAX_COMPONENTS]
    rms = np.sqrt(np.maximum(values[strongest], 0) / difference.size)
    components = components[:, strongest[rms > MINIMUM_RMS]].T
    power = np.zeros(len(components))
    for periodogram in periodograms:
        power = np.maximum(power, _power(components, periodogram).max(axis=1))
    return components[power < FRINGE_POWER].astype(difference.dtype)


def _power(series: np.ndarray, periodogram: Periodogram) -> np.ndarray:
    """Lomb-Scargle power (series, period) of series without gaps; 0 where there is none."""
    everywhere = np.ones((1, series.shape[1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(periodogram.power(series, everywhere, periodogram.mask_sums(everywhere)))


def _carrier(rest: np.ndarray, periodogram: Periodogram) -> np.ndarray:
    some = rest[:: max(1, len(rest) // PERIOD_SPECTRA)]
    period = periodogram.periods[_power(some, periodogram).mean(axis=0).argmax()]
    return np.exp(2j * np.pi * periodogram.wavenumber / period)


def _fringe_and_share(
    rest: np.ndarray, basis: np.ndarray, slices: np.ndarray, wavenumber: np.ndarray, carrier: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The fringe of each spectrum, and the part of it that the line model took; both (spectrum, wavelength)."""
    samples = np.arange(wavenumber.min(), wavenumber.max() + SAMPLE_STEP, SAMPLE_STEP)
    weights = np.exp(-0.5 * ((wavenumber - samples[:, np.newaxis]) / DEMODULATION_SIGMA) ** 2)
    demodulate = 2 * carrier.conj() * weights / weights.sum(axis=1, keepdims=True)
    demodulated = rest @ demodulate.T.astype(np.complex64)
    share = basis @ _share_of_lines(demodulated, basis, slices)
    modulate = _modulated(carrier, wavenumber, SAMPLE_STEP).astype(rest.dtype)
    fringe = demodulated + share
    return tuple(np.concatenate([part.real, part.imag], axis=1) @ modulate for part in (fringe, share))


def _modulated(carrier: np.ndarray, wavenumber: np.ndarray, step: float) -> np.ndarray:
    """Fringes, (2 sample, wavelength), whose real or imaginary part is 1 at one sample and linear to 0 at the next."""
    samples = np.arange(wavenumber.min(), wavenumber.max() + step, step)
    modulated = np.maximum(0, 1 - np.abs(wavenumber - samples[:, np.newaxis]) / step) * carrier
    return np.concatenate([modulated.real, -modulated.imag])


class _FitOfLines:
    """Finds the lines of a spectrum by itself, beside fringes whose phase drifts.

    Parameters
    ----------
    lines
        (line spectrum, wavelength), of which lines are combined.
    wavenumber, carriers
        [cm-1], and the fringes, each (wavelength,) complex.
    """

    def __init__(self, lines: np.ndarray, wavenumber: np.ndarray, carriers: Sequence[np.ndarray]) -> None:
        fringes = [_modulated(carrier, wavenumber, DEMODULATION_SIGMA) for carrier in carriers]
        self._design = np.concatenate([lines, *fringes]).T
        self._solve = np.linalg.pinv(self._design)
        self._count = len(lines)

    def lines(self, ln: np.ndarray) -> np.ndarray:
        """Lines (wavelength,) in the logarithm of a spectrum; fitted twice, the second time without outliers."""
        model = self._design @ (self._solve @ ln)
        coefficients = self._solve @ (model + _clipped(ln - model))
        return self._design[:, : self._count] @ coefficients[: self._count]


def _share_of_lines(demodulated: np.ndarray, basis: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """Coefficients (basis, sample) that give moduli alike to `demodulated + basis @ coefficients`.

    What the lines took by chance is expected to be A / sqrt(N) strong, and what is found is uncertain by sqrt(2) times
    the scatter of the moduli over sqrt(N): each step is shortened as the two prescribe.
    """
    _, slices = np.unique(slices, return_inverse=True)
    spectra = np.bincount(slices)
    coefficients = np.zeros((basis.shape[1], demodulated.shape[1]), demodulated.dtype)
    for step in range(sum(PROJECTIONS)):
        fringe = demodulated + basis @ coefficients
        modulus = np.maximum(np.abs(fringe), np.finfo(np.float32).tiny)
        amplitude = modulus.mean(axis=0)
        direction = fringe / modulus
        relative = modulus / amplitude
        radius = np.ones((len(slices), 1), modulus.dtype)
        if step >= PROJECTIONS[0]:
            radius[:, 0] = (np.bincount(slices, relative.mean(axis=1)) / spectra)[slices]
        on_arcs = basis.T @ (radius * amplitude * direction - demodulated)
        coefficients = on_arcs / (1 + 2 * (relative - radius).var(axis=0))
    return coefficients
