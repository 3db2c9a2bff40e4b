"""Correct a cube of a planet's disc for the darkening that the telescope's PSF brings to the limb.

In: a `*_s3d.fits` cube, navigated (the pointing is that of its WCS). Out: the same cube with SCI and ERR divided by the
share of its light that each spaxel has left, off-disc spaxels NaN, and the extensions PSF_FORWARD_MODEL, PSF_MODEL_CUBE
and PSF_FWHM_ARCSEC.

Method (King et al. 2023, RNAAS 7, 223; `psf_model`): the illuminated disc D, 1 inside and 0 outside or a Minnaert law
mu0^k mu^(k-1) (Minnaert 1941, ApJ 93, 403), on a grid at least 5 times finer than the spaxels and 150 pixels across the
disc; its convolution with a Gaussian G of the instrument's FWHM at each wavelength, sampled at the spaxels' centres.
The divisor is (G * D) / D: with a Minnaert law the planet's own limb darkening stays.

The divisor has no noise, so that a voxel keeps its signal-to-noise ratio: ERR is by how much the corrected value would
scatter if the observation were repeated. It has no share of what the model does not know: belts and spots stay as
blurred as they were, and pointing and FWHM are taken as they are.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from command_line import ArgumentParser, run_command
from cubes import DQ, Cube, celestial_wcs, read_cube, spaxel_scale, write_cube
from errors import InputError, OptionError
from psf_model import ForwardModel, blurred_disc, disc_brightness, sharp_disc
from psf_model import psf_fwhm as instrument_psf_fwhm

if TYPE_CHECKING:
    from body_geometry import ObservationGeometry

STEP = "psf"


def correct_cube(
    sci: np.ndarray, err: np.ndarray, divisor: np.ndarray, floor: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide values and errors.

    Parameters
    ----------
    sci, err
        (wavelength, y, x), NaN where bad.
    divisor
        Same shape; NaN off the disc.
    floor
        Where the divisor is less, too little of the light is the spaxel's own.

    Returns
    -------
    sci, err
        Corrected, NaN off the disc and below the floor.
    below
        bool, on the disc but below the floor.
    """
    with np.errstate(invalid="ignore"):
        below = divisor < floor
    usable = np.where(below, np.nan, divisor)
    return sci / usable, err / usable, below


def psf_correct_file(
    path_in: str | Path,
    path_out: str | Path,
    *,
    floor: float = 0.1,
    minnaert_exponent: float | None = None,
    psf_fwhm: float | None = None,
    least_oversampling: int = 5,
    least_diameter: int = 150,
    border: float = 10.0,
    kernel_path: str | Path | None = None,
    target: str | None = None,
) -> dict[str, Any]:
    """Correct a cube for the PSF's darkening of the limb.

    Parameters
    ----------
    path_in, path_out
        The cube to read and the one to write; they may be the same.
    floor
        Least divisor; voxels with less are made bad.
    minnaert_exponent
        k of a Minnaert law for the sharp disc; None for a flat one.
    psf_fwhm
        FWHM of the PSF at all wavelengths [arcsec], instead of the instrument's (`psf_model.psf_fwhm`).
    least_oversampling, least_diameter, border
        As in `psf_model.sharp_disc`.
    kernel_path, target
        As in `navigate.navigate_file`.

    Returns
    -------
    dict
        'notes' and 'warnings' (lists of sentences); 'corrected' (bool); where True, 'oversampling' and 'below_floor'
        (number of voxels).

    Raises
    ------
    FileFormatError, KernelError, InputError
        As in `navigate.navigate_file`; also if the cube has been corrected before.
    OptionError
        If an option makes no sense.
    """
    from navigate import cube_geometry

    _check_options(floor, psf_fwhm, least_oversampling, least_diameter, border)
    cube = read_cube(path_in)
    if "PSF_MODEL_CUBE" in cube.hdul:
        raise InputError(f"{cube.path} is corrected for the PSF already: give the cube from before that.")
    facts: dict[str, Any] = {"notes": [], "warnings": [], "corrected": False}
    if "NAVTARG" not in cube.header:
        facts["warnings"].append("the cube is not navigated: the pointing is taken from its WCS as it is")
    geometry = cube_geometry(cube, kernel_path=kernel_path, target=target)
    options = {"least_oversampling": least_oversampling, "least_diameter": least_diameter, "border": border}
    parameters = {"floor": floor, "minnaert_exponent": minnaert_exponent, "psf_fwhm": psf_fwhm or "instrument"}
    parameters |= options
    brightness = disc_brightness(geometry, cube.sci_header, minnaert_exponent)
    rows, columns = np.indices(cube.shape[1:])
    own = brightness(columns, rows)
    reason = _why_not(cube, geometry, own)
    if reason:
        facts["notes"].append(f"not corrected for the PSF: {reason}")
        cube.add_note(STEP, "PSF correction passed over", parameters)
        write_cube(cube, path_out)
        return facts
    scale = spaxel_scale(cube.sci_header)
    x, y = celestial_wcs(cube.sci_header).all_world2pix(*geometry.target_radec, 0)
    model = sharp_disc(brightness, (float(x), float(y)), geometry.angular_radius / scale, cube.shape[1:], **options)
    arcsec = _fwhm_arcsec(cube, psf_fwhm)
    if 2 * geometry.angular_radius < np.max(arcsec):
        facts["warnings"].append(
            f"{geometry.target} is smaller than the PSF: the correction is large, and as uncertain as pointing and FWHM"
        )
    divisor = blurred_disc(model, arcsec / scale, cube.shape[1:])
    divisor /= np.where(own > 0, own, np.nan).astype(np.float32)
    below_floor = _apply(cube, divisor, floor)
    _add_extensions(cube, model, divisor, arcsec)
    facts |= {"corrected": True, "oversampling": model.oversampling, "below_floor": below_floor}
    facts["notes"].append(
        f"{int((own > 0).sum())} spaxels on the disc divided by the PSF's share of their light; "
        f"{below_floor} voxels below the floor of {floor}"
    )
    cube.add_note(STEP, "PSF corrected", parameters | {"oversampling": model.oversampling})
    write_cube(cube, path_out)
    return facts


def _check_options(
    floor: float, fwhm: float | None, least_oversampling: int, least_diameter: int, border: float
) -> None:
    if not 0 < floor < 1:
        raise OptionError(f"floor ({floor}) must lie between 0 and 1.")
    if least_oversampling < 1 or least_diameter < 1 or border < 0 or (fwhm is not None and fwhm <= 0):
        raise OptionError(
            f"least_oversampling ({least_oversampling}), least_diameter ({least_diameter}) and psf_fwhm ({fwhm}) must "
            f"be positive, the border ({border}) not negative."
        )


def _why_not(cube: Cube, geometry: "ObservationGeometry", own: np.ndarray) -> str | None:
    diameter, scale = 2 * geometry.angular_radius, spaxel_scale(cube.sci_header)
    if diameter < scale:
        return f"{geometry.target} ({diameter:.3f} arcsec) is smaller than a spaxel ({scale:.3f} arcsec)"
    if not own.any():
        return f"no spaxel lies on the lit disc of {geometry.target}"
    return None


def _fwhm_arcsec(cube: Cube, fwhm: float | None) -> np.ndarray:
    if fwhm is not None:
        return np.full(cube.shape[0], float(fwhm))
    return instrument_psf_fwhm(cube.wavelength, cube.header.get("INSTRUME", ""))


def _apply(cube: Cube, divisor: np.ndarray, floor: float) -> int:
    good, valued = cube.good, ~np.isnan(cube.sci)
    cube.sci[:], cube.err[:], below = correct_cube(cube.sci, cube.err, divisor, floor)
    cube.mark_bad(valued & np.isnan(divisor), DQ.NON_SCIENCE)
    cube.mark_bad(valued & below, DQ.DO_NOT_USE)
    return int((good & below).sum())


def _add_extensions(cube: Cube, model: ForwardModel, divisor: np.ndarray, arcsec: np.ndarray) -> None:
    cube.set_extension(
        "PSF_FORWARD_MODEL", model.image.astype(np.float32), "", "Sharp image of the illuminated disc, on a finer grid."
    )
    header = cube.hdul["PSF_FORWARD_MODEL"].header
    header["OVERSAMP"] = (model.oversampling, "pixels per spaxel")
    wcs = celestial_wcs(cube.sci_header)
    wcs.wcs.crpix = [
        (crpix - 1 - axis[0]) * model.oversampling + 1
        for crpix, axis in zip(wcs.wcs.crpix, (model.x, model.y), strict=True)
    ]
    wcs.wcs.cdelt = wcs.wcs.cdelt / model.oversampling
    header.update(wcs.to_header())
    cube.set_extension(
        "PSF_MODEL_CUBE",
        divisor,
        "",
        "What SCI and ERR were divided by: blurred disc over sharp disc; NaN off the disc.",
    )
    cube.set_extension(
        "PSF_FWHM_ARCSEC", np.asarray(arcsec, np.float64), "arcsec", "FWHM of the Gaussian PSF at each wavelength."
    )


def _command(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = ArgumentParser(
        prog="psf_correct.py", description="Correct a cube of a disc for the PSF's darkening of the limb."
    )
    parser.add_argument("path_in", metavar="IN", help="cube to read (*_s3d.fits)")
    parser.add_argument("path_out", metavar="OUT", help="cube to write")
    parser.add_flag("floor", type=float, default=0.1, help="least divisor; voxels with less are made bad")
    parser.add_flag(
        "minnaert_exponent", type=float, default=None, help="k of a Minnaert law for the disc, instead of a flat one"
    )
    parser.add_flag("psf_fwhm", type=float, default=None, help="FWHM of the PSF [arcsec], instead of the instrument's")
    parser.add_flag("least_oversampling", type=int, default=5, help="pixels of the model per spaxel, at least")
    parser.add_flag("least_diameter", type=int, default=150, help="pixels of the model across the disc, at least")
    parser.add_flag("border", type=float, default=10.0, help="spaxels around the cube from which light is counted")
    parser.add_flag("kernel_path", default=None, help="folder of SPICE kernels, instead of PLANETMAPPER_KERNEL_PATH")
    parser.add_flag("target", default=None, help="name of the body, instead of that in the header")
    return psf_correct_file(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python psf_correct.py IN OUT [options]`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
