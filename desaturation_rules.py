"""Which voxels of longer ramps are saturated, and the ramp that each voxel is taken from instead.

In: cubes of one exposure made from ramps of different lengths, longest first, each (wavelength, y, x). Out: for each
voxel the number of the ramp to take (0 the longest) and why not the longest: 1 missing, 2 partially saturated, 3 an
outlier; 0 where it is the longest.

`by_onset` goes from the shortest ramp up and accepts each longer one where it agrees with what is known so far.
`by_factors` goes from the longest down and rejects by fixed factors (King et al. 2023, RNAAS 7, 223). `limit_steps`
keeps neighbours alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from cubes import DQ
from ramp_pairs import Pair, blocks
from saturation_onset import LIKELY, MARGIN, Onset, is_low, outnumber

MISSING, PARTIAL, OUTLIER = 1, 2, 3
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
    values, flags, result = sci.ravel(), dq.ravel(), np.empty(sci.size, bool)
    for some in blocks(sci.size):
        result[some] = np.isfinite(values[some]) & (values[some] != 0) & (flags[some] & np.uint32(DQ.DO_NOT_USE) == 0)
    return result.reshape(sci.shape)


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
        Of each ramp, longest first; they and `coverage` serve as scratch and are overwritten.
    has_data
        `usable`, of each ramp.
    coverage
        Number of detector pixels in each voxel, of each ramp, or None. A longer ramp that has fewer than the shorter
        one has lost the brightest, and its value is wrong however faint the voxel is; unless as many voxels as bright
        have more, since something else (outlier detection) drops pixels from both.
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
    best, error, known = sci[last], err[last], has_data[last]
    covered = None if coverage is None else coverage[last]
    ramp = np.full(best.shape, last, np.int8)
    # The ramp of voxels that the longest one has lost: they need not be compared with it, and nothing but noise is
    # lost by a shorter one, so that a ramp is left out on suspicion. To compare by, such a choice of low values would
    # be too high.
    cautious = ramp.copy()
    desat_type = np.zeros(best.shape, np.uint8)
    onsets = []
    for number in range(last - 1, -1, -1):
        long, long_error, available = sci[number], err[number], has_data[number]
        whole = available & known
        desat_type = np.multiply(known & ~available, np.uint8(MISSING))
        if coverage is not None:
            other = np.flatnonzero(whole & (coverage[number] != covered))
            whole.ravel()[other] = False
        pair = Pair(long, long_error, best, error, whole, known)
        if coverage is not None:
            is_less = coverage[number].ravel()[other] < covered.ravel()[other]
            lost, more = other[is_less], other[~is_less]
            lost = lost[outnumber(pair.brightness(lost), pair.brightness(more))]
            desat_type.ravel()[lost] = PARTIAL
        onset = pair.compare(thresholds.onset_drop)
        onsets.append(onset)
        high, low = pair.candidates(onset, 1 + thresholds.outlier_excess)
        high = high[pair.deviation(onset, high) > thresholds.outlier_sigma]
        desat_type.ravel()[high] = OUTLIER
        suspects = _add_partially_saturated(desat_type, pair, onset, low)
        taken = desat_type == 0
        np.putmask(ramp, taken, number)
        if number == 0:
            np.copyto(ramp, cautious, where=~taken)
            break
        kept = np.flatnonzero(~taken)
        taken.ravel()[suspects] = False
        np.putmask(cautious, taken, number)
        # From here on what is known is on the scale of this ramp.
        best = _updated(long, best, kept, onset.ratio)
        error = _updated(long_error, error, kept, onset.ratio)
        if coverage is not None:
            covered = _updated(coverage[number], covered, kept)
        known = known | available
    return ramp, desat_type, tuple(reversed(onsets))


def _updated(cube: np.ndarray, known: np.ndarray, kept: np.ndarray, ratio: float = 1.0) -> np.ndarray:
    """The cube of a longer ramp, overwritten at flat indices by what is known from shorter ones, scaled to it."""
    np.put(cube, kept, known.take(kept) * np.float32(ratio))
    return cube


def _add_partially_saturated(desat_type: np.ndarray, pair: Pair, onset: Onset, places: np.ndarray) -> np.ndarray:
    """Mark those of the candidates that are partially saturated, following it from voxel to voxel; in place.

    Returns flat indices of those that may be: bright enough for it, and low by so little that it may be chance, too.
    """
    if not places.size:
        return places
    z = pair.deviation(onset, places)
    likely = z < -LIKELY
    places, z, tested = places[likely], z[likely], places.size
    level = pair.brightness(places)
    suspects = places[level >= MARGIN * onset.brightness]
    low = is_low(onset, z, pair.smooth_deviation(onset, places), level, tested)
    places, level = places[low], level[low]
    hit = pair.shorter_is_hit(onset, places)
    places, level = places[~hit], level[~hit]
    found = level >= MARGIN * onset.brightness
    for _ in range(ROUNDS):
        marked = places[found]
        desat_type.ravel()[marked[desat_type.ravel()[marked] == 0]] = PARTIAL
        # Beside saturated voxels a few saturated pixels may be in one however faint it is.
        places = places[~found]
        found = _beside_saturated(desat_type, places)
    desat_type.ravel()[places[found]] = PARTIAL
    return suspects


def _beside_saturated(desat_type: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Which flat indices have a missing or partially saturated voxel beside them, at the corners too."""
    index = np.unravel_index(places, desat_type.shape)
    beside = np.zeros(places.shape, bool)
    for shifts in np.ndindex(3, 3, 3):
        moved = tuple(
            np.clip(i + shift - 1, 0, n - 1) for i, shift, n in zip(index, shifts, desat_type.shape, strict=True)
        )
        reason = desat_type[moved]
        beside |= (reason == PARTIAL) | (reason == MISSING)
    return beside


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
    used = reduce(np.logical_or, has_data)
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
