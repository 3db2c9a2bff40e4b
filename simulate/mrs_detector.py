"""The detectors of the MRS: from count rate to the ramps that the telescope sends down.

A pixel's charge grows from a pedestal by light and dark current; what is read of it bends with the charge, ends at the
full well, starts with a reset transient and carries the drift of its amplifier, which the reference pixels share. All
of that is in the reference files (`simulate.mrs_references`). Photon noise, read noise, cosmic rays and a few warm
pixels that the mask does not know are not. Levels are like those of the MIRI detectors (Rieke et al. 2015, PASP 127,
665; Morrison et al. 2023, PASP 135, 075004).
"""

from functools import lru_cache

import numpy as np

from simulate.detector import Defects, add_cosmic_rays, draw_defects
from simulate.mrs_optics import CHANNELS_OF_DETECTOR, NUMBER_OF_COLUMNS, NUMBER_OF_ROWS

SHAPE = (NUMBER_OF_ROWS, NUMBER_OF_COLUMNS)
FRAME_TIME = 2.77504  # FASTR1 [s]
GAIN = 4.0  # [electron/DN]
READ_NOISE = 5.5  # of one read [DN]
PEDESTAL = 8000.0  # [DN]
SATURATION = 55000.0  # where the reference file calls a reading saturated [DN]
FULL_WELL = 57500.0  # no reading gets higher [DN]
DARK_RATE = 0.12  # [DN/s]
REFERENCE_COLUMNS = 4  # at either side
AMPLIFIERS = 4
AMPLIFIER_DRIFT = 2.0  # rms from group to group [DN]
RESET_GROUPS, RESET_AMPLITUDE, RESET_GROUPS_DECAY = 4, -40.0, 1.2
COSMIC_RAYS_PER_FRAME = 120
LINEARITY = (0.0, 1.0, 1.5e-6, 4.0e-12)  # linear reading = sum of c_i x reading^i [DN]


@lru_cache(maxsize=4)
def get_defects(detector: str) -> Defects:
    """The defective pixels of a detector."""
    random = np.random.default_rng([571, sorted(CHANNELS_OF_DETECTOR).index(detector)])
    usable = np.broadcast_to(~is_reference(), SHAPE)
    return draw_defects(usable, (800, 400, 60), (1.7, 3.5), (1.0, 2.0), random)


def is_reference() -> np.ndarray:
    """Which columns are reference pixels, shape (columns,)."""
    columns = np.arange(NUMBER_OF_COLUMNS)
    return (columns < REFERENCE_COLUMNS) | (columns >= NUMBER_OF_COLUMNS - REFERENCE_COLUMNS)


def dark_rate() -> np.ndarray:
    """Dark current [DN/s], shape (rows, columns): a glow at the lower edge; none in reference pixels."""
    glow = 1 + 0.3 * np.exp(-np.arange(NUMBER_OF_ROWS) / 200.0)
    return DARK_RATE * np.outer(glow, ~is_reference())


def dark_ramp(groups: int) -> np.ndarray:
    """Accumulated dark signal [DN], shape (groups, rows, columns)."""
    times = FRAME_TIME * np.arange(1, groups + 1)
    return times[:, np.newaxis, np.newaxis] * dark_rate()


def reset_transient(groups: int = RESET_GROUPS) -> np.ndarray:
    """What the reset leaves in the first groups [DN], shape (groups, rows, columns); none in reference pixels."""
    pattern = np.where(np.arange(NUMBER_OF_COLUMNS) % 4 < 2, 1.0, 0.6) * ~is_reference()
    group = np.arange(groups)
    size = np.where(group < RESET_GROUPS, RESET_AMPLITUDE * np.exp(-group / RESET_GROUPS_DECAY), 0.0)
    return np.broadcast_to((size[:, np.newaxis] * pattern)[:, np.newaxis], (groups, *SHAPE))


def linearise(reading: np.ndarray) -> np.ndarray:
    """The linear reading [DN] of what was read [DN], as the reference file has it."""
    return np.polynomial.polynomial.polyval(reading, LINEARITY)


def delinearise(linear: np.ndarray) -> np.ndarray:
    """What is read [DN] where a perfect detector would read `linear` [DN]; the inverse of `linearise` to 1e-3 DN."""
    readings = np.linspace(-1000.0, 90000.0, 8192)
    return np.interp(linear, linearise(readings), readings)


def make_ramp(
    rate: np.ndarray,
    detector: str,
    groups: int,
    random: np.random.Generator,
    *,
    noise: bool = True,
    cosmic_rays: bool = True,
) -> np.ndarray:
    """Read a detector up the ramp.

    Parameters
    ----------
    rate
        Count rate of the light [DN/s], shape (rows, columns).
    detector
        Its defective pixels are used.
    groups
        Number of groups, of one frame each.
    random
        Source of all noise.
    noise
        Photon noise, read noise and amplifier drift.
    cosmic_rays
        Whether cosmic rays hit.

    Returns
    -------
    ndarray of uint16, shape (groups, rows, columns)
        Readings [DN].
    """
    defects, reference = get_defects(detector), is_reference()
    rate = rate + defects.extra_rate
    rate.flat[defects.dead] = 0
    rate[:, reference] = 0
    per_frame = (rate + dark_rate()) * FRAME_TIME
    reset = reset_transient(groups)
    charge = np.zeros(SHAPE)
    ramp = np.empty((groups, *SHAPE), dtype=np.uint16)
    for group in range(groups):
        charge += random.poisson(per_frame * GAIN) / GAIN if noise else per_frame
        # Drawn in any case: an observation without cosmic rays has the noise of the same one with them.
        _hit(charge if cosmic_rays else np.zeros(SHAPE), random)
        # Reference pixels have no detector material, and do not bend either.
        reading = np.where(reference, PEDESTAL, delinearise(np.minimum(PEDESTAL + charge, FULL_WELL * 1.3)))
        reading += reset[group]
        if noise:
            reading += _amplifier_drift(random) + random.normal(0, READ_NOISE, SHAPE)
        ramp[group] = np.rint(np.clip(reading, 0, FULL_WELL))
    return ramp


def _hit(charge: np.ndarray, random: np.random.Generator) -> None:
    hits = random.poisson(COSMIC_RAYS_PER_FRAME)
    y = random.integers(1, NUMBER_OF_ROWS - 1, hits)
    x = random.integers(REFERENCE_COLUMNS, NUMBER_OF_COLUMNS - REFERENCE_COLUMNS - 1, hits)
    add_cosmic_rays(charge, y, x, (2.3, 3.9), random)


def _amplifier_drift(random: np.random.Generator) -> np.ndarray:
    """Offset of one group [DN], shape (rows, columns): each amplifier reads every fourth column."""
    drift = random.normal(0, AMPLIFIER_DRIFT, (2, AMPLIFIERS))
    return np.tile(drift, (NUMBER_OF_ROWS // 2, NUMBER_OF_COLUMNS // AMPLIFIERS))
