"""Sines in series: periodograms of many series at once, and robust fits of a few sines with the evidence for them.

    y = sum_k  c_k cos(f_k phase) + s_k sin(f_k phase)

The fit and its stopping rules are those of BayesicFitting 3.3 (Kester & Mueller 2021, Astronomy and Computing 37,
100503) as `jwst` uses it for residual fringes: a Levenberg-Marquardt fitter that goes half of each step, within a shell
that lowers the weight of outliers (Tukey's biweight, ten noise scales wide) until chi-squared stays. The rules stop so
early that it shows in the result: to give the library's numbers they are kept to the letter. What differs is the work
for one trial: each sine is evaluated once, or never while the frequencies are held, for then the normal matrix says it
all.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dgesv

PERIOD_STEP = 1e-3  # cm-1
_BLOCK = 250  # periods whose products are held at a time

TOLERANCE = 1e-4
ITERATIONS_PER_PARAMETER = 1000
ROBUST_DOMAIN = 10.0  # noise scales
FIRST_DAMPING = 1e-3
# Ranges of the priors, for the evidence: of frequencies and amplitudes, and ln of that of the noise scale.
PARAMETER_RANGE = 1002.0
LN_SCALE_RANGE = math.log(1000.0)


class FitError(Exception):
    """A fit that does not converge, or has nothing to fit."""


class Periodogram:
    """Lomb-Scargle periodograms with floating mean of many series on one grid, each with its own gaps.

    With sums over the n values that are there, divided by n, and y less its mean,

        YC = <y cos>,  YS = <y sin>,  CC = <cos cos> - <cos><cos>,  SS and CS likewise,
        power = (YC^2 SS + YS^2 CC - 2 YC YS CS) / (<y y> (CC SS - CS^2))

    (Zechmeister & Kuerster 2009, A&A 496, 577, eq. 5-15). The sums of y are matrix products for all series together.

    Parameters
    ----------
    wavenumber
        (n,) [cm-1].
    period, half_width
        Centre and half width of the periods that are searched, in steps of `PERIOD_STEP` [cm-1].
    """

    def __init__(self, wavenumber: np.ndarray, period: float, half_width: float) -> None:
        self.wavenumber = wavenumber
        count = round(2 * half_width / PERIOD_STEP)
        self.periods = np.linspace(period - half_width, period + half_width, count)
        phase = np.multiply.outer(2 * np.pi * wavenumber, 1 / self.periods)
        self._cos, self._sin = np.cos(phase), np.sin(phase, out=phase)

    def mask_sums(self, masks: np.ndarray) -> tuple[np.ndarray, ...]:
        """CC, SS and CS, each (series, period), over the values where `masks` (series, n) are 1 and not 0."""
        count = masks.sum(axis=1, keepdims=True)
        sums = np.empty((3, len(masks), self.periods.size))
        for block in self._blocks():
            cosines, sines = self._cos[:, block], self._sin[:, block]
            cosine, sine = masks @ cosines / count, masks @ sines / count
            cos_cos = masks @ cosines**2 / count
            sums[0, :, block] = cos_cos - cosine**2
            sums[1, :, block] = 1 - cos_cos - sine**2
            sums[2, :, block] = masks @ (cosines * sines) / count - cosine * sine
        return tuple(sums)

    def _blocks(self) -> Iterator[slice]:
        return (slice(start, start + _BLOCK) for start in range(0, self.periods.size, _BLOCK))

    def power(self, values: np.ndarray, masks: np.ndarray, sums: Sequence[np.ndarray]) -> np.ndarray:
        """Power (series, period) of values (series, n); `sums` are those of the masks."""
        count = masks.sum(axis=1, keepdims=True)
        values = (values - (values * masks).sum(axis=1, keepdims=True) / count) * masks
        y_y = (values**2).sum(axis=1, keepdims=True) / count
        power = np.empty((len(values), self.periods.size))
        for block in self._blocks():
            cos_cos, sin_sin, cos_sin = (part[:, block] for part in sums)
            y_cos, y_sin = values @ self._cos[:, block] / count, values @ self._sin[:, block] / count
            power[:, block] = y_cos**2 * sin_sin + y_sin**2 * cos_cos - 2 * y_cos * y_sin * cos_sin
            power[:, block] /= y_y * (cos_cos * sin_sin - cos_sin**2)
        return power


@dataclass(frozen=True)
class SineFit:
    """Sines that were fitted: their sum at each value (n,), their frequencies (sine,) and the log10 of the evidence."""

    model: np.ndarray
    frequencies: np.ndarray
    evidence: float


def fit_sines(phase: np.ndarray, data: np.ndarray, weights: np.ndarray, frequencies: np.ndarray) -> SineFit:
    """Fit sines, at first with the frequencies given, then with free ones.

    Parameters
    ----------
    phase
        (n,) 2 pi times the abscissa, which should be of order 1.
    data, weights
        (n,), finite; chi-squared is sum w (y - model)^2.
    frequencies
        (sine,) where to begin.

    Raises
    ------
    FitError
        If it does not converge.
    ValueError, RuntimeError, numpy.linalg.LinAlgError
        If a step or the evidence does not exist: data without noise, fewer data than parameters, a singular matrix.
    """
    held = _HeldSines(phase, data, frequencies)
    _robust_fit(held, weights)
    free = _FreeSines(phase, data, np.concatenate([frequencies, held.parameters]))
    chi, robust_weights = _robust_fit(free, weights)
    hessian, _ = free.normal_equations()
    evidence = _evidence(chi, robust_weights.sum(), hessian)
    return SineFit(data - free.residual(), free.parameters[: frequencies.size], evidence)


class _HeldSines:
    """Sines of fixed frequencies; `parameters` are all cosine and all sine amplitudes."""

    def __init__(self, phase: np.ndarray, data: np.ndarray, frequencies: np.ndarray) -> None:
        angle = np.multiply.outer(frequencies, phase)
        self._design = np.concatenate([np.cos(angle), np.sin(angle)])
        self._data = data
        self.parameters = np.ones(len(self._design))
        # The library counts the held frequencies in its limit.
        self.max_iterations = ITERATIONS_PER_PARAMETER * 3 * frequencies.size

    def set_weights(self, weights: np.ndarray) -> None:
        weighted = self._design * weights
        self._matrix, self._vector = weighted @ self._design.T, weighted @ self._data
        self._square = np.dot(self._data * weights, self._data)

    def move_to(self, parameters: np.ndarray) -> None:
        self.parameters = parameters

    def chi(self) -> float:
        return self._square + self.parameters @ (self._matrix @ self.parameters - 2 * self._vector)

    def normal_equations(self) -> tuple[np.ndarray, np.ndarray]:
        return self._matrix.copy(), self._vector - self._matrix @ self.parameters

    def residual(self) -> np.ndarray:
        return self._data - self.parameters @ self._design


class _FreeSines:
    """Sines of free frequencies; `parameters` are all frequencies, all cosine and all sine amplitudes."""

    def __init__(self, phase: np.ndarray, data: np.ndarray, parameters: np.ndarray) -> None:
        self._phase, self._data = phase, data
        self._count = parameters.size // 3
        self._design = np.empty((parameters.size, data.size))
        self.max_iterations = ITERATIONS_PER_PARAMETER * parameters.size
        self.move_to(parameters)

    def set_weights(self, weights: np.ndarray) -> None:
        self._weights = weights

    def move_to(self, parameters: np.ndarray) -> None:
        self.parameters = parameters
        count = self._count
        angle = np.multiply.outer(parameters[:count], self._phase)
        np.cos(angle, out=self._design[count : 2 * count])
        np.sin(angle, out=self._design[2 * count :])
        self._residual = self._data - parameters[count:] @ self._design[count:]

    def chi(self) -> float:
        return np.dot(self._residual * self._weights, self._residual)

    def normal_equations(self) -> tuple[np.ndarray, np.ndarray]:
        count = self._count
        cosine, sine = self._design[count : 2 * count], self._design[2 * count :]
        cosine_amplitude, sine_amplitude = self.parameters[count : 2 * count], self.parameters[2 * count :]
        self._design[:count] = self._phase * (sine_amplitude[:, None] * cosine - cosine_amplitude[:, None] * sine)
        weighted = self._design * self._weights
        return weighted @ self._design.T, weighted @ self._residual

    def residual(self) -> np.ndarray:
        return self._residual


def _robust_fit(problem: _HeldSines | _FreeSines, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Move the problem to its solution; return chi-squared and the weights of the last fit."""
    chi = _levenberg_marquardt(problem, weights)
    robust_weights = weights
    for _ in range(problem.max_iterations):
        scale = math.sqrt(chi / _degrees_of_freedom(robust_weights.sum(), problem.parameters.size))
        robust_weights = biweight(problem.residual() / (scale * ROBUST_DOMAIN)) * weights
        previous, chi = chi, _levenberg_marquardt(problem, robust_weights)
        if abs(previous - chi) < TOLERANCE * max(chi, 1.0):
            break
    return chi, robust_weights


def biweight(deviation: np.ndarray) -> np.ndarray:
    """Tukey's biweight of deviations in units of its half width; 0 for not-a-number."""
    square = deviation * deviation
    root = np.where(square <= 1, 1 - square, 0.0)
    return root * root


def _levenberg_marquardt(problem: _HeldSines | _FreeSines, weights: np.ndarray) -> float:
    """Move the problem from where it stands to the nearest minimum of chi-squared; return that."""
    problem.set_weights(weights)
    chi = _positive(problem.chi()) + 1
    damping = FIRST_DAMPING
    iteration = 0
    while iteration < problem.max_iterations:
        start = problem.parameters
        matrix, vector = problem.normal_equations()
        while True:
            matrix.flat[:: start.size + 1] *= 1 + damping
            problem.move_to(start + 0.5 * _solve(matrix, vector))
            trial = _positive(problem.chi())
            iteration += 1
            if trial <= chi:
                break
            if iteration >= problem.max_iterations:
                raise FitError("the sines do not converge")
            if damping < 1e20:
                damping *= 10
        previous, chi = chi, trial
        if abs(previous - chi) < TOLERANCE * max(previous, 1.0):
            return chi
        if damping > 1e-100:
            damping *= 0.1
    raise FitError("the sines do not converge")


def _solve(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    # What numpy.linalg.solve calls, without what that does around it: the matrices are tiny, and many.
    _, _, solution, info = dgesv(matrix, vector)
    if info > 0:
        raise np.linalg.LinAlgError("singular matrix")
    return solution


def _positive(chi: float) -> float:
    if chi <= 0:
        raise ValueError("chi-squared is not positive: data without noise have no evidence")
    return chi


def _degrees_of_freedom(weight: float, parameters: int) -> float:
    freedom = weight - parameters
    if freedom <= 0:
        raise RuntimeError("more parameters than (weighted) data")
    return freedom


def _evidence(chi: float, weight: float, hessian: np.ndarray) -> float:
    """Log10 of the evidence of a fit with unknown noise scale, as a Gaussian about the best parameters has it.

    As `BaseFitter.getLogZ` of BayesicFitting has it.
    """
    count = len(hessian)
    freedom = _degrees_of_freedom(weight, count)
    variance = chi / freedom
    log_z = -0.5 * (weight * math.log(2 * math.pi * variance) + chi / variance)
    log_z += 0.5 * math.log(math.pi * freedom) - LN_SCALE_RANGE
    if count:
        log_prior = math.log(LN_SCALE_RANGE) + count * math.log(PARAMETER_RANGE)
        log_z += 0.5 * (count * math.log(2 * math.pi * variance) - math.log(np.linalg.det(hessian))) - log_prior
    return log_z / math.log(10)


def evidence_without_sines(data: np.ndarray, weights: np.ndarray) -> float:
    """Log10 of the evidence that `data` is noise alone, which sines have to beat; of arrays as in `fit_sines`.

    The library leaves the weights out and takes the data for 1 and not 0, so that there the first sine always wins.

    Raises
    ------
    ValueError, RuntimeError
        If there are no data, or none that differ from 0.
    """
    scale = math.sqrt(np.dot(data * weights, data) / _degrees_of_freedom(weights.sum(), 0))
    robust_weights = biweight(data / (_positive(scale) * ROBUST_DOMAIN)) * weights
    return _evidence(np.dot(data * robust_weights, data), robust_weights.sum(), np.empty((0, 0)))
