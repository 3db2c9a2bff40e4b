"""Where a longer ramp begins to be partially saturated: its ratio to a shorter ramp against brightness, from the data.

In: values and errors of the same voxels from a longer and from a shorter ramp of one exposure. Out: the brightness from
which the longer one reads too low, and which share of the voxels does so at each brightness above.

Below saturation the ratio is flat; where a ramp begins to saturate it falls, for good. Two ramps of one exposure share
groups, and drizzled voxels share pixels, so the noise of their difference is not the sum of their errors (for a fit
that uses all its groups well, its variance is the difference of theirs: Hausman 1978, Econometrica 46, 1251). It is
measured instead, on voxels too faint to saturate. Pixels differ in gain, fringes and slices, so at one brightness some
saturate and others do not: above the onset each voxel is judged by itself, the more readily the more of its like are
affected.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MAD_TO_SIGMA = 1.4826
MEDIAN_ERROR = 1.2533  # error of the median of n normal values, in sigma / sqrt(n)
SAMPLE = 50_000  # voxels looked at in one pair of ramps; more tell nothing new
VOXELS_PER_BIN = 250
MAXIMUM_BINS = 80
BLOCK = 30_000  # voxels
MINIMUM_VOXELS = 50  # with fewer there is no onset to be found
MINIMUM_SNR = 5.0
NOISE_BINS = 5  # in brightness: read noise and photon noise are not shared alike by two ramps
SYSTEMATIC = 0.0005  # by how much ramps may differ, however little noise there is
FAR = 4.0  # sigma: hardly by chance
SHARE_OF_ONSET = 0.02  # share of affected voxels that makes a bin affected
MOST, NEARLY_ALL = 0.5, 0.9
THRESHOLDS = (3.0, 3.5)  # sigma, where nearly all and where most voxels are affected
LIKELY = 2.0  # sigma that a voxel must be low itself, where its neighbours along wavelength tell more
MARGIN = 0.85  # of the onset: from here on single voxels may be affected


@dataclass(frozen=True)
class Onset:
    """How two ramps compare.

    Attributes
    ----------
    ratio, ratio_error
        Long to short where neither is saturated, and its 1-sigma error; 1 and NaN where there is too little to tell.
    noise
        Width of the difference in units of the errors added in quadrature; of single voxels and of sums of three
        neighbours along wavelength over sqrt(3).
    brightness
        From which value of the shorter ramp on the longer one is affected; inf if nowhere.
    edges, share
        Lower edges of bins in brightness, from the onset on, and the share of affected voxels in each.
    """

    ratio: float = 1.0
    ratio_error: float = np.nan
    noise: tuple[float, float] = (1.0, 1.0)
    brightness: float = np.inf
    edges: tuple[float, ...] = ()
    share: tuple[float, ...] = ()


def compare_ramps(
    long: np.ndarray,
    long_error: np.ndarray,
    short: np.ndarray,
    short_error: np.ndarray,
    valid: np.ndarray,
    *,
    brightness: Callable[[np.ndarray], np.ndarray] | None = None,
    drop: float = 0.004,
) -> tuple[Onset, np.ndarray]:
    """Compare two ramps of an exposure.

    Parameters
    ----------
    long, long_error, short, short_error
        Cubes of one shape, wavelength first, in one unit.
    valid
        Where both have data.
    brightness
        Gives the brightness at flat indices, free of cosmic rays; by default it is `short`.
    drop
        By what share the median ratio must have fallen to count.

    Returns
    -------
    onset : Onset
    z : numpy.ndarray
        `deviation` of all voxels, in units of `Onset.noise[0]`; NaN where they are not valid.
    """
    places = np.flatnonzero(valid)
    places = places[:: 1 + places.size // SAMPLE]
    level = brightness(places) if brightness else short.ravel()[places]
    bright = (short.ravel()[places] > MINIMUM_SNR * short_error.ravel()[places]) & (level > 0)
    places, level = places[bright], level[bright]
    if places.size < MINIMUM_VOXELS:
        z = deviation(long, long_error, short, short_error)
        z[~valid] = np.nan
        return Onset(), z
    order = np.argsort(level)
    places, level = places[order], level[order]
    quotient = long.ravel()[places].astype(float) / short.ravel()[places]
    faint = max(level.size // 2, MINIMUM_VOXELS // 2)
    ratio = float(np.median(quotient[:faint]))
    ratio_error = MEDIAN_ERROR * _width(quotient[:faint]) / np.sqrt(faint)
    z = deviation(long, long_error, short, short_error, ratio)
    np.putmask(z, ~valid, np.nan)
    noise = max(_width(part) for part in np.array_split(z.ravel()[places[:faint]], NOISE_BINS)) or 1.0
    z /= np.float32(noise)
    smooth = max(_width(part) for part in np.array_split(sum_of_three(z, places[:faint]), NOISE_BINS)) or 1.0
    bins = _affected_bins(quotient / ratio, z.ravel()[places], level, drop)
    return Onset(ratio, float(ratio_error), (noise, smooth * noise), *bins), z


def deviation(
    long: np.ndarray, long_error: np.ndarray, short: np.ndarray, short_error: np.ndarray, ratio: float = 1.0
) -> np.ndarray:
    """(long - ratio x short) in units of the errors and the systematic one in quadrature; NaN where either is."""
    z = np.empty(long.shape, np.result_type(long, short))
    step = max(BLOCK // max(long[:1].size, 1), 1)
    for first in range(0, len(long), step):
        # Block by block: what fits into the processor's cache is several times faster.
        some = slice(first, first + step)
        expected = short[some] * np.float32(ratio)
        variance = np.square(long_error[some])
        variance += np.square(short_error[some])
        variance += np.square(expected * np.float32(SYSTEMATIC))
        with np.errstate(divide="ignore", invalid="ignore"):
            np.divide(long[some] - expected, np.sqrt(variance), out=z[some])
    return z


def sum_of_three(z: np.ndarray, places: np.ndarray) -> np.ndarray:
    """At flat indices, the deviation and those before and after it along wavelength over sqrt(3); NaN counts as 0."""
    return sum(np.nan_to_num(part) for part in along_wavelength(z, places, 1, np.float32(0))) * np.float32(3**-0.5)


def along_wavelength(cube: np.ndarray, places: np.ndarray, reach: int, outside: float) -> list[np.ndarray]:
    """At flat indices, a cube's values from `reach` before to after along the first axis; `outside` off its ends."""
    flat, plane = cube.ravel(), cube[0].size
    parts = []
    for shift in range(-reach, reach + 1):
        moved = places + shift * plane
        inside = (moved >= 0) & (moved < flat.size)
        parts.append(np.where(inside, flat[np.where(inside, moved, 0)], outside))
    return parts


def _width(values: np.ndarray) -> float:
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))))


def _affected_bins(
    quotient: np.ndarray, z: np.ndarray, level: np.ndarray, drop: float
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Onset, bin edges above it and shares; the columns are sorted by `level`, `quotient` is 1 where all is well."""
    count = int(np.clip(level.size // VOXELS_PER_BIN, 2, MAXIMUM_BINS))
    limits = np.linspace(0, level.size, count + 1).astype(int)
    shares = []
    for first, last in pairwise(limits):
        ratios, deviations = quotient[first:last], z[first:last]
        share = np.mean(deviations < -FAR) - np.mean(deviations > FAR)
        error = MEDIAN_ERROR * _width(ratios) / np.sqrt(ratios.size)
        if np.median(ratios) < 1 - max(drop, FAR * error):
            # More than half are affected; those which are not lie on both sides of 1 alike.
            share = max(share, MOST, 1 - 2 * np.mean(deviations > 0))
        shares.append(share if share > SHARE_OF_ONSET else 0.0)
    first = count
    while first > 0 and shares[first - 1] > 0:
        first -= 1
    if first == count:
        return np.inf, (), ()
    # A margin of one bin: in it the first few may be affected.
    first = max(first - 1, 0)
    edges = tuple(float(level[place]) for place in limits[first:-1])
    return edges[0], edges, tuple(float(share) for share in shares[first:])


def affected(
    onset: Onset, z: np.ndarray, smooth_z: np.ndarray, brightness: np.ndarray, nearby: np.ndarray
) -> np.ndarray:
    """Which voxels of the longer ramp are partially saturated.

    Parameters
    ----------
    onset
        Of the pair of ramps.
    z, smooth_z
        Deviation of voxels and their `sum_of_three`, both in units of their noise.
    brightness
        Of the voxels.
    nearby
        Whether they lie beside saturated ones: there a few saturated pixels may be in a voxel however faint it is.

    Returns
    -------
    numpy.ndarray of bool
        Those that are low, alone or (if by 2 sigma themselves) with their neighbours in wavelength: by 4 sigma among
        the nearby ones and from a little below the onset on; by less where most voxels of that brightness are affected.
    """
    share = np.array([0.0, *onset.share])[np.searchsorted(onset.edges, brightness, side="right")]
    threshold = np.select([share >= NEARLY_ALL, share >= MOST], THRESHOLDS, FAR)
    low = (z < -threshold) | ((z < -LIKELY) & (smooth_z < -threshold))
    return low & (nearby | (brightness >= MARGIN * onset.brightness))
