"""Dividing by a flat, voxel by voxel, from the definition."""

import numpy as np

NO_FLAT_FIELD = 2**18


def plain_flat_field(
    sci: np.ndarray,
    err: np.ndarray,
    dq: np.ndarray,
    flat: np.ndarray,
    flat_err: np.ndarray,
    own_share: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SCI / F and the error of that, all (wavelength, y, x); flagged, and otherwise as before, where F is not known.

    `own_share`, (y, x): at most so much of the noise's variance is the covariance of noise and flat.
    """
    sci, err, dq = sci.astype(float), err.astype(float), dq.copy()
    share = np.zeros(sci.shape[1:]) if own_share is None else own_share
    for index in np.ndindex(sci.shape):
        f, df = float(flat[index]), float(flat_err[index])
        if not f > 0:
            dq[index] |= NO_FLAT_FIELD
            continue
        sci[index] /= f
        err[index] /= f
        if df > 0 and not np.isnan(sci[index]):
            noise, of_flat = err[index] ** 2, (sci[index] * df / f) ** 2
            err[index] = np.sqrt(noise + of_flat - 2 * min(of_flat, noise * share[index[1:]]))
    return sci, err, dq
