"""Medians of cubes that ignore NaN, fast: of neighbours in the image, of neighbouring wavelengths, of boxes.

Arrays are (wavelength, y, x) float, NaN where there is no value.
"""

import numpy as np

_PLANES_AT_ONCE = 20  # so that what is sorted stays in the processor's cache
_VOXELS_AT_ONCE = 20_000


def nan_median(samples: np.ndarray) -> np.ndarray:
    """Median along the first axis, NaN ignored; NaN where there is nothing else. `samples` is used up.

    A sorting network (Batcher's merge exchange; Knuth, The Art of Computer Programming 3, 5.2.2 M) over whole arrays.
    """
    missing = np.isnan(samples)
    count = len(samples) - missing.sum(axis=0)
    samples[missing] = np.inf
    spare = np.empty_like(samples[0])
    rows = list(samples)
    for low, high in _exchanges(len(rows)):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    n = len(rows)
    median = (rows[(n - 1) // 2] + rows[n // 2]) / 2
    short = count < n
    if np.any(short):
        ranked = np.stack([row[short] for row in rows])
        have = count[short]
        pick = np.arange(have.size)
        with np.errstate(invalid="ignore"):
            middle = (ranked[np.maximum(have - 1, 0) // 2, pick] + ranked[np.minimum(have // 2, n - 1), pick]) / 2
        median[short] = np.where(have > 0, middle, np.nan)
    return median


def _exchanges(n: int) -> list[tuple[int, int]]:
    pairs = []
    top = 1 << max(n - 1, 0).bit_length() >> 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while d > 0:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return pairs


def median_along_rows(rows: np.ndarray) -> np.ndarray:
    """Median of each row of a matrix, NaN ignored; NaN where there is nothing else."""
    ranked = np.sort(rows, axis=1)
    count = np.isfinite(ranked).sum(axis=1)
    if rows.shape[1] == 0:
        return np.full(len(rows), np.nan, rows.dtype)
    pick = np.arange(len(rows))
    median = (ranked[pick, np.maximum(count - 1, 0) // 2] + ranked[pick, np.minimum(count // 2, rows.shape[1] - 1)]) / 2
    return np.where(count > 0, median, np.nan)


def median_of_neighbours(cube: np.ndarray) -> np.ndarray:
    """Median of the eight neighbours of each voxel in its image, NaN ignored; NaN where fewer than three are there."""
    _, ny, nx = cube.shape
    out = np.empty_like(cube)
    offsets = [(j, i) for j in range(3) for i in range(3) if (j, i) != (1, 1)]
    for start in range(0, len(cube), _PLANES_AT_ONCE):
        planes = cube[start : start + _PLANES_AT_ONCE]
        padded = np.pad(planes, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
        around = np.stack([padded[:, j : j + ny, i : i + nx] for j, i in offsets])
        few = np.isfinite(around).sum(axis=0) < 3
        median = nan_median(around)
        median[few] = np.nan
        out[start : start + len(planes)] = median
    return out


def median_of_neighbouring_wavelengths(cube: np.ndarray, window: int) -> np.ndarray:
    """Median over the `window` wavelengths around each voxel without itself, NaN ignored; NaN where there are none."""
    half, n = window // 2, len(cube)
    out = np.empty_like(cube)
    for start in range(0, n, _PLANES_AT_ONCE):
        stop = min(start + _PLANES_AT_ONCE, n)
        first, last = max(start - half, 0), min(stop + half, n)
        beyond = ((half - (start - first), half - (last - stop)), (0, 0), (0, 0))
        padded = np.pad(cube[first:last], beyond, constant_values=np.nan)
        around = np.stack([padded[k : k + stop - start] for k in range(window) if k != half])
        out[start:stop] = nan_median(around)
    return out


def surroundings(image: np.ndarray, place: tuple[np.ndarray, ...], half: int) -> np.ndarray:
    """Values in boxes of side 2 half + 1, (offset, voxel), the voxel itself in the middle; NaN beyond the edge.

    Parameters
    ----------
    image
        (wavelength, y, x).
    place
        Wavelength, y and x of the voxels, each (voxel,).
    half
        Reach of the box [spaxels].
    """
    wavelength, y, x = place
    _, ny, nx = image.shape
    out = np.empty(((2 * half + 1) ** 2, wavelength.size), image.dtype)
    steps = range(-half, half + 1)
    for row, (j, i) in zip(out, ((j, i) for j in steps for i in steps), strict=True):
        inside = (y + j >= 0) & (y + j < ny) & (x + i >= 0) & (x + i < nx)
        row[:] = np.where(inside, image[wavelength, np.clip(y + j, 0, ny - 1), np.clip(x + i, 0, nx - 1)], np.nan)
    return out


def local_median(image: np.ndarray, place: tuple[np.ndarray, ...], box_size: int) -> np.ndarray:
    """Median in the box of `box_size` x `box_size` spaxels around voxels, (voxel,), NaN ignored; NaN in empty ones.

    Parameters
    ----------
    image
        (wavelength, y, x).
    place
        Wavelength, y and x of the voxels, each (voxel,), in order of wavelength.
    box_size
        Odd.
    """
    parts = [np.empty(0, np.float32)]
    for start in range(0, place[0].size, _VOXELS_AT_ONCE):
        part = tuple(axis[start : start + _VOXELS_AT_ONCE] for axis in place)
        first, last = part[0][0], part[0][-1] + 1
        around = surroundings(image[first:last], (part[0] - first, *part[1:]), box_size // 2)
        parts.append(nan_median(around))
    return np.concatenate(parts)
