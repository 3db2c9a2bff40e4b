"""How much larger the error of a mean over many voxels is than that of independent voxels.

Cube building spreads each detector pixel over several voxels, so the errors of neighbouring voxels go together, and
ERR, which is right for one voxel, makes a mean over many look better than it is. For drizzled cubes (weights are the
overlaps of pixels and voxels: Law et al. 2023, AJ 166, 45) the factor has a closed form. In one dimension let pixels of
width p lie side by side, with independent errors s, and voxels of width v. A voxel's variance is s^2 <sum w^2> / v^2
with <sum w^2> = m^2 (M - m/3) / p, averaged over positions, m and M the smaller and the larger of p and v. A mean over
a long stretch L has the variance s^2 p / L, while L / v independent voxels would give s^2 <sum w^2> / (v L). The ratio,

    p^2 v / (m^2 (M - m/3)),

does not depend on the number of dithers. The three dimensions multiply.
"""

from pathlib import Path

import numpy as np
from astropy.io import fits

# Widths of the slices on the sky [arcsec]: MRS channels (Wells et al. 2015, PASP 127, 646), NIRSpec (Boeker et al.
# 2022, A&A 661, A82).
MRS_SLICE_WIDTHS = {"1": 0.177, "2": 0.280, "3": 0.390, "4": 0.656}
NIRSPEC_SLICE_WIDTH = 0.103
_MIDDLE_SLICE = 15


def box_covariance(pixel: float, voxel: float) -> float:
    """Variance of a mean over many voxels along one dimension, in units of what independent voxels would have.

    Parameters
    ----------
    pixel, voxel
        Widths in the same units.
    """
    small, large = min(pixel, voxel), max(pixel, voxel)
    return pixel**2 * voxel / (small**2 * (large - small / 3))


def add_covariance_factors(cube_path: Path, exposure_path: Path) -> None:
    """Write the factors for means over spaxels, COVSPAT, and over wavelengths, COVSPEC, to a cube's SCI header.

    Parameters
    ----------
    cube_path
        `*_s3d.fits`, drizzled; changed in place.
    exposure_path
        One of the `*_cal.fits` it was made of.
    """
    with fits.open(cube_path, mode="update", memmap=False) as hdul:
        header = hdul["SCI"].header
        first = header["CRVAL3"] + (1 - header["CRPIX3"]) * header["CDELT3"]
        last = first + (header["NAXIS3"] - 1) * header["CDELT3"]
        channel = str(hdul[0].header.get("CHANNEL", ""))
        along, spectral = _pixel_size(exposure_path, min(first, last), max(first, last))
        across = MRS_SLICE_WIDTHS.get(channel, NIRSPEC_SLICE_WIDTH)
        scale = 3600 * abs(header["CDELT1"]), 3600 * abs(header["CDELT2"])
        spatial = box_covariance(along, scale[0]) * box_covariance(across, scale[1])
        header["COVSPAT"] = (round(spatial**0.5, 3), "error of mean over many spaxels / independent")
        wavelength = box_covariance(spectral, abs(header["CDELT3"]))
        header["COVSPEC"] = (round(wavelength**0.5, 3), "error of mean over many planes / independent")


def _pixel_size(path: Path, shortest: float, longest: float) -> tuple[float, float]:
    """Width of a detector pixel along the slice [arcsec] and in wavelength [um], the median in a range."""
    from jwst.assign_wcs import nirspec
    from stdatamodels.jwst import datamodels

    with datamodels.open(path) as model:
        if model.meta.instrument.name == "NIRSPEC":
            wcs, dispersion = nirspec.nrs_wcs_set_input(model, _MIDDLE_SLICE), "x"
        else:
            wcs, dispersion = model.meta.wcs, "y"
        rows, columns = model.shape[-2:]
        y, x = np.mgrid[0 : rows - 1 : 7, 0 : columns - 1 : 7].astype(float)
        ra, dec, wavelength = wcs(x, y)
        right, above = wcs(x + 1, y), wcs(x, y + 1)
    spectral_step, spatial_step = (right, above) if dispersion == "x" else (above, right)
    inside = (wavelength > shortest) & (wavelength < longest)
    east = ((spatial_step[0] - ra + 180) % 360 - 180) * np.cos(np.radians(dec))
    along = 3600 * np.hypot(east, spatial_step[1] - dec)[inside]
    return float(np.nanmedian(along)), float(np.nanmedian(np.abs(spectral_step[2] - wavelength)[inside]))
