"""Cubes of two ramps of one exposure, compared voxel by voxel where that can matter.

In: a longer ramp's values and errors, and what is known from the shorter ones. Out: the onset of saturation between the
two (`saturation_onset`), and for the voxels that lie off, given by flat indices, by how much; and whether the longer
one is low since it is saturated, or the shorter one high since a cosmic ray has hit it. A saturated voxel is low in the
longer ramp, while the shorter one is as its surroundings tell; of a hit one it is the longer that goes with them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from saturation_onset import LIKELY, MAD_TO_SIGMA, Onset, compare_ramps, deviation, sum_of_three

BLOCK = 30_000  # voxels: what fits into the processor's cache is several times faster
# A ramp this far below the onset is not saturated: the shorter one has been hit by a cosmic ray.
LOWEST_SATURATED = 0.5
SURROUNDINGS = 2  # spaxels: how far away a voxel's like are looked for; a hit pixel is in neighbouring spaxels, too
SAMPLE = 2000  # voxels that tell how well surroundings predict
SPIKE = 5.0  # widths of that


def blocks(size: int) -> Iterator[slice]:
    """Slices of so many voxels, block by block."""
    return (slice(first, first + BLOCK) for first in range(0, size, BLOCK))


@dataclass(frozen=True)
class Pair:
    """A longer ramp and what is known from shorter ones.

    Attributes
    ----------
    long, long_error, short, short_error
        Cubes of one shape (wavelength, y, x) and unit.
    valid
        Which voxels can be compared.
    known
        Where `short` has data.
    """

    long: np.ndarray
    long_error: np.ndarray
    short: np.ndarray
    short_error: np.ndarray
    valid: np.ndarray
    known: np.ndarray

    @property
    def _cubes(self) -> tuple[np.ndarray, ...]:
        return self.long, self.long_error, self.short, self.short_error

    def compare(self, drop: float) -> Onset:
        """`compare_ramps`."""
        return compare_ramps(*self._cubes, self.valid, brightness=self.brightness, drop=drop)

    def candidates(self, onset: Onset, excess: float) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices of valid voxels that are high by this factor, and of those low ones that may be saturated."""
        high, low = [np.zeros(0, int)], [np.zeros(0, int)]
        lowest = np.float32(LOWEST_SATURATED * onset.ratio * onset.brightness)
        # The longer ramp's error is not all there is, but tells most of the voxels that need no closer look.
        least = np.float32(LIKELY * onset.noise[0])
        ratio, too_high = np.float32(onset.ratio), np.float32(excess * onset.ratio)
        long, error, short, valid = (cube.ravel() for cube in (self.long, self.long_error, self.short, self.valid))
        with np.errstate(invalid="ignore"):
            for some in blocks(valid.size):
                there = valid[some]
                high.append(some.start + np.flatnonzero((long[some] > short[some] * too_high) & there))
                bright = (long[some] > lowest) & there
                if bright.any():
                    far = short[some] * ratio - long[some] > error[some] * least
                    low.append(some.start + np.flatnonzero(far & bright))
        return np.concatenate(high), np.concatenate(low)

    def deviation(self, onset: Onset, places: np.ndarray) -> np.ndarray:
        """`saturation_onset.deviation` in units of the noise."""
        return deviation(*self._cubes, places, onset.ratio) / np.float32(onset.noise[0])

    def smooth_deviation(self, onset: Onset, places: np.ndarray) -> np.ndarray:
        """`sum_of_three` in units of its noise."""
        return sum_of_three(*self._cubes, self.valid, places, onset.ratio) / np.float32(onset.noise[1])

    def brightness(self, places: np.ndarray) -> np.ndarray:
        """The shorter ramp's running median of five along wavelength; missing neighbours count as the voxel itself."""
        values, known, plane = self.short.ravel(), self.known.ravel(), self.short[0].size
        centre = values[places]
        parts = []
        for shift in (-2, -1, 1, 2):
            moved = places + shift * plane
            inside = (moved >= 0) & (moved < values.size)
            moved = np.where(inside, moved, places)
            parts.append(np.where(known[moved], values[moved], centre))
        a, b, c, d = parts
        # The median of five is that of the fifth, the larger of the two lesser ones and the lesser of the larger ones.
        lower = np.maximum(np.minimum(a, b), np.minimum(c, d))
        upper = np.minimum(np.maximum(a, b), np.maximum(c, d))
        return np.maximum(np.minimum(lower, upper), np.minimum(np.maximum(lower, upper), centre))

    def expected(self, places: np.ndarray) -> np.ndarray:
        """What the surroundings of voxels tell of the shorter ramp; NaN where there are none.

        The `brightness`, times by how much spaxels around exceed theirs at that wavelength: a line is as strong there.
        """
        _, ny, nx = self.short.shape
        y, x = np.unravel_index(places, self.short.shape)[1:]
        peaks = []
        for dy, dx in ((-SURROUNDINGS, 0), (SURROUNDINGS, 0), (0, -SURROUNDINGS), (0, SURROUNDINGS)):
            there = (y + dy >= 0) & (y + dy < ny) & (x + dx >= 0) & (x + dx < nx)
            moved = np.where(there, places + dy * nx + dx, places)
            there &= self.known.ravel()[moved]
            with np.errstate(divide="ignore", invalid="ignore"):
                peaks.append(np.where(there, self.short.ravel()[moved] / self.brightness(moved), np.nan))
        # NaN sorts last: the lower median of those that there are.
        peaks, count = np.sort(peaks, axis=0), np.isfinite(peaks).sum(axis=0)
        median = np.take_along_axis(peaks, np.maximum(count - 1, 0)[np.newaxis] // 2, axis=0)[0]
        return self.brightness(places) * median

    def shorter_is_hit(self, onset: Onset, places: np.ndarray) -> np.ndarray:
        """Where the longer ramp is low because a cosmic ray is in the shorter one."""
        if not places.size:
            return np.zeros(0, bool)
        sample = np.flatnonzero(self.valid.ravel()[:: 1 + self.valid.size // SAMPLE]) * (1 + self.valid.size // SAMPLE)
        short, expected = self.short.ravel()[places], self.expected(places)
        with np.errstate(divide="ignore", invalid="ignore"):
            usual = self.short.ravel()[sample] / self.expected(sample) - 1
            usual = usual[np.isfinite(usual)]
            width = MAD_TO_SIGMA * np.median(np.abs(usual)) if usual.size else np.inf
            spike = short > expected * (1 + SPIKE * width)
            nearer = short - expected > expected - self.long.ravel()[places] / onset.ratio
        return spike & nearer
