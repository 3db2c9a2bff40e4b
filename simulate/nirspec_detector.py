"""The detectors of NIRSpec: from count rate to the ramps that the telescope sends down, in the NRSRAPID pattern.

A pixel's charge grows from its bias by light and dark current; what is read of it bends with the charge, ends at the
full well and carries the offsets of its output, which the reference pixels around the detector share. All of that is in
the reference files (`simulate.nirspec_references`). Photon noise, read noise, cosmic rays, a few warm pixels that the
mask does not know and 1/f noise are not.

1/f noise is a property of time. Four outputs read a quarter of the detector each, side by side and all at once, pixel
after pixel along the fast axis (y in the image, every other output in the opposite direction: `jwst.refpix`) and line
after line along the slow one (x), with some pixels' time in between; so the noise, whose power falls with the inverse
of the frequency, comes out as stripes along y. Most of it is common to the four outputs (Rauscher 2015, PASP 127, 1144,
whose amplitudes for NIRSpec are taken here; Moseley et al. 2010, SPIE 7742, 77421B).
"""

from functools import lru_cache

import numpy as np

from simulate.detector import Defects, add_cosmic_rays, draw_defects

NUMBER_OF_ROWS = NUMBER_OF_COLUMNS = 2048
SHAPE = (NUMBER_OF_ROWS, NUMBER_OF_COLUMNS)
DETECTORS = ("NRS1", "NRS2")
# Fast and slow axis, as in the headers: NRS2 is mounted the other way round.
READ_AXES = {"NRS1": (2, 1), "NRS2": (-2, -1)}
FRAME_TIME = 10.73676  # NRSRAPID [s]
GAIN = 1.0  # [electron/DN]
READ_NOISE = 6.0  # of one read [DN]
SATURATION = 58000.0  # where the reference file calls a reading saturated [DN]
FULL_WELL = 61000.0  # no reading gets higher [DN]
DARK_RATE = 0.008  # [DN/s]
REFERENCE_PIXELS = 4  # along each side
NUMBER_OF_OUTPUTS = 4
OUTPUT_ROWS = NUMBER_OF_ROWS // NUMBER_OF_OUTPUTS
OUTPUT_DRIFT = 4.0  # rms from group to group [DN]
LINE_OVERHEAD = 12  # between two lines, in reads of a pixel
COMMON_FLICKER, OUTPUT_FLICKER = 3.0, 1.0  # rms of the 1/f noise that outputs share and of each one's own [DN]
COSMIC_RAYS_PER_FRAME = 600
NONLINEARITY = 8e-7  # linear signal = signal + this x signal^2 [1/DN], signal above the bias


@lru_cache(maxsize=2)
def get_defects(detector: str) -> Defects:
    """The defective pixels of a detector."""
    random = np.random.default_rng([4910, DETECTORS.index(detector)])
    return draw_defects(~is_reference(), (3000, 3000, 200), (1.0, 3.0), (0.5, 1.5), random)


def is_reference() -> np.ndarray:
    """Which pixels are reference pixels, shape (rows, columns): the outermost four on all sides."""
    reference = np.ones(SHAPE, dtype=bool)
    inside = slice(REFERENCE_PIXELS, -REFERENCE_PIXELS)
    reference[inside, inside] = False
    return reference


@lru_cache(maxsize=2)
def get_bias(detector: str) -> np.ndarray:
    """What each pixel reads without charge [DN], shape (rows, columns), whole numbers."""
    random = np.random.default_rng([4911, DETECTORS.index(detector)])
    outputs = np.repeat(random.uniform(-300, 300, NUMBER_OF_OUTPUTS), OUTPUT_ROWS)
    columns = 150 * np.sin(np.arange(NUMBER_OF_COLUMNS) / 128.0)
    bias = 12000 + outputs[:, np.newaxis] + columns + random.normal(0, 20, SHAPE)
    return np.rint(bias).astype(np.float32)


def dark_ramp(groups: int) -> np.ndarray:
    """Accumulated dark signal [DN], shape (groups, rows, columns); none in reference pixels."""
    times = FRAME_TIME * np.arange(1, groups + 1, dtype=np.float32)
    return times[:, np.newaxis, np.newaxis] * np.where(is_reference(), 0, DARK_RATE).astype(np.float32)


def linearise(signal: np.ndarray) -> np.ndarray:
    """The linear signal [DN] of what was read above the bias [DN], as the reference file has it."""
    return signal + NONLINEARITY * signal**2


def delinearise(linear: np.ndarray) -> np.ndarray:
    """What is read above the bias [DN] where a perfect detector would read `linear` [DN]; inverse of `linearise`."""
    return 2 * linear / (1 + np.sqrt(1 + 4 * NONLINEARITY * linear))


def flicker_noise(detector: str, random: np.random.Generator, scale: float = 1.0) -> np.ndarray:
    """The 1/f noise of one read of the detector [DN], shape (rows, columns).

    Parameters
    ----------
    detector
        Decides the directions in which it is read.
    random
        Source of the noise.
    scale
        Rms in units of the usual.
    """
    shared = COMMON_FLICKER * _pink_noise(random)
    outputs = [shared + OUTPUT_FLICKER * _pink_noise(random) for _ in range(NUMBER_OF_OUTPUTS)]
    outputs[1::2] = [output[::-1] for output in outputs[1::2]]
    noise = np.concatenate(outputs)
    return scale * (noise if READ_AXES[detector] == (2, 1) else noise[::-1, ::-1])


def _pink_noise(random: np.random.Generator) -> np.ndarray:
    """Noise of unit rms and 1/f power in the time of reading one output's pixels, shape (fast, slow)."""
    line = OUTPUT_ROWS + LINE_OVERHEAD
    count = line * NUMBER_OF_COLUMNS
    frequencies = np.fft.rfftfreq(count)
    amplitude = np.zeros(frequencies.size)
    amplitude[1:] = frequencies[1:] ** -0.5
    amplitude *= count / np.sqrt(2 * (amplitude**2).sum())
    phases = random.standard_normal((2, frequencies.size), dtype=np.float32)
    series = np.fft.irfft(amplitude * (phases[0] + 1j * phases[1]) / np.sqrt(2), count)
    return series.reshape(NUMBER_OF_COLUMNS, line)[:, :OUTPUT_ROWS].T


def make_ramp(
    rate: np.ndarray,
    detector: str,
    groups: int,
    random: np.random.Generator,
    *,
    noise: bool = True,
    cosmic_rays: bool = True,
    flicker: float = 1.0,
) -> np.ndarray:
    """Read a detector up the ramp.

    Parameters
    ----------
    rate
        Count rate of the light [DN/s], shape (rows, columns).
    detector
        Its bias and defective pixels are used.
    groups
        Number of groups, of one frame each.
    random
        Source of all noise.
    noise
        Photon noise, read noise, drift of the outputs and 1/f noise.
    cosmic_rays
        Whether cosmic rays hit.
    flicker
        1/f noise in units of the usual.

    Returns
    -------
    ndarray of uint16, shape (groups, rows, columns)
        Readings [DN].
    """
    defects, reference, bias = get_defects(detector), is_reference(), get_bias(detector)
    rate = rate + defects.extra_rate
    rate.flat[defects.dead] = 0
    per_frame = np.where(reference, 0, (rate + DARK_RATE) * FRAME_TIME)
    charge = np.zeros(SHAPE)
    ramp = np.empty((groups, *SHAPE), dtype=np.uint16)
    for group in range(groups):
        charge += random.poisson(per_frame * GAIN) / GAIN if noise else per_frame
        # Drawn in any case: an observation without cosmic rays has the noise of the same one with them.
        _hit(charge if cosmic_rays else np.zeros(SHAPE), random)
        reading = bias + delinearise(np.minimum(charge, 1.3 * FULL_WELL))
        if noise:
            drift = np.repeat(random.normal(0, OUTPUT_DRIFT, NUMBER_OF_OUTPUTS), OUTPUT_ROWS)
            reading += drift[:, np.newaxis] + flicker_noise(detector, random, flicker)
            reading += READ_NOISE * random.standard_normal(SHAPE, dtype=np.float32)
        ramp[group] = np.rint(np.clip(reading, 0, FULL_WELL))
    return ramp


def _hit(charge: np.ndarray, random: np.random.Generator) -> None:
    hits = random.poisson(COSMIC_RAYS_PER_FRAME)
    y, x = random.integers(REFERENCE_PIXELS, NUMBER_OF_ROWS - REFERENCE_PIXELS - 1, (2, hits))
    add_cosmic_rays(charge, y, x, (2.0, 4.0), random)
