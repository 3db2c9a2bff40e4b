"""Which peaks of an image are sharper than the PSF allows: those of single voxels, and of blocks of 2 x 2 spaxels.

A cosmic ray strikes a detector pixel, which the cube spreads over the spaxels that the pixel's footprint overlaps: with
sides of 0.8 to 2 spaxels (MRS, drizzled) it shows in one spaxel, in two or in four, whose mean stands out from the ring
of spaxels around them by more than light that came through the telescope could: light gives the ring a share that the
PSF tells, whatever its position.
"""

import numpy as np

from medians import surroundings

# Parts of a box of 5 x 5 spaxels around a peak: first row and column, side. The peak itself, and four blocks with it.
PARTS = ((2, 2, 1), (1, 1, 2), (1, 2, 2), (2, 1, 2), (2, 2, 2))
# A part is sharp if the ring around it has less than this share of what the PSF, centred on the part, would give it.
SHARE_OF_PSF = 0.5
# Heights that differ by less than this factor are the same: medians of two values leave them equal but for rounding.
LEVEL = 1 - 1e-4
_LEAST_RING = 3  # spaxels with a value, for a ring's mean to be one


def ring_shares(fwhm: np.ndarray) -> np.ndarray:
    """Greatest mean of the ring around sharp parts, in units of the parts' own mean.

    Parameters
    ----------
    fwhm
        (wavelength,) of a Gaussian PSF [spaxels].

    Returns
    -------
    numpy.ndarray
        (part, wavelength)
    """
    shares = []
    for _, _, side in PARTS:
        offset = np.arange(side + 2) - (side + 1) / 2
        profile = np.exp(-4 * np.log(2) * (offset / np.asarray(fwhm, float)[:, None]) ** 2)
        inner, all_of_it = profile[:, 1:-1].sum(axis=1) ** 2, profile.sum(axis=1) ** 2
        shares.append(SHARE_OF_PSF * (all_of_it - inner) / (4 * side + 4) * side**2 / inner)
    return np.array(shares)


def sharp_parts(
    image: np.ndarray,
    left_out: np.ndarray,
    place: tuple[np.ndarray, ...],
    background: np.ndarray,
    shares: np.ndarray,
    also_in: np.ndarray | None = None,
) -> np.ndarray:
    """Which voxels belong to sharp parts around peaks.

    Parameters
    ----------
    image
        (wavelength, y, x) deviations, NaN where there is no value.
    left_out
        bool, voxels that do not count as neighbours.
    place
        Wavelength, y and x of the voxels to be looked at, each (voxel,). Peaks are those not lower than their
        neighbours.
    background
        (voxel,) what to take off `image`.
    shares
        What `ring_shares` gives.
    also_in
        Another image, like `image`, in which the part must not be blunt either.

    Returns
    -------
    numpy.ndarray
        bool, of the shape of `image`. Blocks are asked about only where the voxel alone is not sharp.
    """
    share = shares[:, place[0]]
    box = _boxes(image, left_out, place) - background
    ring, inner = _means(box)
    with np.errstate(invalid="ignore"):
        sharp = ring < share * inner
    around = np.abs(box[1:4, 1:4].reshape(9, -1))
    sharp &= around[4] > LEVEL * np.nan_to_num(np.delete(around, 4, axis=0)).max(axis=0)
    if also_in is not None:
        ring, inner = _means(_boxes(also_in, left_out, place))
        with np.errstate(invalid="ignore"):
            sharp &= ~(ring >= share * inner)
    sharp[1:] &= ~sharp[0]
    wavelength, y, x = place
    padded = np.zeros((len(image), image.shape[1] + 2, image.shape[2] + 2), bool)
    for (row, column, side), here in zip(PARTS, sharp, strict=True):
        for j in range(row - 1, row - 1 + side):
            for i in range(column - 1, column - 1 + side):
                padded[wavelength[here], y[here] + j, x[here] + i] = True
    return padded[:, 1:-1, 1:-1]


def _boxes(image: np.ndarray, left_out: np.ndarray, place: tuple[np.ndarray, ...]) -> np.ndarray:
    box = surroundings(image, place, 2)
    box[surroundings(left_out, place, 2)] = np.nan
    box[12] = image[place]
    return box.reshape(5, 5, -1)


def _means(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means in the ring around each part and in the part, (part, voxel), times the sign of the peak; NaN ignored."""
    there = np.isfinite(box)
    values = np.where(there, box, 0.0)
    rings, inners = [], []
    for row, column, side in PARTS:
        part = np.s_[row : row + side, column : column + side]
        around = np.s_[row - 1 : row + side + 1, column - 1 : column + side + 1]
        inner, all_of_it = values[part].sum(axis=(0, 1)), values[around].sum(axis=(0, 1))
        n_inner, n_all = there[part].sum(axis=(0, 1)), there[around].sum(axis=(0, 1))
        n_ring = n_all - n_inner
        rings.append(np.where(n_ring >= _LEAST_RING, (all_of_it - inner) / np.maximum(n_ring, 1), np.nan))
        inners.append(np.where(n_inner > 0, inner / np.maximum(n_inner, 1), np.nan))
    sign = np.sign(box[2, 2])
    return np.array(rings) * sign, np.array(inners) * sign
