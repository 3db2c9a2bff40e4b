"""Take the 1/f noise that is left in rate images of the NIRSpec IFU off, by the pixels that no light reaches.

In: a rate image, and a mask of the pixels between the slices. Out: the image without what the four outputs of the
detector have added to it.

An output reads its quarter of the detector pixel after pixel along y, the fast axis, and line after line along x; so
noise whose power falls with the inverse of the frequency is stripes along y that change on their way. `jwst`'s
`clean_flicker_noise` takes off each line's median, over all outputs. What differs between the outputs and along a line
is here estimated as a random field: noise whose power per octave is constant is nearly a sum of steps in blocks of 512,
256, 128, 64 and 32 pixels, of equal variance each. Outputs share one such field (Rauscher 2015, PASP 127, 1144), which
every other reads in the opposite direction (`jwst.refpix.irs2_subtract_reference`), and have another of their own. Both
variances come from the image itself: from the differences of neighbouring blocks, their covariance between outputs, and
what white noise has in them. The estimate is then the linear one of least variance (Wiener filter). Where no noise is
found, none is taken off.

What stays the same over tens of lines is light, stray or from closed shutters, and is left in.
"""

from pathlib import Path
from typing import Any

import numpy as np

from cubes import Cube, read_fits, write_cube
from errors import OptionError
from medians import nan_median

STEP = "flicker_noise"
OUTPUTS = 4
BLOCKS = 16  # of an output's quarter, along a line
# Lines over which light is told from noise, and the octaves of the noise between that and a line's time.
LIGHT_LINES = 65
SLOW_OCTAVES = 7
CLIP_SIGMA = 4.0


def fit_flicker_noise(image: np.ndarray, unlit: np.ndarray) -> np.ndarray:
    """Estimate the 1/f noise of a full detector.

    Parameters
    ----------
    image
        (y, x), y along the fast axis, any unit; NaN where bad.
    unlit
        (y, x) bool, pixels that no light of the scene reaches.

    Returns
    -------
    numpy.ndarray
        (y, x) float, in the unit of the image; finite everywhere.

    Raises
    ------
    OptionError
        If the shapes differ, or the rows are no multiple of those blocks that noise is told apart in.
    """
    if image.shape != unlit.shape or len(image) % (OUTPUTS * BLOCKS):
        raise OptionError(
            f"an image of {image.shape} with a mask of {unlit.shape} pixels is no full detector: "
            f"both must have the same shape and a multiple of {OUTPUTS * BLOCKS} rows."
        )
    rows, lines = image.shape
    order = _blocks_in_time()
    values = np.where(unlit & np.isfinite(image), image, np.nan).reshape(OUTPUTS * BLOCKS, -1, lines)[order]
    if not np.isfinite(values).any():
        return np.zeros(image.shape)
    values = values - _running_median(_block_means(values))[:, np.newaxis]
    for _ in range(2):
        sigma = 1.4826 * np.nanmedian(np.abs(values))
        values = np.where(np.abs(values) <= CLIP_SIGMA * sigma, values, np.nan)
    number = np.isfinite(values).sum(axis=1)
    total = np.nansum(values, axis=1)
    # Less one degree of freedom for each block.
    squares = np.nansum((values - _block_means(values)[:, np.newaxis]) ** 2)
    white = squares / (number.sum() - np.count_nonzero(number))
    shared, own = _variances(total, number, white)
    if shared + own <= 0:
        return np.zeros(image.shape)
    prior = _covariance()
    prior = shared * np.kron(np.ones((OUTPUTS, OUTPUTS)), prior) + own * np.kron(np.eye(OUTPUTS), prior)
    # (P^-1 + N / w)^-1 s / w for each line, with prior covariance P, white variance w and the sums s of N pixels each;
    # multiplied out, so that P need not have an inverse.
    blocks = np.eye(OUTPUTS * BLOCKS)
    gain = prior * (number.T / white)[:, np.newaxis, :] + blocks
    estimate = np.linalg.solve(gain, (total.T / white @ prior)[..., np.newaxis])[..., 0].T
    # The order is its own inverse.
    return np.repeat(estimate[order], rows // (OUTPUTS * BLOCKS), axis=0)


def clean_rate_file(path: str | Path, mask: str | Path) -> dict[str, Any]:
    """Take 1/f noise off a rate image, in place; errors and flags stay as they are.

    Exposures of other instruments than NIRSpec, whose detectors are read in another order, are left alone.

    Parameters
    ----------
    path
        The `*_rate.fits`.
    mask
        The mask of unlit pixels that `jwst`'s `clean_flicker_noise` saves (`save_mask`), (y, x) or one per integration.

    Returns
    -------
    dict
        'notes' (list of sentences); nothing for other instruments.

    Raises
    ------
    FileFormatError
        If a file is damaged.
    OptionError
        If image and mask do not go together.
    """
    rate = Cube(Path(path), read_fits(path))
    if rate.header.get("INSTRUME") != "NIRSPEC":
        return {}
    unlit = read_fits(mask)["SCI"].data.astype(bool)
    unlit = unlit.all(axis=0) if unlit.ndim == 3 else unlit
    noise = fit_flicker_noise(np.where(rate.good, rate.sci, np.nan), unlit)
    rate.sci[...] -= noise
    rms = float(noise.std())
    rate.add_note(STEP, "1/f noise fitted along lines", {"rms": rms})
    write_cube(rate, path)
    return {"notes": [f"1/f noise of {rms:.3g} DN/s rms along lines taken off"]}


def _blocks_in_time() -> np.ndarray:
    """Indices of the blocks along y, in the order in which each output reads its own."""
    order = np.arange(OUTPUTS * BLOCKS).reshape(OUTPUTS, BLOCKS)
    order[1::2] = order[1::2, ::-1].copy()
    return order.ravel()


def _block_means(values: np.ndarray) -> np.ndarray:
    """Means of (block, y in block, x), NaN where there is nothing."""
    number = np.isfinite(values).sum(axis=1)
    return np.nansum(values, axis=1) / np.where(number, number, np.nan)


def _running_median(values: np.ndarray) -> np.ndarray:
    """Median over `LIGHT_LINES` along x; zero where there is nothing."""
    padded = np.pad(values, ((0, 0), (LIGHT_LINES // 2,) * 2), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, LIGHT_LINES, axis=1)
    return np.nan_to_num(nan_median(np.moveaxis(windows, -1, 0).copy()))


def _covariance() -> np.ndarray:
    """Of the blocks of an output in one line, in units of the variance per octave."""
    block = np.arange(BLOCKS)
    size, covariance = BLOCKS, np.full((BLOCKS, BLOCKS), SLOW_OCTAVES - 1.0)
    while size >= 1:
        covariance += block[:, np.newaxis] // size == block // size
        size //= 2
    return covariance


def _variances(total: np.ndarray, number: np.ndarray, white: float) -> tuple[float, float]:
    """Variance per octave of the noise that outputs share, and of that which they do not."""
    mean = (total / np.where(number >= 4, number, np.nan)).reshape(OUTPUTS, BLOCKS, -1)
    noise = (white / np.where(number >= 4, number, np.nan)).reshape(mean.shape)
    step, noise = np.diff(mean, axis=1), noise[:, 1:] + noise[:, :-1]
    covariance = _covariance()
    octaves = np.mean([covariance[k, k] - covariance[k, k + 1] for k in range(BLOCKS - 1)])
    pairs = [(i, k) for i in range(OUTPUTS) for k in range(i)]
    shared = _mean(np.array([step[i] * step[k] for i, k in pairs])) / (2 * octaves)
    both = max(_mean(step**2 - noise) / (2 * octaves), 0.0)
    shared = min(max(shared, 0.0), both)
    return shared, both - shared


def _mean(values: np.ndarray) -> float:
    """Mean of what is known; zero if nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else 0.0
