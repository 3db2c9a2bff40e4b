"""Residual fringes the plain way: one call of the library for each spaxel.

Written from the definition, not for speed: the tests hold `defringe.defringe_cube` against it, and `benchmarks` tells
how much faster that is.
"""

import logging
import warnings

import numpy as np


def reference_defringe(
    sci: np.ndarray, wavelength: np.ndarray, channel: int, good: np.ndarray | None = None, **options
) -> tuple[np.ndarray, np.ndarray]:
    """Correct each spectrum with `jwst.residual_fringe.utils.fit_residual_fringes_1d`.

    Parameters
    ----------
    sci
        (wavelength, y, x)
    wavelength
        (wavelength,) [um].
    channel
        MRS channel, 1 to 4.
    good
        (wavelength, y, x), False for values that must not be used.
    options
        Keyword arguments of the library's function.

    Returns
    -------
    sci
        (wavelength, y, x) float64.
    failed
        (y, x) bool, where the library gave up with an exception; these spectra are as they were.
    """
    from BayesicFitting import ConvergenceError

    cannot_fit = (ConvergenceError, ValueError, RuntimeError, IndexError, ZeroDivisionError, np.linalg.LinAlgError)
    usable = np.isfinite(sci) & (True if good is None else good)
    out, failed = sci.astype(float), np.zeros(sci.shape[1:], dtype=bool)
    for y, x in np.ndindex(sci.shape[1:]):
        here = usable[:, y, x]
        try:
            corrected = reference_spectrum(np.where(here, sci[:, y, x], np.nan), wavelength, channel, **options)
        except cannot_fit:
            failed[y, x] = True
            continue
        out[here, y, x] = corrected[here]
    return out, failed


def reference_spectrum(flux: np.ndarray, wavelength: np.ndarray, channel: int, **options) -> np.ndarray:
    """Correct one spectrum (wavelength,), silently; whatever the library raises is passed on."""
    from jwst.residual_fringe.utils import fit_residual_fringes_1d

    logging.getLogger("jwst.residual_fringe.utils").setLevel(logging.ERROR)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return fit_residual_fringes_1d(flux.astype(float), wavelength, channel=channel, **options)
