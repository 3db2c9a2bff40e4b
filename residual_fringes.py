"""Residual fringes in MRS spectra: found and divided out of many spectra at once. Arrays only; `defringe` does files.

In: spectra of one band on a common wavelength grid. Out: for each voxel the factor that takes the fringes off. What is
computed is, spectrum by spectrum, what `jwst.residual_fringe.utils.fit_residual_fringes_1d` of `jwst` 3.0 computes
(Argyriou et al. 2020, A&A 641, A150; Gasman et al. 2023, A&A 673, A102):

1. lines are masked where the spectrum leaves the middle of its envelopes;
2. a spline with one knot per fringe period is the continuum, `spectrum / continuum - 1` the fringes;
3. the highest peak of their Lomb-Scargle periodogram starts one more sine; all sines are fitted together, robustly, by
   Levenberg-Marquardt, first with frequencies held, then free; it stays if the Bayesian evidence grows tenfold. The
   library means to ask that of the first sine, too, but compares it with something else: there it always stays, here
   spectra without fringes that stand out of their noise are left as they are;
4. beats of the fit that are higher than any fringe are dropped; the spectrum is divided by what is left.

Twice for channels 3 and 4, whose dichroics add a fringe of a shorter period.

The library spends its time on the periodogram, whose cosines and sines it evaluates anew for every spectrum and sine,
and on the fit, which does so several times a trial. Here the trigonometric matrices are made once for the whole
wavelength grid, and products with the 0/1 weights of the spectra's masks give the sums of many spectra at once
(`sine_fit`).

Fringes are told from lines by little but their period. Where a spectrum is crowded with lines a few cm-1 apart, those
are taken for fringes: see `shared_lines`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import LSQUnivariateSpline, PchipInterpolator

from sine_fit import ROBUST_DOMAIN, FitError, Periodogram, SineFit, biweight, evidence_without_sines, fit_sines

# Periods [cm-1] at which fringes are searched, the half width of the search, and how many sines may be fitted.
DETECTOR_FRINGE = (2.9, 1.5, 10)
DICHROIC_FRINGE = (0.4, 0.15, 15)
DICHROIC_CHANNELS = (3, 4)

# Longward of this the calibration is too uncertain to find fringes [um].
LONGEST_WAVELENGTH = 27.6
MINIMUM_PERIODS = 5
MINIMUM_WEIGHT = 1e-5
NO_WEIGHT = 1e-8
EVIDENCE_GAIN = 1.0  # in log10

BATCH = 16  # spectra whose periodograms are computed together

_CANNOT_FIT = (FitError, ValueError, RuntimeError, IndexError, ZeroDivisionError, np.linalg.LinAlgError)


def fringe_factors(
    spectra: np.ndarray,
    wavelength: np.ndarray,
    channel: int,
    *,
    dichroic_only: bool = False,
    max_amplitude: float = 0.4,
    clip_sigma: float = 5.0,
    ignore_regions: Sequence[tuple[float, float]] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Factors that take the residual fringes off spectra: `corrected = spectra * factors`.

    Parameters
    ----------
    spectra
        (spectrum, wavelength), any unit; what is not finite or not positive is left out.
    wavelength
        (wavelength,) [um].
    channel
        MRS channel, 1 to 4.
    dichroic_only
        Only the fringe of the dichroics, in channels 3 and 4.
    max_amplitude
        Beats of the fit with a larger peak-to-peak amplitude than this (relative) are not believed.
    clip_sigma
        What leaves the continuum by more than this many standard deviations is a line and does not enter the fit.
    ignore_regions
        Pairs of wavelengths [um] between which data do not enter the fit; they are corrected all the same.

    Returns
    -------
    factors
        (spectrum, wavelength), of the type of `spectra`; exactly 1 where nothing was changed.
    corrected
        (spectrum,) False for spectra that could not be fitted, or show no fringes.

    Raises
    ------
    ValueError
        If the channel has no such fringes.
    """
    fringes = fringes_of(channel, dichroic_only)
    factors, corrected = np.ones_like(spectra), np.zeros(len(spectra), dtype=bool)
    wavenumber = 1e4 / np.asarray(wavelength, dtype=float)
    with_data = np.flatnonzero(np.any(spectra > 0, axis=1))
    if with_data.size == 0:
        return factors, corrected
    excluded = wavelength > LONGEST_WAVELENGTH
    for low, high in ignore_regions:
        excluded |= (wavelength > low) & (wavelength < high)

    searches = [(Periodogram(wavenumber, period, half_width), period, sines) for period, half_width, sines in fringes]
    # Spectra that are hardly there make fits run away; those are noticed and given up.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        for start in range(0, with_data.size, BATCH):
            batch = []
            for number in with_data[start : start + BATCH]:
                try:
                    batch.append(_prepare(number, spectra[number], wavenumber, excluded, clip_sigma))
                except _CANNOT_FIT:
                    continue
            for periodogram, period, max_sines in searches:
                batch = _correct_fringe(batch, periodogram, period, max_sines, max_amplitude)
            for spectrum in batch:
                factors[spectrum.number, spectrum.used] = spectrum.factor
                corrected[spectrum.number] = spectrum.fitted
    return factors, corrected


def fringes_of(channel: int, dichroic_only: bool = False) -> list[tuple[float, float, int]]:
    """The fringes of a channel: period and half width of the search for it [cm-1], and most sines.

    Raises
    ------
    ValueError
        If the dichroic fringe is asked for in a channel that has none.
    """
    if dichroic_only and channel not in DICHROIC_CHANNELS:
        raise ValueError(f"channel {channel} has no dichroic fringe; it is in channels 3 and 4")
    detector = [] if dichroic_only else [DETECTOR_FRINGE]
    return detector + ([DICHROIC_FRINGE] if channel in DICHROIC_CHANNELS else [])


@dataclass
class _Spectrum:
    """One spectrum on its way; arrays are (used wavelength,).

    Attributes
    ----------
    number, used
        Its row, and the indices of its voxels that are used: finite and positive.
    wavenumber
        [cm-1].
    flux, weights
        As given, and relative to its median.
    fit_weights
        `weights` without lines and excluded regions, where they are next to nothing.
    factor
        The correction so far.
    fitted
        Whether a fringe was found.
    """

    number: int
    used: np.ndarray
    wavenumber: np.ndarray
    flux: np.ndarray
    weights: np.ndarray
    fit_weights: np.ndarray
    factor: np.ndarray
    fitted: bool = False


def _prepare(
    number: int, flux: np.ndarray, wavenumber: np.ndarray, excluded: np.ndarray, clip_sigma: float
) -> _Spectrum:
    used = np.flatnonzero(np.isfinite(flux) & (flux > 0))
    flux = flux[used].astype(float)
    weights = flux / np.median(flux)
    fit_weights = np.where(excluded[used], 0.0, weights)
    if not fit_weights.any():
        raise FitError("no data to fit")
    lower, upper = envelopes(flux, neighbours=2)
    middle = (lower + upper) / 2
    fit_weights = fit_weights * _without_lines(np.abs((flux - middle) / middle), clip_sigma)
    fit_weights[fit_weights <= 0] = NO_WEIGHT
    return _Spectrum(number, used, wavenumber[used], flux, weights, fit_weights, np.ones(flux.size))


def envelopes(signal: np.ndarray, neighbours: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper envelope of a signal: monotone cubics through its troughs and its peaks.

    Parameters
    ----------
    signal
        (n,), finite.
    neighbours
        A peak is higher than this many neighbours on either side.

    Returns
    -------
    lower, upper
        (n,)

    Raises
    ------
    ValueError
        If there are fewer than two values.
    """
    place = np.arange(signal.size)
    inner = place[neighbours : signal.size - neighbours]
    shifts = [shift for k in range(1, neighbours + 1) for shift in (-k, k)]
    curves = []
    for sign in (1, -1):
        ends_and_extrema = [0, signal.size - 1]
        if inner.size:
            extremum = np.all([sign * signal[inner] < sign * signal[inner + shift] for shift in shifts], axis=0)
            ends_and_extrema = [0, *inner[extremum], signal.size - 1]
        curves.append(PchipInterpolator(ends_and_extrema, signal[ends_and_extrema])(place))
    return curves[0], curves[1]


def _without_lines(deviation: np.ndarray, sigma: float) -> np.ndarray:
    from astropy.stats import sigma_clipped_stats

    _, median, deviation_scatter = sigma_clipped_stats(deviation, sigma_lower=np.inf, sigma_upper=sigma)
    return deviation < median + sigma * deviation_scatter


def _correct_fringe(
    batch: list[_Spectrum], periodogram: Periodogram, period: float, max_sines: int, max_amplitude: float
) -> list[_Spectrum]:
    """Take one fringe off the spectra; those that cannot be fitted are left out of what is returned."""
    searches = []
    for spectrum in batch:
        data = spectrum.flux * spectrum.factor
        try:
            continuum = _continuum(data, spectrum.fit_weights, spectrum.wavenumber, period)
            fringes = np.divide(data, continuum, out=np.full_like(data, NO_WEIGHT), where=continuum != 0)
            fringes[fringes != 0] -= 1
            fringes *= np.where(spectrum.weights > 1e-7, 1, NO_WEIGHT)
            searches.append(_Search.begin(spectrum, fringes))
        except _CANNOT_FIT:
            continue
    _search_sines(searches, periodogram, max_sines)
    left = []
    for search in searches:
        if search.failed:
            continue
        spectrum = search.spectrum
        left.append(spectrum)
        if search.best is None:
            continue
        try:
            model = drop_high_beats(search.best.model, max_amplitude)
        except _CANNOT_FIT:
            left.pop()
            continue
        factor = spectrum.factor / (np.where(spectrum.weights > MINIMUM_WEIGHT, model, 0.0) + 1)
        if not np.all(np.isfinite(factor) & (factor > 0)):
            left.pop()
            continue
        spectrum.factor, spectrum.fitted = factor, True
    return left


def _continuum(flux: np.ndarray, weights: np.ndarray, wavenumber: np.ndarray, period: float) -> np.ndarray:
    span = wavenumber.max() - wavenumber.min()
    if span // period < MINIMUM_PERIODS:
        raise FitError("fewer than five fringe periods")
    knots = _knots(flux, weights, int(span / period))
    # FITPACK wants rising abscissae.
    order = slice(None, None, -1) if wavenumber[0] > wavenumber[-1] else slice(None)
    scaled = wavenumber / wavenumber.min()
    robust = period > 1.5
    spline = _fit_spline(
        scaled[order], flux[order], weights[order], scaled[knots][order][1:-1], 2 if robust else 1, robust
    )
    continuum = spline(scaled)
    low = weights < MINIMUM_WEIGHT
    if low.any() and not low.all():
        place = np.arange(flux.size)
        continuum[low] = np.interp(place[low], place[~low], continuum[~low])
    return continuum


def _knots(flux: np.ndarray, weights: np.ndarray, number: int) -> np.ndarray:
    """Indices of the spline's knots: evenly spaced ones, and the edges of what has no weight."""
    step = flux.size / number
    last = flux.size - 1 - round((number - 1) * step)
    even = np.concatenate([[0], np.arange(number) * step + last / 2, [flux.size - 1]])
    weights = weights * (flux > 1e-3)
    pairs = np.stack([weights[:-1], weights[1:]])
    largest, change = pairs.max(axis=0), np.abs(np.diff(weights))
    edge = (largest > 1e-3) & (np.abs(largest - change) <= 0.1 * np.maximum(largest, change))
    edges = np.flatnonzero(edge) + pairs.argmax(axis=0)[edge]
    edges = edges[~np.isin(edges - 1, even) & ~np.isin(edges + 1, even)]
    return np.unique(np.concatenate([even, edges]).astype(int))


def _fit_spline(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, knots: np.ndarray, degree: int, robust: bool
) -> LSQUnivariateSpline:
    spline = LSQUnivariateSpline(x, y, knots, w=weights, k=degree)
    if not robust:
        return spline
    residual = y - spline(x)
    chi = np.nansum(residual**2 * weights)
    n_parameters = len(knots) + 2 * (degree + 1)
    freedom = weights.sum() - n_parameters
    for _ in range(1000 * n_parameters):
        robust_weights = biweight(residual / (np.sqrt(chi / freedom) * ROBUST_DOMAIN)) * weights
        spline = LSQUnivariateSpline(x, y, knots, w=robust_weights, k=degree)
        residual = y - spline(x)
        previous, chi = chi, np.nansum(residual**2 * robust_weights)
        if abs(previous - chi) < 1e-4 * max(chi, 1.0):
            return spline
    raise FitError("the continuum does not converge")


@dataclass
class _Search:
    """The search for the sines of one fringe in one spectrum."""

    spectrum: _Spectrum
    fringes: np.ndarray
    scale: float
    phase: np.ndarray
    evidence: float
    frequencies: list[float]
    best: SineFit | None = None
    failed: bool = False

    @classmethod
    def begin(cls, spectrum: _Spectrum, fringes: np.ndarray) -> "_Search":
        # Frequencies are those of wavenumbers scaled to begin at 1: the evidence's priors are made for that.
        scale = spectrum.wavenumber.min()
        evidence = evidence_without_sines(fringes, spectrum.fit_weights)
        return cls(spectrum, fringes, scale, 2 * np.pi * spectrum.wavenumber / scale, evidence, [])

    def add_sine(self, period: float) -> bool:
        """Fit one sine more, of about this period [cm-1]; say whether the data want it."""
        self.frequencies.append(self.scale / period)
        try:
            fit = fit_sines(self.phase, self.fringes, self.spectrum.fit_weights, np.array(self.frequencies))
        except (ValueError, RuntimeError, np.linalg.LinAlgError):
            return False
        except FitError:
            self.failed = True
            return False
        if not fit.evidence - self.evidence > EVIDENCE_GAIN:
            return False
        self.evidence, self.best = fit.evidence, fit
        return True


def _search_sines(searches: list[_Search], periodogram: Periodogram, max_sines: int) -> None:
    if not searches:
        return
    masks = np.zeros((len(searches), periodogram.wavenumber.size))
    for mask, search in zip(masks, searches, strict=True):
        mask[search.spectrum.used] = search.spectrum.fit_weights > MINIMUM_WEIGHT
    sums = periodogram.mask_sums(masks)
    active = np.arange(len(searches))
    for _ in range(max_sines):
        values = np.zeros((active.size, periodogram.wavenumber.size))
        for row, number in zip(values, active, strict=True):
            search = searches[number]
            row[search.spectrum.used] = search.fringes - (0.0 if search.best is None else search.best.model)
        power = periodogram.power(values, masks[active], [part[active] for part in sums])
        periods = periodogram.periods[np.argmax(power, axis=1)]
        active = np.array([n for n, period in zip(active, periods, strict=True) if searches[n].add_sine(period)], int)
        if active.size == 0:
            return


def drop_high_beats(model: np.ndarray, max_amplitude: float) -> np.ndarray:
    """Set a fringe model to 0 from node to node of its beats where its envelopes are further apart than allowed.

    Parameters
    ----------
    model
        (n,)
    max_amplitude
        Largest peak-to-peak amplitude.

    Returns
    -------
    numpy.ndarray
        A new array.
    """
    model = model.copy()
    lower, upper = envelopes(model)
    too_high = np.flatnonzero(np.abs(lower) + np.abs(upper) > max_amplitude)
    if too_high.size:
        node = (upper[1:-1] < upper[:-2]) & (upper[1:-1] < upper[2:])
        nodes = np.concatenate([[0], 1 + np.flatnonzero(node), [model.size - 1]])
        for position in np.unique(np.searchsorted(nodes, too_high)):
            # Position 0 is the very first value, with no beat before it.
            model[nodes[max(position - 1, 0)] : nodes[position]] = 0
    return model
