"""Which voxels of longer ramps are saturated, and the ramp that each voxel is taken from instead.

In: cubes of one exposure made from ramps of different lengths, longest first, each (wavelength, y, x). Out: for each
voxel the number of the ramp to take (0 the longest) and why not the longest: 1 missing, 2 partially saturated, 3 an
outlier; 0 where it is the longest.

`by_onset` goes from the shortest ramp up and accepts each longer one where it agrees with what is known so far.
`by_factors` goes from the longest down and rejects by fixed factors (King et al. 2023, RNAAS 7, 223). `limit_steps`
keeps neighbours alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from cubes import DQ
from saturation_onset import LIKELY, Onset, affected, along_wavelength, compare_ramps, sum_of_three

MISSING, PARTIAL, OUTLIER = 1, 2, 3
# A ramp this far below the onset is not saturated: the shorter one has been hit by a cosmic ray.
LOWEST_SATURATED = 0.5
ROUNDS = 2  # in which saturation is followed from voxel to voxel


@dataclass(frozen=True)
class Thresholds:
    """When a voxel of a longer ramp is not used; 'shorter' is the value of the shorter ramp.

    Attributes
    ----------
    onset_drop
        Onset: by what share the median ratio of the ramps must have fallen.
    outlier_sigma, outlier_excess
        Onset: an outlier is higher than the shorter by this many sigma, and by this share.
    partial_factor, partial_snr, shortest_factor
        Factors: partially saturated is what is below `partial_factor` x shorter, where the S/N of the shorter is above
        `partial_snr` and the shorter below `shortest_factor` x the shortest ramp's value.
    outlier_factor_1, outlier_snr_1, outlier_factor_2, outlier_snr_2, outlier_factor_3
        Factors: an outlier is above a factor x shorter, with a S/N of the shorter above the limit (the third: any).
    grow
        Factors: voxels before and after a replaced one in wavelength that are replaced too.
    """

    onset_drop: float = 0.004
    outlier_sigma: float = 6.0
    outlier_excess: float = 0.05
    partial_factor: float = 0.9
    partial_snr: float = 300.0
    shortest_factor: float = 1.2
    outlier_factor_1: float = 1.2
    outlier_snr_1: float = 100.0
    outlier_factor_2: float = 1.5
    outlier_snr_2: float = 30.0
    outlier_factor_3: float = 3.0
    grow: int = 2


def usable(sci: np.ndarray, dq: np.ndarray) -> np.ndarray:
    """True where a voxel has data: finite, not 0 and without DO_NOT_USE."""
    return np.isfinite(sci) & (sci != 0) & (dq & np.uint32(DQ.DO_NOT_USE) == 0)


def by_onset(
    sci: Sequence[np.ndarray],
    err: Sequence[np.ndarray],
    has_data: Sequence[np.ndarray],
    coverage: Sequence[np.ndarray] | None,
    thresholds: Thresholds,
) -> tuple[np.ndarray, np.ndarray, tuple[Onset, ...]]:
    """From the shortest ramp up, take each longer one where it agrees with what is known.

    Parameters
    ----------
    sci, err
        Of each ramp, longest first.
    has_data
        `usable`, of each ramp.
    coverage
        Number of detector pixels in each voxel, of each ramp, or None. A longer ramp that has fewer than the shorter
        one has lost the brightest, and its value is wrong however faint the voxel is.
    thresholds
        Those of 'Onset' count.

    Returns
    -------
    ramp, desat_type : numpy.ndarray
        int8 and uint8, (wavelength, y, x).
    onsets : tuple of Onset
        Of each ramp but the shortest, longest first.
    """
    last = len(sci) - 1
    best, error, known = sci[last].copy(), err[last].copy(), has_data[last].copy()
    ramp = np.full(best.shape, last, np.int8)
    desat_type = np.zeros(best.shape, np.uint8)
    covered = None if coverage is None else coverage[last].copy()
    onsets = []
    for number in range(last - 1, -1, -1):
        long, long_error, available = sci[number], err[number], has_data[number]
        both = available & known
        lost, whole = _compare_coverage(both, None if coverage is None else coverage[number], covered)
        level = partial(brightness_at, best, known)
        onset, z = compare_ramps(long, long_error, best, error, whole, brightness=level, drop=thresholds.onset_drop)
        onsets.append(onset)
        np.multiply(known & ~available, np.uint8(MISSING), out=desat_type)
        np.putmask(desat_type, lost, PARTIAL)
        with np.errstate(invalid="ignore"):
            far = np.flatnonzero(np.abs(z) > LIKELY)
        desat_type.ravel()[_outliers(far, onset, z, long, best, thresholds)] = OUTLIER
        if np.isfinite(onset.brightness):
            _add_partially_saturated(desat_type, far, onset, z, long, level)
        take = desat_type == 0
        np.putmask(ramp, take, number)
        if number == 0:
            break
        if onset.ratio != 1:
            # From here on what is known is on the scale of this ramp.
            best *= np.float32(onset.ratio)
            error *= np.float32(onset.ratio)
        np.copyto(best, long, where=take)
        np.copyto(error, long_error, where=take)
        if coverage is not None:
            np.copyto(covered, coverage[number], where=take)
        known |= available
    return ramp, desat_type, tuple(reversed(onsets))


def _outliers(
    far: np.ndarray, onset: Onset, z: np.ndarray, long: np.ndarray, best: np.ndarray, thresholds: Thresholds
) -> np.ndarray:
    """Flat indices, of those that lie far off, of the voxels of the longer ramp that are too high."""
    places = far[z.ravel()[far] > thresholds.outlier_sigma]
    high = long.ravel()[places] > (1 + thresholds.outlier_excess) * onset.ratio * best.ravel()[places]
    return places[high]


def _add_partially_saturated(
    desat_type: np.ndarray,
    far: np.ndarray,
    onset: Onset,
    z: np.ndarray,
    long: np.ndarray,
    level: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Mark the voxels of the longer ramp that are too low, following saturation from voxel to voxel; in place."""
    places = far[z.ravel()[far] < -LIKELY]
    places = places[long.ravel()[places] > LOWEST_SATURATED * onset.ratio * onset.brightness]
    smooth_z = sum_of_three(z, places) * np.float32(onset.noise[0] / onset.noise[1])
    candidates = z.ravel()[places], smooth_z, level(places)
    for _ in range(ROUNDS):
        nearby = _beside((desat_type == PARTIAL) | (desat_type == MISSING)).ravel()[places]
        found = places[affected(onset, *candidates, nearby)]
        new = found[desat_type.ravel()[found] == 0]
        if not new.size:
            break
        desat_type.ravel()[new] = PARTIAL


def _compare_coverage(
    both: np.ndarray, long: np.ndarray | None, short: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of the voxels with data in two ramps, those that have lost pixels in the longer one, and those alike in both."""
    if long is None or short is None:
        return np.zeros(both.shape, bool), both
    return both & (long < short), both & (long == short)


def _beside(mask: np.ndarray) -> np.ndarray:
    """The mask and its neighbours along all three axes, at the corners too."""
    grown = mask.copy()
    for axis in range(3):
        ahead = (slice(None),) * axis + (slice(1, None),)
        behind = (slice(None),) * axis + (slice(None, -1),)
        before = grown.copy()
        grown[ahead] |= before[behind]
        grown[behind] |= before[ahead]
    return grown


def brightness_at(best: np.ndarray, known: np.ndarray, places: np.ndarray) -> np.ndarray:
    """At flat indices, the running median of five along wavelength; missing neighbours count as the voxel itself."""
    values = along_wavelength(best, places, 2, np.float32(np.nan))
    there = along_wavelength(known, places, 2, False)
    centre = values[2]
    a, b, _, c, d = (np.where(seen, value, centre) for seen, value in zip(there, values, strict=True))
    # The median of five is that of the fifth, the larger of the two lesser ones and the lesser of the two larger ones.
    lower = np.maximum(np.minimum(a, b), np.minimum(c, d))
    upper = np.minimum(np.maximum(a, b), np.maximum(c, d))
    return np.maximum(np.minimum(lower, upper), np.minimum(np.maximum(lower, upper), centre))


def by_factors(
    sci: Sequence[np.ndarray], err: Sequence[np.ndarray], has_data: Sequence[np.ndarray], thresholds: Thresholds
) -> tuple[np.ndarray, np.ndarray]:
    """From the longest ramp down, replace what fixed factors tell; parameters and result as of `by_onset`.

    A replaced voxel also gives those up to `grow` before and after it in wavelength to the same ramp, where that has
    data. The reason noted is the first that a voxel had.
    """
    best, known = np.where(has_data[0], sci[0], np.float32(np.nan)), has_data[0].copy()
    ramp, desat_type = np.zeros(best.shape, np.int8), np.zeros(best.shape, np.uint8)
    shortest = np.where(has_data[-1], sci[-1], np.float32(np.nan))
    t = thresholds
    for number in range(1, len(sci)):
        shorter, available = sci[number], has_data[number]
        with np.errstate(divide="ignore", invalid="ignore"):
            snr = shorter / err[number]
            low = (snr > t.partial_snr) & (best < t.partial_factor * shorter)
            low &= shorter < t.shortest_factor * shortest
            outlier = (best > t.outlier_factor_1 * shorter) & (snr > t.outlier_snr_1)
            outlier |= (best > t.outlier_factor_2 * shorter) & (snr > t.outlier_snr_2)
            outlier |= best > t.outlier_factor_3 * shorter
        reason = np.select([~known, low, outlier], [MISSING, PARTIAL, OUTLIER], 0).astype(np.uint8)
        reason[~available] = 0
        reason = _grow(reason, t.grow)
        replace = (reason > 0) & available
        np.copyto(best, shorter, where=replace)
        np.copyto(desat_type, reason, where=replace & (desat_type == 0))
        ramp[replace] = number
        known |= available
    return ramp, desat_type


def _grow(reason: np.ndarray, distance: int) -> np.ndarray:
    """Give voxels without a reason that of the nearest with one, up to `distance` away in wavelength; lower first."""
    grown = reason.copy()
    for d in range(1, min(distance, len(reason) - 1) + 1):
        for to, source in ((slice(d, None), slice(None, -d)), (slice(None, -d), slice(d, None))):
            np.copyto(grown[to], reason[source], where=grown[to] == 0)
    return grown


def limit_steps(ramp: np.ndarray, has_data: Sequence[np.ndarray], step: int, free: np.ndarray) -> np.ndarray:
    """Move voxels to shorter ramps until neighbours along the axes differ by at most `step` ramps.

    Parameters
    ----------
    ramp
        From `by_onset` or `by_factors`: one with data where there is any.
    has_data
        `usable`, of each ramp. Voxels without data have no say; a voxel moves only to a ramp with data.
    step
        1 or more.
    free
        Which voxels may be moved.
    """
    count = len(has_data)
    limited = ramp.copy()
    if step >= count - 1 or not free.any():
        return limited
    used = np.logical_or.reduce(has_data)
    free = free & used
    while True:
        # The shortest ramp among the neighbours; a voxel without data has no say.
        say = limited * used
        shortest = say.copy()
        for axis in range(3):
            ahead = (slice(None),) * axis + (slice(1, None),)
            behind = (slice(None),) * axis + (slice(None, -1),)
            np.maximum(shortest[ahead], say[behind], out=shortest[ahead])
            np.maximum(shortest[behind], say[ahead], out=shortest[behind])
        moving = free & (shortest - limited > step)
        if not moving.any():
            return limited
        wanted, moved = shortest[moving] - step, limited[moving]
        for number in range(count - 1, -1, -1):
            # The longest ramp that is short enough and has data there; the last one set wins.
            moved = np.where(has_data[number][moving] & (wanted <= number), np.int8(number), moved)
        if (moved == limited[moving]).all():
            return limited
        limited[moving] = moved
