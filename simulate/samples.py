"""What the pixels of a detector see: points on the sky and wavelengths over which each pixel integrates."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Samples:
    """Points that sample what each lit pixel sees, by Gauss-Legendre quadrature over pixel and slice width.

    Attributes
    ----------
    rows, columns
        The lit pixels, shape (n,).
    v2, v3
        Positions of the samples [arcsec], shape (m, n).
    wavelength
        At the telescope [um], shape (m, n).
    weights
        Share of each sample, shape (m,); they add up to one.
    coverage
        Share of the pixel that is lit at all, shape (n,) or one number.
    width
        Range of wavelengths over which a sample is the mean, as a range of ln(wavelength), shape (n,); None: none.
    """

    rows: np.ndarray
    columns: np.ndarray
    v2: np.ndarray
    v3: np.ndarray
    wavelength: np.ndarray
    weights: np.ndarray
    coverage: np.ndarray | float = 1.0
    width: np.ndarray | None = None
