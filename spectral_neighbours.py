"""What a pixel of an IFU exposure should be, by spectra beside it: least squares in running windows along y.

Arrays are (y, x) with y along the dispersion, NaN where there is nothing. In: the values of one slice and spectra that
belong to the same pixels, each with its error. Out: the linear combination of those that comes nearest to the values,
for every pixel without itself (with leverage h, the residual over 1 - h).

A spectrum's coefficient is held down by the sum of its variances, as if its noise were fitted once more (ridge
regression: Hoerl & Kennard 1970, Technometrics 12, 55): otherwise spectra that are noise alone, of dark sky, would be
stretched until they fit a planet by chance.
"""

import numpy as np

from medians import median_along_rows, nan_median

# Coefficients are fitted in windows of five blocks of so many pixels along the dispersion; the outer two count half.
BLOCK = 7
WINDOW = (0.5, 1.0, 1.0, 1.0, 0.5)
# Relative; makes coefficients of spectra that are all alike definite.
RIDGE = 1e-5
MOST_LEVERAGE = 0.8
SCATTER_COLUMNS = 5
CHANCE = 0.5


def expect(
    values: np.ndarray, spectra: list[tuple[np.ndarray, np.ndarray]], errors: np.ndarray, fitted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What each pixel should be, itself left out, and the error of its difference to that in units of its own.

    Parameters
    ----------
    values, errors
        (y, x); errors are infinite where values are unknown.
    spectra
        What is combined, besides a constant, each (y, x), with its error.
    fitted
        bool, (y, x), pixels that the coefficients are fitted to.

    Returns
    -------
    expected, gain : numpy.ndarray
        (y, x); `expected` is NaN where one of the spectra is.
    """
    terms = np.stack([np.ones_like(values), *(spectrum for spectrum, _ in spectra)], axis=-1)
    noise = np.stack([np.zeros_like(values), *(error for _, error in spectra)], axis=-1)
    usable = np.isfinite(terms).all(axis=-1)
    terms = np.where(usable[..., None], terms, 0)
    # Where a term was interpolated it has no error of its own.
    noise = np.where(np.isfinite(noise), noise, 0) / errors[..., None]
    weight = np.where(usable, 1 / errors, 0)[..., None]
    weighted = _in_blocks(terms * weight)
    weight = np.where(fitted[..., None], weight, 0)
    design, target = _in_blocks(terms * weight), _in_blocks(np.nan_to_num(values)[..., None] * weight)
    transposed = design.swapaxes(-1, -2)
    normal, right = _over_windows(transposed @ design), _over_windows(transposed @ target)
    # A spectrum that is all noise must not be stretched until it happens to fit.
    penalty = _over_windows((_in_blocks(noise * (weight > 0)) ** 2).sum(axis=-2))
    normal = normal + penalty[..., None] * np.eye(normal.shape[-1])
    scale = np.sqrt(np.maximum(np.einsum("...ii->...i", normal), 1e-30))[..., None]
    normal = normal / scale / scale.swapaxes(-1, -2) + RIDGE * np.eye(normal.shape[-1])
    inverse = np.linalg.inv(normal) / scale / scale.swapaxes(-1, -2)
    coefficients = _at_pixels((inverse @ right)[..., 0], len(values))
    leverage = ((weighted @ inverse) * weighted).sum(axis=-1).swapaxes(1, 2).reshape(-1, values.shape[1])[: len(values)]
    left = np.where(fitted, 1 - np.minimum(leverage, MOST_LEVERAGE), 1)
    # The error of the coefficients, for pixels in the fit and for those that are not.
    spread = np.where(fitted, 1 / left, 1 + leverage)
    with_itself = np.where(usable, (coefficients * terms).sum(axis=-1), np.nan)
    gain = np.sqrt((1 + ((coefficients * noise) ** 2).sum(axis=-1)) * spread)
    return values - (values - with_itself) / left, gain


def bridged(values: np.ndarray) -> np.ndarray:
    """Values with those missing between two pairs along y interpolated by a cubic."""
    edge = np.full((2, values.shape[1]), np.nan)
    padded = np.vstack([edge, values, edge])
    bridge = (9 * (padded[1:-3] + padded[3:-1]) - padded[:-4] - padded[4:]) / 16
    return np.where(np.isnan(values), bridge, values)


def beside(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What lies left and right of each pixel; beyond the slice's edge, what lies on its other side."""
    edge = np.full((len(values), 1), np.nan)
    left, right = np.hstack([edge, values[:, :-1]]), np.hstack([values[:, 1:], edge])
    return np.where(np.isnan(left), right, left), np.where(np.isnan(right), left, right)


def along(values: np.ndarray, beyond: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """What lies below and above each pixel; where there is nothing, what is in `beyond`."""
    edge = np.full((1, values.shape[1]), np.nan)
    below, above = np.vstack([edge, values[:-1]]), np.vstack([values[1:], edge])
    return np.where(np.isnan(below), beyond, below), np.where(np.isnan(above), beyond, above)


def scatter_around(deviation: np.ndarray) -> np.ndarray:
    """Robust scatter in the window around each pixel, where that is larger than one; one where there is nothing.

    Of so few pixels it is off by a fifth and more, by chance: it is the median of that of `SCATTER_COLUMNS` columns, or
    the pixel's own less `CHANCE`, if that is larger.
    """
    own = 1.4826 * median_around(np.abs(deviation))[::BLOCK]
    edge = np.full((len(own), SCATTER_COLUMNS // 2), np.nan, own.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(np.hstack([edge, own, edge]), SCATTER_COLUMNS, axis=1)
    shared = nan_median(np.moveaxis(windows, -1, 0).copy())
    scatter = np.fmax(np.fmax(shared, own - CHANCE), 1.0)
    return np.repeat(scatter, BLOCK, axis=0)[: len(deviation)]


def median_around(values: np.ndarray) -> np.ndarray:
    """Median along y in the window around each pixel, (y, x); NaN where there is no value."""
    ny, nx = values.shape
    half = len(WINDOW) // 2
    count = -(-ny // BLOCK)
    padded = np.full(((count + 2 * half) * BLOCK, nx), np.nan, np.float32)
    padded[half * BLOCK : half * BLOCK + ny] = values
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(WINDOW) * BLOCK, axis=0)[::BLOCK]
    median = median_along_rows(windows.reshape(count * nx, -1)).reshape(count, nx)
    return np.repeat(median, BLOCK, axis=0)[:ny]


def _in_blocks(values: np.ndarray) -> np.ndarray:
    """(y, x, ...) as (block, x, y in block, ...), filled up with zeros."""
    ny, *rest = values.shape
    count = -(-ny // BLOCK)
    padded = np.concatenate([values, np.zeros((count * BLOCK - ny, *rest))])
    return padded.reshape(count, BLOCK, *rest).swapaxes(1, 2)


def _over_windows(sums: np.ndarray) -> np.ndarray:
    half = len(WINDOW) // 2
    edge = np.zeros((half, *sums.shape[1:]))
    padded = np.concatenate([edge, sums, edge])
    return sum(weight * padded[k : k + len(sums)] for k, weight in enumerate(WINDOW))


def _at_pixels(coefficients: np.ndarray, ny: int) -> np.ndarray:
    """Coefficients (block, x, k), interpolated between the blocks' middles: (y, x, k)."""
    place = np.clip((np.arange(ny) + 0.5) / BLOCK - 0.5, 0, len(coefficients) - 1)
    low = place.astype(int)
    share = (place - low)[:, None, None]
    return coefficients[low] * (1 - share) + coefficients[np.minimum(low + 1, len(coefficients) - 1)] * share
