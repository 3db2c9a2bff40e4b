"""Where a longer ramp begins to be partially saturated: its ratio to a shorter ramp against brightness, from the data.

In: values and errors of the same voxels from a longer and from a shorter ramp of one exposure. Out: the brightness from
which the longer one reads too low, and at each brightness above how many sigma make a voxel one that does so.

Below saturation the ratio is flat; where a ramp begins to saturate it falls, for good. Two ramps of one exposure share
groups, and drizzled voxels share pixels, so the noise of their difference is not the sum of their errors (for a fit
that uses all its groups well, its variance is the difference of theirs: Hausman 1978, Econometrica 46, 1251). It is
measured instead, on voxels too faint to saturate. Pixels differ in gain, fringes and slices, so at one brightness some
saturate and others do not: above the onset each voxel is judged by itself, the more readily the more of its like are
affected.

What noise allows: share found of voxels that are too low by 1-3 % / 3-10 %, no pixel of which is lost, among 60 000
clean ones (of 10^6 of these, two are taken for saturated), by S/N of the longest ramp's voxels where they saturate
(tests/test_desaturate.py). "Known": by the best test of single voxels (Neyman-Pearson, two of 10^6) if true brightness
and the distribution of the pixels' onsets were known.

    ramps [groups]      S/N 80       known         S/N 270      known         S/N 800      known
    5, 4, 3, 2, 1       0.22 / 0.93  0.57 / 0.99   0.99 / 1.00  1.00 / 1.00   1.00 / 1.00  1.00 / 1.00
    5, 3, 1             0.03 / 0.56  0.37 / 0.90   0.88 / 1.00  0.92 / 1.00   1.00 / 1.00  1.00 / 1.00
    5, 1                0.00 / 0.10  0.28 / 0.71   0.15 / 0.88  0.47 / 0.98   0.95 / 1.00  0.97 / 1.00

A pixel that saturates holds 58 000 electrons (NIRSpec, as simulated) or 200 000 (MIRI): S/N 240 and 450 by photons
alone, and a voxel is of several. Of the voxels that are not found at S/N 80, nine of ten (1-3 %) are within 3 ERR of
the truth, and a third to 0.6 (3-10 %); of those at S/N 270, from 5 and 1 groups, 0.15 and none.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

MAD_TO_SIGMA = 1.4826
MEDIAN_ERROR = 1.2533  # error of the median of n normal values, in sigma / sqrt(n)
SAMPLE = 30_000  # voxels looked at in one pair of ramps; more tell nothing new
VOXELS_PER_BIN = 250
MAXIMUM_BINS = 80
VOXELS_OF_ONE_LEVEL = 60  # to judge single voxels by
MINIMUM_VOXELS = 50  # with fewer there is no onset to be found
MINIMUM_SNR = 20.0  # fainter voxels, picked by a noisy value, would bias the ratio
NOISE_BINS = 5  # in brightness: read noise and photon noise are not shared alike by two ramps
SYSTEMATIC = 0.0005  # by how much ramps may differ, however little noise there is
FAR = 4.0  # sigma: hardly by chance
SHARE_OF_ONSET = 0.02  # share of affected voxels that makes a bin affected
LIKELY = 2.0  # sigma by which a voxel is low enough to be looked at
SIGMA = np.linspace(LIKELY, 6.0, 100)  # limits that may be chosen
# Where its neighbours along wavelength tell more: sigma that a voxel must be low itself, and what part of their mean
# deviation. Sound voxels beside saturated ones are many: they must not fall to their neighbours' share in the mean.
LOW_WITH_NEIGHBOURS = 3.5
LIKE_ITS_NEIGHBOURS = 0.9
FALSE_ALARMS = 0.03  # expected among all voxels below the onset, and among those above
ALIKE_BRIGHTNESS = 1.25  # factor
# Voxels that have lost pixels have done so by saturation if they are this many times those that have gained some, or if
# the latter are few.
OUTNUMBERED, FEW_GAINED = 3, 8
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
    edges, thresholds
        Lower edges of bins in brightness, from the onset on, and how many sigma make a voxel low in each.
    """

    ratio: float = 1.0
    ratio_error: float = np.nan
    noise: tuple[float, float] = (1.0, 1.0)
    brightness: float = np.inf
    edges: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()


def compare_ramps(
    long: np.ndarray,
    long_error: np.ndarray,
    short: np.ndarray,
    short_error: np.ndarray,
    valid: np.ndarray,
    *,
    brightness: Callable[[np.ndarray], np.ndarray] | None = None,
    drop: float = 0.004,
) -> Onset:
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
    Onset
    """
    places = np.arange(0, valid.size, 1 + valid.size // (2 * SAMPLE))
    places = places[valid.ravel()[places]]
    places = places[:: 1 + places.size // SAMPLE]
    level = brightness(places) if brightness else short.ravel()[places]
    sampled = places.size
    bright = (level > MINIMUM_SNR * short_error.ravel()[places]) & (level > 0)
    places, level = places[bright], level[bright]
    if places.size < MINIMUM_VOXELS:
        return Onset()
    order = np.argsort(level)
    places, level = places[order], level[order]
    quotient = long.ravel()[places].astype(float) / short.ravel()[places]
    faint = max(level.size // 2, MINIMUM_VOXELS // 2)
    ratio = float(np.median(quotient[:faint]))
    ratio_error = MEDIAN_ERROR * _width(quotient[:faint]) / np.sqrt(faint)
    cubes = long, long_error, short, short_error
    z = deviation(*cubes, places, ratio)
    noise = _noise(z[:faint])
    z /= np.float32(noise)
    smooth = _noise(sum_of_three(*cubes, valid, places[:faint], ratio))
    first = _first_affected(quotient / ratio, z, level, drop)
    edges, thresholds = _thresholds(z[first:], level[first:], np.count_nonzero(valid) / sampled)
    return Onset(ratio, float(ratio_error), (noise, smooth), edges[0] if edges else np.inf, edges, thresholds)


def deviation(
    long: np.ndarray,
    long_error: np.ndarray,
    short: np.ndarray,
    short_error: np.ndarray,
    places: np.ndarray,
    ratio: float = 1.0,
) -> np.ndarray:
    """(long - ratio x short) at flat indices, in units of the errors and the systematic one in quadrature."""
    value, error, base, base_error = (cube.ravel()[places] for cube in (long, long_error, short, short_error))
    expected = base * np.float32(ratio)
    variance = error**2 + base_error**2 + (expected * np.float32(SYSTEMATIC)) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return (value - expected) / np.sqrt(variance)


def sum_of_three(
    long: np.ndarray,
    long_error: np.ndarray,
    short: np.ndarray,
    short_error: np.ndarray,
    valid: np.ndarray,
    places: np.ndarray,
    ratio: float = 1.0,
) -> np.ndarray:
    """At flat indices, `deviation` and those before and after it along wavelength over sqrt(3); invalid ones are 0."""
    total = np.zeros(places.shape, np.float32)
    plane = valid[0].size
    for shift in (-plane, 0, plane):
        moved = np.clip(places + shift, 0, valid.size - 1)
        inside = (moved == places + shift) & valid.ravel()[moved]
        part = deviation(long, long_error, short, short_error, moved, ratio)
        total += np.where(inside & np.isfinite(part), part, 0)
    return total * np.float32(3**-0.5)


def _width(values: np.ndarray) -> float:
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))))


def _noise(z: np.ndarray) -> float:
    """Width of deviations, sorted by brightness, where it is largest; of those above 0, which no saturation widens."""
    parts = np.array_split(z, max(1, min(NOISE_BINS, z.size // VOXELS_PER_BIN)))
    return float(max(MAD_TO_SIGMA * np.median(part[part > 0]) if (part > 0).any() else 0 for part in parts)) or 1.0


def _first_affected(quotient: np.ndarray, z: np.ndarray, level: np.ndarray, drop: float) -> int:
    """Index from which on voxels may be affected; all are sorted by `level`, `quotient` is 1 where all is well."""
    count = int(np.clip(level.size // VOXELS_PER_BIN, 2, MAXIMUM_BINS))
    size = level.size // count
    # Bins of one size; the faintest voxels that are left over tell nothing.
    rest = level.size - count * size
    quotient, z = (values[rest:].reshape(count, size) for values in (quotient, z))
    share = np.mean(z < -FAR, axis=1) - np.mean(z > FAR, axis=1)
    median = np.median(quotient, axis=1)
    width = MAD_TO_SIGMA * np.median(np.abs(quotient - median[:, np.newaxis]), axis=1)
    affected = (median < 1 - np.maximum(drop, FAR * MEDIAN_ERROR * width / np.sqrt(size))) | (share > SHARE_OF_ONSET)
    first = count
    while first > 0 and affected[first - 1]:
        first -= 1
    if first == count:
        return level.size
    # A margin of one bin: in it the first few may be affected.
    return rest + max(first - 1, 0) * size


def _thresholds(z: np.ndarray, level: np.ndarray, factor: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lower edges of bins from the onset on, and how many sigma in each make a voxel low; both are sorted by `level`.

    At the limits the likelihoods of clean voxels and of all have the same ratio in each bin (Neyman & Pearson 1933,
    Phil. Trans. R. Soc. A 231, 289): the n clean ones of N have the density n phi(z), all together about
    N phi((z - m) / s) / s with their median m and width s. In the whole cube, which has `factor` times as many voxels,
    `FALSE_ALARMS` clean ones lie beyond the limits by chance.
    """
    if not level.size:
        return (), ()
    count = max(1, min(MAXIMUM_BINS, level.size // VOXELS_OF_ONE_LEVEL))
    edges = tuple(float(part[0]) for part in np.array_split(level, count))
    parts = np.array_split(z, count)
    # Clean voxels lie on both sides of 0 alike, and none of the others above; one more may be there by chance.
    clean = np.array([2 * np.count_nonzero(part > 0) + 1 for part in parts])[:, np.newaxis]
    size = np.array([part.size for part in parts])[:, np.newaxis]
    middle = np.array([np.median(part) for part in parts])[:, np.newaxis]
    width = np.maximum([_width(part) for part in parts], 1)[:, np.newaxis]
    # Some voxels are much less affected than most.
    width = np.maximum(width, np.abs(middle) / 2)
    ratio = np.log(clean * width / size) + (((-SIGMA - middle) / width) ** 2 - SIGMA**2) / 2
    # The first limit of each bin beyond which the ratio is less, for all ratios that may be asked for.
    ratio = np.minimum.accumulate(ratio, axis=1)
    wanted = np.linspace(0, ratio.min(), len(SIGMA))[:, np.newaxis, np.newaxis]
    limits = np.minimum(np.sum(ratio > wanted, axis=2), len(SIGMA) - 1)
    chance = factor * (clean[:, 0] * ndtr(-SIGMA)[limits]).sum(axis=1)
    few = np.flatnonzero(chance <= FALSE_ALARMS)
    return edges, tuple(SIGMA[limits[few[0] if few.size else -1]].tolist())


def is_low(onset: Onset, z: np.ndarray, smooth_z: np.ndarray, brightness: np.ndarray, tested: int) -> np.ndarray:
    """Which voxels of the longer ramp are lower than by chance.

    Parameters
    ----------
    onset
        Of the pair of ramps.
    z, smooth_z
        Deviation of voxels and their `sum_of_three`, both in units of their noise.
    brightness
        Of the voxels.
    tested
        Among how many they have been found: of so many, `FALSE_ALARMS` may be low by chance.

    Returns
    -------
    numpy.ndarray of bool
        Those that are low by 4 sigma or, if these are many, by more, alone or (if by 3.5 sigma and nearly as much as
        their neighbours) with these in wavelength; by the threshold of their brightness, where that is less.
    """
    far = max(FAR, -float(ndtri(FALSE_ALARMS / max(tested, 1))))
    threshold = np.minimum(far, [far, *onset.thresholds])[np.searchsorted(onset.edges, brightness, side="right")]
    alike = z < np.minimum(-LOW_WITH_NEIGHBOURS, LIKE_ITS_NEIGHBOURS * 3**-0.5 * smooth_z)
    return (z < -threshold) | (alike & (smooth_z < -threshold))


def outnumber(lost: np.ndarray, gained: np.ndarray) -> np.ndarray:
    """Which voxels have lost pixels by saturation: where, of like brightness, far more have than have gained some.

    Parameters
    ----------
    lost, gained
        Brightness of the voxels that in the longer ramp have fewer pixels than in the shorter, and more.

    Returns
    -------
    numpy.ndarray of bool
        As `lost`.
    """
    counts = []
    for levels in (lost, gained):
        levels = np.sort(levels)
        ends = np.maximum(lost, 0) * ALIKE_BRIGHTNESS, np.maximum(lost, 0) / ALIKE_BRIGHTNESS
        above, below = (np.searchsorted(levels, end, side) for end, side in zip(ends, ("right", "left"), strict=True))
        counts.append(above - below)
    return (counts[1] < FEW_GAINED) | (counts[0] > OUTNUMBERED * counts[1])
