"""Fit of a planet's disc to an image: offset, width of the PSF and strength of everything, by maximum evidence.

In: a `DiscModel` (shapes that are displaced together), an image, a first guess. Out: `DiscFit`. The image is

    d = sum_k c_k shape_k(offset, width) + sky + sum_r s_r [row r] d'(up) + noise.

Priors: c_k ~ N(0, sigma^2) with one sigma for the belts, one for the clouds. s_r ~ N(0, sigma^2): the rows of a cube
are made of slices wider than a spaxel, so what a row shows lies up to half a slice above or below its place, and at a
limb aslant to the slices these steps look like a shift along it. The noise is Student's t with 4 degrees of freedom,
which spikes, moons and hot pixels hardly pull; it grows with brightness and with its gradient.

Offset and width go by Gauss-Newton steps, with the coefficients marginalised; noise and sigmas by expectation
maximisation in between (Dempster et al. 1977, J. R. Stat. Soc. B 39, 1; for the t distribution, Lange et al. 1989,
J. Am. Stat. Assoc. 84, 881). The evidence is the likelihood with the coefficients integrated out (Laplace).
"""

from dataclasses import dataclass

import numpy as np

from pointing_model import BELT, CLOUD, FWHM_PER_SIGMA, DiscModel, Sampled

_SIGMA_FREE = 3.0  # of the disc's brightness; darkening, rings and sky
_SIGMA_WIDTH = 0.3  # relative change of the PSF's variance in one round
_FREEDOM = 4  # of the t distribution
_SKY_NOISE = 0.1  # noise off the disc, in units of that at brightness 1
_FIRST_NOISE = 0.03  # of the brightness
_LEAST_NOISE = 0.003  # no model is better than this
# Of the disc's brightness. With more, a dark rim of clouds all along the limb could take the place of a displacement.
_LARGEST_SIGMAS = {BELT: 0.1, CLOUD: 0.05}
_LEAST_SIGMA = 0.003
_FIRST_DISPLACEMENT = 0.01  # arcsec
_WIDTH_TOLERANCE = 0.02  # of the variance; a larger error of it asks for new images
_ROUNDS, _ROUNDS_OF_WIDTH, _LEAST_ROUNDS = 25, 15, 6


@dataclass(frozen=True)
class Image:
    """The data.

    Attributes
    ----------
    values
        (spaxel,) brightness, 1 where bright.
    row
        (spaxel,) number of the row of the cube.
    upwards
        (east, north) unit vector from row to row.
    spaxel
        Side of a spaxel [arcsec].
    """

    values: np.ndarray
    row: np.ndarray
    upwards: np.ndarray
    spaxel: float


@dataclass(frozen=True)
class DiscFit:
    """The best fit of one model.

    Attributes
    ----------
    offset
        (east, north), by how much the header reads too high [arcsec].
    covariance
        (2, 2) of the offset, for noise without correlation [arcsec^2].
    evidence
        Natural logarithm.
    shapes
        The model at the offset.
    weights
        (spaxel,) inverse variances.
    residual
        (spaxel,) image less model.
    noise
        (spaxel,) 1-sigma of the noise, apart from outliers.
    """

    offset: np.ndarray
    covariance: np.ndarray
    evidence: float
    model: DiscModel
    image: Image
    shapes: Sampled
    weights: np.ndarray
    residual: np.ndarray
    noise: np.ndarray

    def limb(self) -> np.ndarray:
        """Which spaxels are on the limb: where the disc's image is between 0.2 and 0.8, outliers apart."""
        disc = self.shapes.values[:, 0] / max(float(self.shapes.values[:, 0].max()), 1e-6)
        return (disc > 0.2) & (disc < 0.8) & (np.abs(self.residual) < 4 * self.noise)

    def correlated_spaxels(self, good: np.ndarray) -> float:
        """How many spaxels' residuals go together: ((1 + r) / (1 - r))^2 for a field with correlation r between
        neighbours that falls exponentially.

        Parameters
        ----------
        good
            (y, x), which spaxels of the cube are in the image.
        """
        image = np.zeros(good.shape)
        image[good] = self.residual * np.sqrt(self.weights)
        pairs = np.sum(image[1:] * image[:-1]) + np.sum(image[:, 1:] * image[:, :-1])
        correlation = float(np.clip(pairs / max(2 * np.sum(image**2), 1e-12), 0, 0.8))
        return ((1 + correlation) / (1 - correlation)) ** 2

    def gain_over_smooth(self) -> float:
        """Fall of chi^2 against a quadratic surface."""
        x, y = self.model.east - self.model.east.mean(), self.model.north - self.model.north.mean()
        smooth = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
        root = np.sqrt(self.weights)
        _, left, *_ = np.linalg.lstsq(smooth * root[:, None], self.image.values * root, rcond=None)
        return float(np.sum(left) - np.sum((self.residual * root) ** 2))

    def systematic(self, displacement: float, pieces: float) -> np.ndarray:
        """Covariance (2, 2) of the offset if each piece of the limb, and independently all of it, is displaced along
        its normal [arcsec^2]."""
        limb = self.limb()
        normals = np.stack([self.shapes.by_east[limb, 0], self.shapes.by_north[limb, 0]])
        normals /= np.maximum(np.linalg.norm(normals, axis=0), 1e-12)
        each = np.linalg.inv(pieces * (normals @ normals.T / limb.sum() + 1e-4 * np.eye(2)))
        together = each @ normals.mean(axis=1) * pieces
        return displacement**2 * (each + np.outer(together, together))


def fit_disc(model: DiscModel, image: Image, start: np.ndarray) -> DiscFit:
    """Find the disc.

    Parameters
    ----------
    model
        Made for offsets round `start`.
    image
        The data.
    start
        First guess of the offset (east, north) [arcsec].
    """
    state = _State(model, image, np.asarray(start, float))
    for number in range(_ROUNDS):
        step = state.advance()
        if 0 < number < _ROUNDS_OF_WIDTH and abs(state.width) > _WIDTH_TOLERANCE:
            state.renew_images()
        elif number >= _LEAST_ROUNDS and np.hypot(*step) < 2e-4:
            break
    return state.fit()


class _State:
    # What one round hands to the next.

    def __init__(self, model: DiscModel, image: Image, start: np.ndarray) -> None:
        self.model, self.image, self.start, self.offset = model, image, start, start
        self.first_fwhm = model.fwhm
        self.width = 0.0  # relative excess of the PSF's variance
        self.sigmas = dict(_LARGEST_SIGMAS)
        self.displacement = _FIRST_DISPLACEMENT
        self.noise = _FIRST_NOISE
        self.robust = np.ones_like(image.values)
        self.rows = (image.row[:, None] == np.unique(image.row)).astype(float)
        self.coefficients = np.zeros(len(model.kinds))
        self.coefficients[0] = 1.0
        self.level = np.maximum(model.values(start)[:, 0], 0)

    def advance(self) -> np.ndarray:
        # One round; returns the step of the offset.
        self._solve()
        self._learn()
        return self._move()

    def renew_images(self) -> None:
        fwhm = self.model.fwhm * np.sqrt(1 + np.clip(self.width, -0.3, 0.5))
        self.model = self.model.with_fwhm(float(np.clip(fwhm, 0.7 * self.first_fwhm, 1.5 * self.first_fwhm)))
        self.width = 0.0

    def fit(self) -> DiscFit:
        self._solve()
        information, _ = self._information()
        noise = self.noise * self.scale
        surprise = np.log1p((self.residual / noise) ** 2 / _FREEDOM)
        likelihood = -(_FREEDOM + 1) / 2 * np.sum(surprise) - np.sum(np.log(noise))
        penalty = 0.5 * np.sum((self.all_coefficients * self.prior) ** 2) - np.sum(np.log(self.prior))
        return DiscFit(
            self.offset,
            np.linalg.inv(information)[:2, :2],
            float(likelihood - penalty + 0.5 * np.linalg.slogdet(self.inverse)[1]),
            self.model,
            self.image,
            self.shapes,
            self.weights,
            self.residual,
            noise,
        )

    def _solve(self) -> None:
        # Coefficients at this offset.
        self.shapes = self.model.sample(self.offset)
        values = self.shapes.values + self.width * self.shapes.by_width
        count = values.shape[1]
        slopes = np.stack([self.shapes.by_east @ self.coefficients, self.shapes.by_north @ self.coefficients])
        steep = np.hypot(*slopes) * self.model.fwhm / FWHM_PER_SIGMA
        self.scale = np.sqrt(self.level**2 + _SKY_NOISE**2 + steep**2)
        self.weights = self.robust / (self.noise * self.scale) ** 2
        displaced = self.rows * (self.image.upwards @ slopes)[:, None]
        self.columns = np.hstack([values, np.ones((len(values), 1)), displaced])
        sigmas = np.full(self.columns.shape[1], _SIGMA_FREE)
        for kind, sigma in self.sigmas.items():
            sigmas[:count][self.model.kinds == kind] = sigma
        sigmas[count + 1 :] = self.displacement
        self.prior = 1 / sigmas
        scaled = self.columns.T * self.weights
        self.inverse = np.linalg.inv(scaled @ self.columns + np.diag(self.prior**2))
        self.all_coefficients = self.inverse @ (scaled @ self.image.values)
        self.coefficients = self.all_coefficients[:count]
        self.residual = self.image.values - self.columns @ self.all_coefficients
        self.level = np.maximum(values @ self.coefficients, 0)

    def _learn(self) -> None:
        # Noise and sigmas from residuals and coefficients.
        spread = np.diag(self.inverse)
        square = self.all_coefficients**2 + spread
        for kind in self.sigmas:
            of_kind = np.flatnonzero(self.model.kinds == kind)
            if of_kind.size:
                sigma = np.sqrt(square[of_kind].mean())
                self.sigmas[kind] = float(np.clip(sigma, _LEAST_SIGMA, _LARGEST_SIGMAS[kind]))
        count = len(self.model.kinds)
        self.displacement = float(np.clip(np.sqrt(square[count + 1 :].mean()), 5e-4, self.image.spaxel / 2))
        parameters = len(square) - float(np.sum(spread * self.prior**2))
        relative = (self.residual / self.scale) ** 2
        # Sky is so quiet that it would hide the noise of the disc.
        disc = self.level > 0.05
        freedom = max(disc.sum() - parameters, disc.sum() / 10, 1)
        self.robust = (_FREEDOM + 1) / (_FREEDOM + relative / self.noise**2)
        self.noise = max(float(np.sqrt(np.sum((self.robust * relative)[disc]) / freedom)), _LEAST_NOISE)

    def _information(self) -> tuple[np.ndarray, np.ndarray]:
        # Of offset and width, with the coefficients marginalised; and the derivatives (parameter, spaxel), weighted.
        derivatives = np.stack(
            [part @ self.coefficients for part in (self.shapes.by_east, self.shapes.by_north, self.shapes.by_width)]
        )
        scaled = derivatives * self.weights
        mixed = scaled @ self.columns
        information = scaled @ derivatives.T - mixed @ self.inverse @ mixed.T
        return information + np.diag([0.5, 0.5, 1 / _SIGMA_WIDTH**2]), scaled

    def _move(self) -> np.ndarray:
        information, derivatives = self._information()
        gradient = derivatives @ self.residual
        gradient[2] -= self.width / _SIGMA_WIDTH**2
        step = np.linalg.solve(information, gradient)
        # A step longer than this leaves the range in which the model is linear.
        step *= min(1.0, 0.1 / max(float(np.hypot(*step[:2])), 1e-12))
        reach = 2 * self.first_fwhm
        self.offset = np.clip(self.offset + step[:2], self.start - reach, self.start + reach)
        self.width += float(step[2])
        return step[:2]
