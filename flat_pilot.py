"""What a flat's fit needs to know beforehand, from a fit to a few wavelengths (`pilot`).

That is how large the noise is against the errors stated, how much the flat varies by rows, columns and spaxels, and
whether the dithers differ in gain. A gain of the dithers and a gradient of the flat look the same in shifted images, so
gains are let in only where the data are more probable with them (Bishop 2006, Pattern Recognition and Machine Learning,
ch. 3.5). Then all but the gradient of the flat is free of them, and its error says how well the gradient is known.
Elsewhere they are taken to be equal; the width up to which the data do not speak against gains says how far one may.
"""

from dataclasses import dataclass, replace

import numpy as np

from flat_model import JointFit
from planet_model import Priors, Scene, Sightlines

_PILOT_SCENE_ERROR = 1e-3
_WIDE_GAIN = 0.03
_OUTLIER, _OUTLIER_ROUNDS = 6.0, 3  # sigma
_FLAT_WIDTHS = 0.01, 0.1
_GAIN_WIDTHS = np.geomspace(Priors().gain, 0.05, 13)
_CONVINCING_EVIDENCE = 1.0  # ln of a ratio of probabilities
_PILOT_WAVELENGTHS = 24
_SAMPLE = 200  # values that a median is taken from, where more are not worth their time


@dataclass
class FlatData:
    """The usable data: one row per datum (spaxel of a dither), one column per wavelength."""

    sight: Sightlines
    ln_sci: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    shape: tuple[int, int]


@dataclass(frozen=True)
class Gains:
    """Gains of the dithers.

    Attributes
    ----------
    width
        Prior width that was chosen.
    limit
        The largest width for which the band's data are about as probable as for the best: gains up to this may be.
    band, errors
        (dither,) ln of the band's gains, mean 0, and their 1-sigma errors.
    """

    width: float
    limit: float
    band: np.ndarray
    errors: np.ndarray


def common_variance(data: FlatData, chosen: np.ndarray) -> np.ndarray:
    """(data,) median over some wavelengths of each datum's variance, infinite for data that are never usable."""
    typical = typical_of_rows(data.variance[:, chosen], data.mask[:, chosen])
    return np.where(np.isfinite(typical), typical, np.inf)


def typical_of_rows(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Median of each row over those of the mask, from a sample of the columns; NaN where there is none."""
    step = max(values.shape[1] // _SAMPLE, 1)
    typical = _row_medians(values[:, ::step], mask[:, ::step])
    lost = np.isnan(typical) & mask.any(axis=1)
    typical[lost] = _row_medians(values[lost], mask[lost])
    return typical


def _row_medians(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    ordered = np.sort(np.where(mask, values, np.nan), axis=1)  # NaN last
    return ordered[np.arange(len(ordered)), np.maximum(mask.sum(axis=1) - 1, 0) // 2]


def pilot(data: FlatData, scene: Scene) -> tuple[Priors, float, Gains]:
    """From a few wavelengths: priors, noise / ERR, and the gains of the dithers."""
    wavelengths = data.ln_sci.shape[1]
    few = np.unique(np.linspace(0, wavelengths - 1, _PILOT_WAVELENGTHS).round().astype(int))
    mask = data.mask[:, few]
    # The gains are sought in the mean of these wavelengths: the noise is that of the mean.
    variance = common_variance(data, few) / few.size + _PILOT_SCENE_ERROR**2
    fit = JointFit(data.sight.place, scene, variance, data.shape, Priors(gain=_WIDE_GAIN))
    freedom = fit.freedom()
    free = freedom / max(int((fit.weight > 0).sum()), 1)
    stated = np.sqrt(common_variance(data, few))[:, None]
    for _ in range(_OUTLIER_ROUNDS):
        # A spike takes the other dithers of its place along, which are let in again once it is out.
        residual = data.ln_sci[:, few] - fit.predict(fit.solve(data.ln_sci[:, few], mask))
        robust = [1.4826 * np.median(np.abs(r[good])) for r, good in zip((residual / stated).T, mask.T, strict=True)]
        noise = float(np.median(robust) / np.sqrt(free))
        mask = data.mask[:, few] & (np.abs(residual) < _OUTLIER * noise * stated)
    filled = np.where(mask, data.ln_sci[:, few], data.ln_sci[:, few] - residual)
    gains = _gains_of_evidence(fit, filled, freedom)
    return replace(fit.priors, gain=gains.width, **_flat_widths(fit, filled.mean(axis=1))), noise, gains


def _flat_widths(fit: JointFit, data: np.ndarray) -> dict[str, float]:
    """Prior widths of the flat by rows, columns and spaxels, from the flat of the band's mean, `data` (data,)."""
    image = fit.flat(fit.solve(data[:, None])).reshape(fit.shape)
    known = np.isfinite(image)
    values = np.where(known, image - image[known].mean(), 0.0)
    rows = values.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    values = np.where(known, values - rows[:, None], 0.0)
    columns = values.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    spread = (values - columns)[known].std()
    found = {"row": rows[known.any(axis=1)].std(), "column": columns[known.any(axis=0)].std(), "spaxel": spread}
    return {name: float(np.clip(value, *_FLAT_WIDTHS)) for name, value in found.items()}


def _gains_of_evidence(fit: JointFit, data: np.ndarray, freedom: float) -> Gains:
    """The gains for which the data are most probable.

    Parameters
    ----------
    fit
        Made with a wide prior of the gains, weighted for the mean of the wavelengths.
    data
        (data, wavelength) ln(brightness).
    freedom
        Number of free data.
    """
    mean = data.mean(axis=1, keepdims=True)
    coefficients = fit.solve(np.hstack([mean, data - mean]))
    residual = (mean - fit.predict(coefficients[:, :1]))[fit.weight > 0, 0]
    gains, covariance = fit.gains(coefficients)
    eye, own = np.eye(gains.shape[0]), np.eye(gains.shape[0]) / fit.priors.gain**2
    scatter = np.sum(fit.weight[fit.weight > 0] * residual**2) / freedom
    # Where the scene leaves more than the noise, the gains are known less well; once more as much, since what it leaves
    # is alike in neighbouring spaxels.
    precision = (np.linalg.inv(covariance) - own) / max(scatter, 1.0) ** 2
    width, limits = float(_GAIN_WIDTHS[0]), []
    # A gain of all wavelengths looks like a gradient of the flat, which is one for all, too; gains that differ from
    # wavelength to wavelength do less so, but each has the noise of one wavelength.
    for found, known in ((gains[:, :1], precision), (gains[:, 1:], precision / data.shape[1])):
        pull = (known + own) @ found
        evidence = np.array([_evidence(known + eye / w**2, pull, w) for w in _GAIN_WIDTHS])
        limits.append(float(_GAIN_WIDTHS[evidence > evidence.max() - 1][-1]))
        if evidence.max() - evidence[0] > _CONVINCING_EVIDENCE:
            # The largest that is about as probable as the best: too wide costs less than too narrow.
            width = max(width, limits[-1])
    posterior = np.linalg.inv(precision + eye / width**2)
    centre = eye - 1 / len(eye)
    band = centre @ posterior @ (precision + own) @ gains[:, 0]
    return Gains(width, max(width, limits[0]), band, np.sqrt(np.diag(centre @ posterior @ centre)))


def _evidence(precision: np.ndarray, pull: np.ndarray, width: float) -> float:
    """ln of the probability of the data, but for a constant, summed over the columns of `pull`."""
    explained = 0.5 * np.sum(pull * np.linalg.solve(precision, pull))
    return float(explained - pull.shape[1] * (0.5 * np.linalg.slogdet(precision)[1] + len(precision) * np.log(width)))
