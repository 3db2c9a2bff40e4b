"""What a voxel of a cube should be by all the others: every image is a combination of a few images.

In: values and errors (wavelength, y, x), and which of them are suspect. Out: the deviation of each voxel from the
expectation that the others give, the voxel itself left out.

The spectra of a planet, its moons, belts, lines and limb are combinations of few spectra. So the matrix of the cube
(wavelength, spaxel), weighted to even noise of sigma s, is C V^T plus noise, V the leading right singular vectors
(principal images). Values that are suspect or missing are left out: the coefficients C of an image are the
least-squares fit to its good spaxels; for V, values are filled in from C V^T. Kept are singular values above 1.15 times
the largest one of noise alone, s (sqrt(n_wavelengths) + sqrt(n_spaxels)) (as in Gavish & Donoho 2014, IEEE Trans. Inf.
Theory 60, 5040), unless a component is little more than one voxel, which nature can't make behind a PSF. The deviation
without the voxel itself is d / (1 - h), h its leverage.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from medians import median_along_rows, median_of_neighbouring_wavelengths, median_of_neighbours

MOST_IMAGES = 24
# Fewer values than this per component fit noise.
VALUES_PER_IMAGE = 6
NOISE_EDGE_FACTOR = 1.15
# Sum of fourth powers of a component's voxels: 1/n for n voxels, 0.09 for an unresolved line of a point source.
MOST_CONCENTRATED = 0.1
# Numbers of images in the rounds that settle the values to fill in: first the strongest alone, out of a spike's reach.
_FILLING_ROUNDS = (3, 6, 12)
_LARGEST_EXACT = 300
_LEAST_REMAINDER = 0.05
# Added to the normal matrices, whose eigenvalues are 1 where nothing is left out: what the values that are left can't
# tell is taken as 0.
_RIDGE = 1e-5


def expect_from_neighbours(values: np.ndarray, noise: np.ndarray, window: int) -> np.ndarray:
    """First guess at each voxel: its excess over, or ratio to, its neighbours is that at neighbouring wavelengths.

    Parameters
    ----------
    values, noise
        (wavelength, y, x), NaN where there is no value.
    window
        As in `median_of_neighbouring_wavelengths`.

    Returns
    -------
    numpy.ndarray
        Of the two expectations the one nearer to the value, or where there is none their mean; NaN without neighbours.
    """
    middle = median_of_neighbours(values)
    excess = values - middle
    by_excess = median_of_neighbouring_wavelengths(excess, window)
    scale = np.maximum(np.abs(middle), noise)
    by_ratio = median_of_neighbouring_wavelengths(excess / scale, window)
    by_ratio *= scale
    del scale
    nearer = np.abs(excess - by_excess) < np.abs(excess - by_ratio)
    guess = np.where(nearer, by_excess, by_ratio)
    missing = np.isnan(excess)
    guess[missing] = (by_excess[missing] + by_ratio[missing]) / 2
    guess += middle
    return guess


@dataclass
class CubeModel:
    """The model of a cube's scene: a matrix (wavelength, spaxel) of the spaxels that have half their values at least.

    Attributes
    ----------
    data
        Values weighted to even noise, zero where missing.
    known
        Where there is a value.
    work
        `data` with missing and suspect values filled in.
    filled
        Where.
    weight
        What `data` was multiplied by, (wavelength, 1) and (1, spaxel).
    spaxels
        (y, x) bool, which spaxels these are.
    most_images
        Number of images to combine at most.
    images
        (spaxel, most_images) orthonormal columns, the latest principal images, strongest first; None to begin with.
    """

    data: np.ndarray
    known: np.ndarray
    work: np.ndarray
    filled: np.ndarray
    weight: tuple[np.ndarray, np.ndarray]
    spaxels: np.ndarray
    most_images: int
    images: np.ndarray | None = None

    @classmethod
    def fit(
        cls,
        values: np.ndarray,
        noise: np.ndarray,
        suspects: np.ndarray,
        local_deviation: np.ndarray,
        most_images: int = MOST_IMAGES,
    ) -> "CubeModel | None":
        """Model of a cube, or None if it is too small for one.

        Parameters
        ----------
        values, noise
            (wavelength, y, x), `values` NaN where missing, `noise` positive.
        suspects
            bool, values that the model must not follow.
        local_deviation
            By how much suspect values exceed what they may be, to begin with; NaN where unknown.
        most_images
            Number of images to combine at most.
        """
        valid = np.isfinite(values)
        spaxels = valid.mean(axis=0) >= 0.5
        count = min(most_images, min(len(values), int(spaxels.sum())) // VALUES_PER_IMAGE)
        if count < 1:
            return None
        by_spaxel = 1 / median_along_rows(noise[:, spaxels].T)[None, :]
        by_wavelength = 1 / median_along_rows(noise[:, spaxels] * by_spaxel)[:, None]
        weight = (by_wavelength, by_spaxel)
        known = valid[:, spaxels]
        data = np.where(known, values[:, spaxels] * by_wavelength * by_spaxel, 0).astype(np.float32)
        filled = suspects[:, spaxels] | ~known
        work = data.copy()
        work[filled] = data[filled] - (local_deviation[:, spaxels] * by_wavelength * by_spaxel)[filled]
        unknown = filled & ~np.isfinite(work) | ~known
        if unknown.any():
            work[unknown] = _separable_guess(data, known)[unknown]
        model = cls(data, known, work, filled, weight, spaxels, count)
        for images in _FILLING_ROUNDS:
            model._fill_in(model._principal_images(min(images, count)), filled)
        return model

    def deviation(self, left_out: np.ndarray, elsewhere: np.ndarray) -> np.ndarray:
        """Values minus what the others lead to expect, in the unit of the values.

        Parameters
        ----------
        left_out
            (wavelength, y, x) bool, values that no expectation may follow; the model is improved accordingly.
        elsewhere
            (wavelength, y, x), returned for the spaxels that are not modelled.
        """
        out = left_out[:, self.spaxels]
        images = self._principal_images(self.most_images)
        use = self.known & ~out
        difference = _coefficients(self.data, use, images) @ images.T
        np.subtract(self.data, difference, out=difference)
        remainder = np.maximum(1 - np.sum(images**2, axis=1), _LEAST_REMAINDER)
        np.divide(difference, remainder, out=difference, where=~out)
        difference /= self.weight[0]
        difference /= self.weight[1]
        difference[~self.known] = np.nan
        self._fill_in(images, self.filled | out)
        deviation = elsewhere.copy()
        deviation[:, self.spaxels] = difference
        return deviation

    def _fill_in(self, images: np.ndarray, filled: np.ndarray) -> None:
        # Spectra from the images, images from the spectra, each fitted to the values that are not filled in.
        if not images.shape[1] or not filled.any():
            self.work = np.where(filled, 0, self.data)
            return
        spectra, _ = np.linalg.qr(_coefficients(self.data, ~filled, images))
        self.work = np.where(filled, spectra @ _coefficients(self.data.T, ~filled.T, spectra).T, self.data)

    def _principal_images(self, most: int) -> np.ndarray:
        self.images, strength = _leading_images(self.work, self.most_images, self.images)
        images, strength = self.images[:, :most], strength[:most]
        rows, columns = self.work.shape
        total = float(np.sum(self.work**2, dtype=float))
        variance = max(total - float(np.sum(strength)), 0.0) / max((rows - most) * (columns - most), 1)
        edge = variance * (np.sqrt(rows) + np.sqrt(columns)) ** 2
        spectra = self.work @ images
        spectra = spectra / np.maximum(np.linalg.norm(spectra, axis=0), 1e-30)
        concentration = np.sum(spectra**4, axis=0) * np.sum(images**4, axis=0)
        keep = (strength > edge * NOISE_EDGE_FACTOR**2) & (concentration < MOST_CONCENTRATED)
        return images[:, keep]


def _separable_guess(data: np.ndarray, known: np.ndarray) -> np.ndarray:
    # Typical spectrum times brightness of the spaxel.
    values = np.where(known, data, np.nan)
    brightness = median_along_rows(values.T)
    spectrum = median_along_rows(values / np.where(np.abs(brightness) > 0, brightness, np.nan))
    return np.nan_to_num(spectrum[:, None] * brightness, nan=0.0)


def _leading_images(work: np.ndarray, count: int, start: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Leading right singular vectors (columns, strongest first) and squared singular values of a matrix."""
    rows, columns = work.shape
    if start is None or min(rows, columns) <= _LARGEST_EXACT:
        exact = work.astype(float)
        if rows <= columns:
            strength, spectra = eigh(exact @ exact.T, subset_by_index=(rows - count, rows - 1))
            images = exact.T @ spectra
            images /= np.maximum(np.linalg.norm(images, axis=0), 1e-30)
        else:
            strength, images = eigh(exact.T @ exact, subset_by_index=(columns - count, columns - 1))
        return images[:, ::-1].astype(np.float32), np.maximum(strength[::-1], 0)
    # The matrix has changed little since `start`: subspace iteration.
    images = start
    for _ in range(2):
        spectra, _ = np.linalg.qr(work @ images)
        images, strength, _ = np.linalg.svd(work.T @ spectra, full_matrices=False)
    return images.astype(np.float32), strength.astype(float) ** 2


def _coefficients(data: np.ndarray, use: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Coefficients (row, image) of the rows of `data` on orthonormal `images`, by least squares where `use`."""
    count = images.shape[1]
    if not count:
        return np.zeros((len(data), 0), np.float32)
    weights = use.astype(np.float32)
    right = (data * weights) @ images
    products = (images[:, :, None] * images[:, None, :]).reshape(len(images), count * count)
    normal = (weights @ products).reshape(-1, count, count).astype(float) + _RIDGE * np.eye(count)
    return np.linalg.solve(normal, right.astype(float)[..., None])[..., 0].astype(np.float32)
