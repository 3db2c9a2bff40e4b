"""Cubes of one exposure from ramps of different lengths, with known truth; each voxel is the mean of some pixels.

A pixel's groups are independent draws round its rate; a ramp of n groups is their mean, so ramps share noise as real
ones do. A pixel whose charge exceeds its well within the n groups is flagged and drops out of the voxel; a little
below that its rate reads too low by a few per cent and no flag tells (partial saturation). Cosmic rays add charge to
one group of one pixel.
"""

from dataclasses import dataclass

import numpy as np

from desaturate import desaturate_cubes

PIXELS = 4
PARTIAL_RANGE = 1.08  # wells are flagged from this times the charge at which pixels begin to bend
DEEPEST = 0.1  # how much too low a pixel reads just before it is flagged


@dataclass
class Ramps:
    """Cubes, longest ramp first, and what is true of them.

    `bent` is by what share each voxel is too low for partial saturation (expectation); `lost` where it lacks pixels;
    `hit` where a cosmic ray is in it. `sci`, `err`, `dq`, `coverage`, `bent`, `lost`, `hit`: lists by ramp.
    """

    groups: list[int]
    truth: np.ndarray
    sci: list
    err: list
    dq: list
    coverage: list
    bent: list
    lost: list
    hit: list

    @property
    def clean(self) -> np.ndarray:
        """Voxels that neither saturation nor a cosmic ray touches in the longest ramp."""
        return (self.coverage[0] > 0) & ~self.lost[0] & (self.bent[0] == 0) & ~self.hit[0]


def scene(shape=(120, 24, 26)) -> np.ndarray:
    """A belted disc with a limb, sky, a spectrum with a few narrow lines; between 0 and about 1."""
    wavelength, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    radius = np.hypot(x - 0.4, y - 0.2) / 0.6
    mu = np.sqrt(np.clip(1 - radius**2, 0, None))
    disc = 0.02 + mu**0.4 * (1 + 0.15 * np.sin(25 * y)) * (radius < 1)
    spectrum = 0.45 + 0.3 * np.sin(4 * wavelength) + 0.25 * wavelength
    for centre in (0.2, 0.6, 0.61, 0.8):
        spectrum = spectrum + 0.4 * np.exp(-0.5 * ((wavelength - centre) / 0.008) ** 2)
    return disc * spectrum


def make_ramps(
    groups=(5, 4, 3, 2, 1), *, seed=0, snr=300.0, well=1.9, unflagged=True, cosmic_rays=0.0, shape=(120, 24, 26)
) -> Ramps:
    """Simulate. `well`: charge at which pixels begin to bend, in units of the scene; `snr`: that of a group at 1."""
    random = np.random.default_rng(seed)
    truth = scene(shape)
    gradient = np.gradient(truth, axis=1)[..., None] * np.linspace(-0.5, 0.5, PIXELS)
    rate = np.clip(truth[..., None] + gradient, 1e-3, None)
    truth = rate.mean(axis=-1)
    # Pixels and fringes make wells differ by some per cent.
    fringes = 1 + 0.04 * np.sin(np.arange(shape[0]) / 3.0)[:, None, None, None]
    wells = well * fringes * random.normal(1, 0.02, rate.shape)
    noise = np.sqrt(rate + 0.02) / snr
    draws = rate + noise * random.standard_normal((max(groups), *rate.shape))
    struck = random.random(draws.shape) < cosmic_rays
    draws[struck] += 10 ** random.uniform(-0.5, 1.0, struck.sum())
    outside = np.zeros(shape, bool)
    outside[:, 0, :] = outside[:, :, -1] = True
    outside |= random.random(shape) < 0.003
    result = Ramps(list(groups), truth, [], [], [], [], [], [], [])
    for n in groups:
        charge = rate * n / wells
        depth = np.where(charge > 1, DEEPEST * np.clip((charge - 1) / (PARTIAL_RANGE - 1), 0, 1), 0) if unflagged else 0
        flagged = charge > (PARTIAL_RANGE if unflagged else 1.0)
        values = np.where(flagged, np.nan, draws[:n].mean(axis=0) * (1 - depth))
        count = np.where(outside, 0, (~flagged).sum(axis=-1))
        with np.errstate(invalid="ignore", divide="ignore"):
            sci = np.where(count > 0, np.nansum(values, axis=-1) / count, np.nan)
            err = np.where(count > 0, np.sqrt(np.sum(np.where(flagged, 0, noise) ** 2, axis=-1) / n) / count, np.nan)
            bent = np.sum(np.where(flagged, 0, rate * depth), axis=-1) / np.sum(np.where(flagged, 0, rate), axis=-1)
        result.sci.append(sci.astype(np.float32))
        result.err.append(err.astype(np.float32))
        result.dq.append(np.where(count > 0, 0, 513).astype(np.uint32))
        result.coverage.append(count.astype(np.float32))
        result.bent.append(np.where(outside, 0, np.nan_to_num(bent)))
        result.lost.append((count < PIXELS) & ~outside)
        result.hit.append(struck[:n].any(axis=(0, -1)) & ~outside)
    return result


def merge(ramps, coverage=True, **options):
    """Merge simulated ramps; values, errors, number of the ramp and reason."""
    cover = ramps.coverage if coverage else None
    merged = desaturate_cubes(ramps.sci, ramps.err, ramps.dq, cover, **options)
    return merged.pick(ramps.sci), merged.pick(ramps.err), merged
