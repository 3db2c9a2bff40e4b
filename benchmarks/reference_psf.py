"""The disc through the PSF the plain way: a sum over the pixels of the model for each spaxel and wavelength.

The tests hold `psf_model.blurred_disc` against it, and `benchmarks` tells how much faster that is.
"""

import numpy as np


def reference_blurred_disc(model, fwhm, shape):
    """(wavelength, y, x) brightness of a `psf_model.ForwardModel` through Gaussians of `fwhm` [spaxels]."""
    x, y = np.meshgrid(model.x, model.y)
    out = np.empty((len(fwhm), *shape))
    for voxel in np.ndindex(out.shape):
        wavelength, row, column = voxel
        sigma = fwhm[wavelength] / np.sqrt(8 * np.log(2))
        psf = np.exp(-0.5 * ((x - column) ** 2 + (y - row) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
        out[voxel] = np.sum(psf * model.image) / model.oversampling**2
    return out
