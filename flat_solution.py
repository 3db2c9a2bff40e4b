"""From dithered brightness and geometry, all arrays, to the flat of each wavelength with its error (`construct_flat`).

The model is `flat_model`'s. A pilot fit to a few wavelengths finds how large the noise is against the errors stated
and whether the dithers differ in gain; then wavelengths of like noise share a factorisation; outliers lose their
weight and are solved again; last, a flat made without one dither shows on that dither what it is worth.
"""

from typing import Any

import numpy as np

from errors import InputError
from flat_files import Flat
from flat_model import JointFit
from flat_pilot import FlatData, common_variance, pilot, typical_of_rows
from planet_model import Priors, Scene, Sightlines

MINIMUM_DITHERS = 4
_SCENE_ERROR = 3e-4  # of ln(brightness): what a scene of finite resolution leaves, at least
_CHUNK = 256  # wavelengths that are solved at a time
_NOISE_SPAN = 2.5  # greatest ratio of noise among wavelengths that share a factorisation
_MOST_GROUPS = 3
_HELD_OUT_WAVELENGTHS = 200
_LEAST_HELD_OUT = 10  # data


def construct_flat(
    sci: np.ndarray,
    err: np.ndarray,
    latitude: np.ndarray,
    longitude: np.ndarray,
    emission: np.ndarray,
    *,
    velocity: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
    lat_bin_size_factor: float = 0.5,
    bin_aspect: float = 4.0,
    emission_cutoff: float = 75.0,
    snr_threshold: float = 10.0,
    nsigma: float = 5.0,
    sigma_iterations: int = 5,
    max_correction: float = 1.5,
) -> tuple[Flat, dict[str, Any]]:
    """Find the flat that makes every place on the planet equally bright in all dithers.

    Parameters
    ----------
    sci, err
        (dither, wavelength, y, x) brightness and its 1-sigma error, any unit, on one grid of IFU places; NaN where
        not usable.
    latitude, longitude, emission
        (dither, y, x) [deg]; NaN off the disc. Longitude may count in either direction.
    velocity
        (dither, y, x) velocity of the surface along the line of sight [km/s, + receding]; by default the same
        everywhere.
    excluded
        (dither, y, x) True for spaxels not to be used (rings).
    lat_bin_size_factor
        Half the distance of the rows of the scene's map, in units of the median change of latitude from spaxel to
        spaxel.
    bin_aspect
        How much longer than in latitude features are expected to be in longitude.
    emission_cutoff
        Largest emission angle used [deg].
    snr_threshold
        Wavelengths with a lower median signal to noise per voxel keep a flat of 1.
    nsigma, sigma_iterations
        Voxels further than this from the model get no weight, at most so many times over.
    max_correction
        Flats above this, or below its inverse, are NaN.

    Returns
    -------
    flat : Flat
        Without wavelength, grid and identity. NaN where no dither has a usable voxel.
    facts : dict
        'scatter_ratio' (scatter between dithers before / after, median over wavelengths), 'scatter_before',
        'scatter_after' (medians), 'gain_width' (prior width of the dithers' gains that was chosen), 'gain_limit' (width
        up to which the data do not speak against gains: where it is the larger, gains were taken to be equal, and if
        they are not, a gradient of about that size is in the flat and not in its error), 'n_corrected',
        'gains' and 'gain_errors' (of the dithers, mean of the band), 'noise_factor' (noise found / ERR).

    Raises
    ------
    InputError
        If there are too few dithers, no spaxel sees the planet, or an option is out of range.
    """
    _check_options(lat_bin_size_factor, bin_aspect, emission_cutoff, nsigma, max_correction)
    if len(sci) < MINIMUM_DITHERS:
        raise InputError(
            f"a flat needs at least {MINIMUM_DITHERS} dithers, not {len(sci)}: with fewer, flat and planet can't be "
            "told apart."
        )
    used = np.isfinite(latitude) & np.isfinite(longitude) & (emission < emission_cutoff)
    if excluded is not None:
        used &= ~excluded
    if velocity is not None:
        used &= np.isfinite(velocity)
    spacing = 2 * lat_bin_size_factor * _latitude_step(latitude)
    if used.sum() < 50 or not np.isfinite(spacing):
        raise InputError(f"only {used.sum()} spaxels see the planet below {emission_cutoff} deg emission: no flat.")
    corrected, data = _select(sci, err, used, latitude, longitude, emission, velocity, snr_threshold)
    wavelengths = sci.shape[1]
    flat = np.ones((wavelengths, *sci.shape[2:]), np.float32)
    error = np.zeros_like(flat)
    before, after = np.full((2, wavelengths), np.nan)
    facts: dict[str, Any] = {"n_corrected": int(corrected.sum())}
    if corrected.any():
        scene = Scene(data.sight, spacing, bin_aspect, len(sci))
        priors, noise, gains = pilot(data, scene)
        ln_flat, ln_error = _solve_all(data, scene, priors, noise, nsigma, sigma_iterations)
        some = np.unique(np.linspace(0, corrected.sum() - 1, _HELD_OUT_WAVELENGTHS).round().astype(int))
        tested = np.nonzero(corrected)[0][some]
        before[tested], after[tested] = _scatter_of_dither_held_out(data, some, scene, priors, noise)
        flat[corrected], error[corrected] = _normalised(ln_flat, ln_error, sci.shape[2:], max_correction)
        facts |= {"gain_width": gains.width, "gain_limit": gains.limit, "noise_factor": noise}
        facts |= {"gains": np.exp(gains.band).tolist(), "gain_errors": gains.errors.tolist()}
    facts["scatter_before"], facts["scatter_after"] = (_median(values) for values in (before, after))
    facts["scatter_ratio"] = _median(before / after)
    return Flat(flat, error, corrected, scatter_before=before, scatter_after=after), facts


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def _check_options(
    lat_bin_size_factor: float, bin_aspect: float, emission_cutoff: float, nsigma: float, max_correction: float
) -> None:
    for name, value, low, high in (
        ("lat_bin_size_factor", lat_bin_size_factor, 0.1, 10),
        ("bin_aspect", bin_aspect, 0.1, 100),
        ("emission_cutoff", emission_cutoff, 5, 89),
        ("nsigma", nsigma, 1, np.inf),
        ("max_correction", max_correction, 1.01, np.inf),
    ):
        if not low <= value <= high:
            raise InputError(f"{name} is {value}: give a value from {low} to {high}.")


def _latitude_step(latitude: np.ndarray) -> float:
    """Median change of latitude from one spaxel to the next, along the steepest direction [deg]."""
    along_y, along_x = np.diff(latitude, axis=1)[:, :, :-1], np.diff(latitude, axis=2)[:, :-1]
    return _median(np.hypot(along_y, along_x))


def _select(
    sci: np.ndarray,
    err: np.ndarray,
    used: np.ndarray,
    latitude: np.ndarray,
    longitude: np.ndarray,
    emission: np.ndarray,
    velocity: np.ndarray | None,
    snr_threshold: float,
) -> tuple[np.ndarray, FlatData]:
    dither, y, x = np.nonzero(used)
    values, errors = _rows(sci, used), _rows(err, used)
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = np.isfinite(values) & (values > 0) & np.isfinite(errors) & (errors > 0)
        snr = np.where(usable, values / errors, np.nan)
    # What is negative is as faint as noise: a wavelength where half the data are not usable has no flat either.
    enough = usable.sum(axis=0) > 0.5 * len(values)
    corrected = enough & (np.nan_to_num(typical_of_rows(snr.T, usable.T)) >= snr_threshold)
    keep = usable[:, corrected].any(axis=1)
    rows = np.ix_(keep, corrected)
    mask = usable[rows]
    ln_sci = np.log(np.where(mask, values[rows], 1.0))
    ln_sci -= np.sum(ln_sci, axis=0) / np.maximum(mask.sum(axis=0), 1)
    ln_sci[~mask] = 0.0
    sight = Sightlines(
        latitude[used],
        longitude[used],
        emission[used],
        np.zeros(dither.size) if velocity is None else velocity[used],
        y * sci.shape[3] + x,
        dither,
    )[keep]
    variance = np.where(mask, 1 / np.where(mask, snr[rows], 1.0) ** 2, np.nan) + _SCENE_ERROR**2
    return corrected, FlatData(sight, ln_sci, variance, mask, sci.shape[2:])


def _rows(cubes: np.ndarray, used: np.ndarray) -> np.ndarray:
    """(data, wavelength) the spectra of the spaxels used, dither by dither."""
    out = np.empty((int(used.sum()), cubes.shape[1]))
    start = 0
    for cube, chosen in zip(cubes, used, strict=True):
        stop = start + int(chosen.sum())
        out[start:stop] = cube.reshape(len(cube), -1)[:, chosen.ravel()].T
        start = stop
    return out


def _groups(data: FlatData) -> list[np.ndarray]:
    """Wavelengths of like noise, so that each group can share a factorisation."""
    level = np.sqrt(typical_of_rows(data.variance.T, data.mask.T))
    order = np.argsort(level)
    span = max(_NOISE_SPAN, (level.max() / level.min()) ** (1 / _MOST_GROUPS) * 1.01)
    groups, start = [], 0
    while start < order.size:
        stop = int(np.searchsorted(level[order], level[order[start]] * span, side="right"))
        groups.append(np.sort(order[start:stop]))
        start = stop
    return groups


def _solve_all(
    data: FlatData, scene: Scene, priors: Priors, noise: float, nsigma: float, sigma_iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """(wavelength, place) ln of the flat and its error; outliers leave `data.mask`, missing data are filled in."""
    places = data.shape[0] * data.shape[1]
    ln_flat = np.full((data.ln_sci.shape[1], places), np.nan)
    ln_error = np.full_like(ln_flat, np.nan)
    for group in _groups(data):
        fit = JointFit(data.sight.place, scene, common_variance(data, group) * noise**2, data.shape, priors)
        error, free = fit.flat_error(), fit.freedom() / max(int((fit.weight > 0).sum()), 1)
        full = np.bincount(data.sight.place, fit.weight, places)
        for start in range(0, group.size, _CHUNK):
            chunk = group[start : start + _CHUNK]
            coefficients, mask, scale = _solve_without_outliers(
                fit, data.ln_sci[:, chunk], data.mask[:, chunk], free, nsigma, sigma_iterations
            )
            data.mask[:, chunk] = mask
            data.ln_sci[:, chunk] = np.where(mask, data.ln_sci[:, chunk], fit.predict(coefficients))
            present = np.stack([np.bincount(data.sight.place, fit.weight * m, places) for m in mask.T])
            # A place that lost some of its dithers at a wavelength is known less well there.
            own = 1 / priors.spaxel**2
            ln_error[chunk] = error * scale[:, None] * np.sqrt((full + own) / (present + own))
            ln_flat[chunk] = np.where(present > 0, fit.flat(coefficients), np.nan)
    return ln_flat, ln_error


def _solve_without_outliers(
    fit: JointFit, ln_sci: np.ndarray, mask: np.ndarray, free: float, nsigma: float, sigma_iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients, the mask of the data used, and the noise of each wavelength in units of that of the fit."""
    mask = mask & (fit.weight > 0)[:, None]
    coefficients = fit.solve(ln_sci, mask)
    active = np.arange(ln_sci.shape[1])
    sigma = np.sqrt(fit.weight)[:, None]
    for _ in range(sigma_iterations):
        deviation = np.abs(ln_sci[:, active] - fit.predict(coefficients[:, active])) * sigma * mask[:, active]
        typical = 1.4826 * typical_of_rows(deviation.T, mask[:, active].T)
        limit = nsigma * np.maximum(np.nan_to_num(typical), np.sqrt(free))
        # The flat follows a bright spike and leaves the other dithers of the place too faint: only the worst goes.
        outlier = (deviation > limit) & (deviation == _greatest_of_place(deviation, fit.places))
        changed = outlier.any(axis=0)
        if not changed.any():
            break
        active = active[changed]
        mask[:, active] &= ~outlier[:, changed]
        coefficients[:, active] = fit.solve(ln_sci[:, active], mask[:, active], coefficients[:, active])
    deviation = np.abs(ln_sci - fit.predict(coefficients)) * sigma
    return coefficients, mask, _rms(deviation, mask, free)


def _greatest_of_place(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """For each datum the greatest of the values (data, wavelength) of all data of its place."""
    order = np.argsort(places, kind="stable")
    _, first, number = np.unique(places[order], return_index=True, return_inverse=True)
    out = np.empty_like(values)
    out[order] = np.maximum.reduceat(values[order], first, axis=0)[number]
    return out


def _rms(deviation: np.ndarray, mask: np.ndarray, free: float) -> np.ndarray:
    return np.sqrt(np.sum(deviation**2 * mask, axis=0) / np.maximum(mask.sum(axis=0) * free, 1))


def _scatter_of_dither_held_out(
    data: FlatData, some: np.ndarray, scene: Scene, priors: Priors, noise: float
) -> np.ndarray:
    """(2, wavelength) robust scatter of the last dither about the scene of the others, without and with their flat."""
    held_out = data.sight.dither == data.sight.dither.max()
    variance = common_variance(data, some) * noise**2
    variance[held_out] = np.inf
    fit = JointFit(data.sight.place, scene, variance, data.shape, priors)
    numbers = np.nonzero(held_out & fit.seen[data.sight.place])[0]
    numbers = numbers[scene.covered(numbers, np.nonzero(fit.weight > 0)[0])]
    if numbers.size < _LEAST_HELD_OUT:
        return np.full((2, some.size), np.nan)
    ln_sci = data.ln_sci[:, some]
    coefficients = fit.solve(ln_sci)
    flat = fit.flat(coefficients)[:, data.sight.place[numbers]].T
    left = ln_sci[numbers] - fit.predict(coefficients)[numbers] - flat
    bare = ln_sci[numbers] - fit.scene_alone(ln_sci)[numbers]
    return np.stack([1.4826 * np.median(np.abs(r - np.median(r, axis=0)), axis=0) for r in (bare, left)])


def _normalised(
    ln_flat: np.ndarray, ln_error: np.ndarray, shape: tuple[int, int], max_correction: float
) -> tuple[np.ndarray, np.ndarray]:
    flat = np.exp(ln_flat)
    known = np.isfinite(flat)
    flat /= (np.where(known, flat, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1))[:, None]
    with np.errstate(invalid="ignore"):
        flat[~((flat <= max_correction) & (flat >= 1 / max_correction))] = np.nan
    error = np.where(np.isfinite(flat), flat * ln_error, np.nan)
    return flat.reshape(-1, *shape), error.reshape(-1, *shape)
