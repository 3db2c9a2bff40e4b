"""The joint model behind synthetic flats: brightness = flat x scene x gain, one linear fit for all dithers of a band.

In: logarithms of the brightness of D dithers in spaxels of known latitude, longitude, emission angle and radial
velocity. Out: the flat of each wavelength and its error. With i a datum (a spaxel of one dither) at the IFU place
p(i),

    ln I_i = f[p(i)] + g[d(i)] + scene_i + noise_i

f: ln of the flat, with prior variances for single spaxels, whole rows and whole columns (slices lie along one of them).
g: gain of the dither. A gradient of the flat and a gain per dither look the same in shifted images; the width of g is
chosen by its evidence, so that neither leaks into the other unless the data are silent.
The scene is `planet_model`'s.

The normal equations are solved once for a set of wavelengths of like noise: the scene is eliminated (Schur
complement), the flat's covariance comes out of the same factorisation. Missing data and outliers differ from one
wavelength to the next: their weights of 0 enter through preconditioned conjugate gradients, with the common
factorisation as preconditioner (a few iterations).

Reference: the matching of dithers of Fletcher et al. 2023, JGR Planets 128, e2023JE007924, appendix, which this
replaces; Gaussian linear models and evidence as in Bishop 2006, Pattern Recognition and Machine Learning, ch. 3.
"""

import numpy as np
from scipy import linalg, sparse

from planet_model import Priors, Scene

_CG_TOLERANCE = 1e-5
_CG_ITERATIONS = 40
_TRACE_VECTORS = 16


class JointFit:
    """The model factorised for one noise level and one set of data.

    Parameters
    ----------
    places
        IFU places of the data.
    scene
        The scene; its rows are the data.
    variance
        (data,) variances of ln(brightness); infinite where a datum is not to be used at all.
    shape
        Rows and columns of the IFU grid.
    priors
        Of the model.
    """

    def __init__(
        self, places: np.ndarray, scene: Scene, variance: np.ndarray, shape: tuple[int, int], priors: Priors
    ) -> None:
        self.places, self.weight, self.shape = places, 1 / variance, shape
        self.scene, self.priors = scene, priors
        size = shape[0] * shape[1]
        # Only places with data are solved for: the others would stay at the prior.
        self.seen = np.bincount(places, self.weight > 0, size) > 0
        number = np.cumsum(self.seen) - 1
        used = self.weight > 0
        self._flat_columns = sparse.csr_matrix(
            (np.ones(used.sum()), (np.nonzero(used)[0], number[places[used]])),
            shape=(places.size, int(self.seen.sum())),
        )
        self._flat_precision = self._flat_prior_precision()
        self._scene_precision = scene.prior_precision(priors)
        weighted = scene.columns.multiply(self.weight[:, None]).tocsr()
        normal = (scene.columns.T @ weighted).toarray() + self._scene_precision
        self._cross = (weighted.T @ self._flat_columns).toarray()
        self._factor = linalg.cholesky(normal, lower=True, overwrite_a=True, check_finite=False)
        reduced = linalg.solve_triangular(self._factor, self._cross, lower=True, check_finite=False)
        schur = self._flat_precision - reduced.T @ reduced
        schur[np.diag_indices_from(schur)] += self._flat_columns.T @ self.weight
        self._covariance = _inverse(schur)

    def _flat_prior_precision(self) -> np.ndarray:
        # Inverse of spaxel^2 + L L^T, with a column of L for each row, column and gradient (Woodbury's identity).
        y, x = np.divmod(np.nonzero(self.seen)[0], self.shape[1])
        rows, columns = self.priors.row * np.eye(self.shape[0])[y], self.priors.column * np.eye(self.shape[1])[x]
        planes = [self.priors.gradient * (axis - axis.mean()) / max(axis.std(), 1.0) for axis in (y, x)]
        loads = np.column_stack([rows, columns, *planes]) / self.priors.spaxel
        inner = np.linalg.inv(np.eye(loads.shape[1]) + loads.T @ loads)
        precision = -(loads @ inner) @ loads.T
        precision[np.diag_indices_from(precision)] += 1
        return precision / self.priors.spaxel**2

    def solve(self, data: np.ndarray, mask: np.ndarray | None = None, start: np.ndarray | None = None) -> np.ndarray:
        """Coefficients (flat, then scene) for each wavelength.

        Parameters
        ----------
        data
            (data, wavelength) ln(brightness).
        mask
            True where a datum counts; by default all.
        start
            Where to start from, as returned before.

        Returns
        -------
        numpy.ndarray
            (coefficients, wavelength).
        """
        if mask is None or mask[self.weight > 0].all():
            return self._precondition(self._gather(data * self.weight[:, None]))
        weight = self.weight[:, None] * mask
        target = self._gather(data * weight)
        solution = self._precondition(target) if start is None else start.copy()
        active = np.arange(data.shape[1])
        residual = target - self._apply(solution, weight)
        scale = np.einsum("ij,ij->j", target, self._precondition(target))
        direction = self._precondition(residual)
        product = np.einsum("ij,ij->j", residual, direction)
        for _ in range(_CG_ITERATIONS):
            going = product > _CG_TOLERANCE**2 * scale[active]
            if not going.any():
                break
            active, residual, direction, product = (
                active[going],
                residual[:, going],
                direction[:, going],
                product[going],
            )
            image = self._apply(direction, weight[:, active])
            length = product / np.einsum("ij,ij->j", direction, image)
            solution[:, active] += length * direction
            residual = residual - length * image
            step = self._precondition(residual)
            before, product = product, np.einsum("ij,ij->j", residual, step)
            direction = step + product / before * direction
        return solution

    def _gather(self, weighted: np.ndarray) -> np.ndarray:
        return np.vstack([self._flat_columns.T @ weighted, self.scene.columns.T @ weighted])

    def _apply(self, coefficients: np.ndarray, weight: np.ndarray) -> np.ndarray:
        count = self._flat_precision.shape[0]
        prior = [self._flat_precision @ coefficients[:count], self._scene_precision @ coefficients[count:]]
        return self._gather(weight * self.predict(coefficients)) + np.vstack(prior)

    def _precondition(self, target: np.ndarray) -> np.ndarray:
        count = self._flat_precision.shape[0]
        eliminated = linalg.cho_solve((self._factor, True), target[count:], check_finite=False)
        flat = self._covariance @ (target[:count] - self._cross.T @ eliminated)
        scene = linalg.cho_solve((self._factor, True), target[count:] - self._cross @ flat, check_finite=False)
        return np.vstack([flat, scene])

    def predict(self, coefficients: np.ndarray) -> np.ndarray:
        """(data, wavelength) ln(brightness) that coefficients mean; without the flat where no datum was used."""
        count = self._flat_precision.shape[0]
        return self._flat_columns @ coefficients[:count] + self.scene.columns @ coefficients[count:]

    def scene_alone(self, data: np.ndarray) -> np.ndarray:
        """(data, wavelength) the scene that fits if there were no flat."""
        target = self.scene.columns.T @ (data * self.weight[:, None])
        return self.scene.columns @ linalg.cho_solve((self._factor, True), target, check_finite=False)

    def flat(self, coefficients: np.ndarray) -> np.ndarray:
        """(wavelength, place) ln of the flat; NaN where no datum was used."""
        out = np.full((coefficients.shape[1], self.seen.size), np.nan)
        out[:, self.seen] = coefficients[: self._flat_precision.shape[0]].T
        return out

    def flat_error(self) -> np.ndarray:
        """(place,) 1-sigma error of ln F relative to its mean over the places seen; NaN elsewhere."""
        to_mean = self._covariance.mean(axis=1)
        out = np.full(self.seen.size, np.nan)
        out[self.seen] = np.sqrt(np.maximum(self._covariance.diagonal() - 2 * to_mean + to_mean.mean(), 0))
        return out

    def freedom(self) -> float:
        """Number of the data less the parameters that they determine, to about 1 %.

        The latter is the trace of the matrix from data to predictions, here from random signs (Hutchinson 1989,
        Communications in Statistics 18, 1059).
        """
        used = self.weight > 0
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (self.weight.size, _TRACE_VECTORS))
        root = np.sqrt(self.weight)[:, None]
        data = np.where(used[:, None], signs / np.where(used[:, None], root, 1.0), 0.0)
        predicted = self.predict(self.solve(data)) * root
        return float(used.sum() - np.sum(signs * predicted) / _TRACE_VECTORS)

    def gains(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gains of the dithers (dither, wavelength) and their covariance."""
        last = np.zeros((self._factor.shape[0], self.scene.dithers))
        last[-self.scene.dithers :] = np.eye(self.scene.dithers)
        columns = linalg.cho_solve((self._factor, True), last, check_finite=False)
        transfer = self._cross.T @ columns
        covariance = columns[-self.scene.dithers :] + transfer.T @ self._covariance @ transfer
        return coefficients[-self.scene.dithers :], covariance


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a positive definite matrix, which is overwritten."""
    factor = linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    inverse, status = linalg.lapack.dpotri(factor, lower=1)
    if status != 0:
        raise linalg.LinAlgError("the normal equations of the flat are singular")
    # Above the diagonal there are zeros.
    inverse = inverse + inverse.T
    inverse[np.diag_indices_from(inverse)] /= 2
    return inverse
