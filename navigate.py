"""Navigate a cube: where on the planet each spaxel looks, as backplanes added to the file.

In: a `*_s3d.fits` cube. Out: the same cube with one image extension per backplane (`PLANES`), its WCS corrected for a
pointing offset where one is given or fitted. SCI, ERR and DQ stay as they are, bit for bit.

Method: RA and Dec of the spaxels from the cube's own WCS; states and orientation of the target at the time of the
observation from SPICE, asked once (`observation_geometry`); the geometry of all spaxels at once in NumPy
(`body_geometry`). The names are those of King et al. 2023 (RNAAS 7, 223), the conventions PlanetMapper's (King &
Fletcher 2023, JOSS 8, 5728).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from command_line import ArgumentParser, run_command
from cubes import Cube, read_cube, sky_coordinates, spaxel_scale, write_cube
from errors import InputError

if TYPE_CHECKING:
    from body_geometry import ObservationGeometry
    from cube_observation import CubeObservation
    from observation_geometry import State
    from pointing_fit import PointingFit

STEP = "navigate"

# Name of each plane: unit and what it is. {direction} is where longitude counts, {target} the body.
PLANES = {
    "RA": ("deg", "Right ascension (ICRF) of the spaxel's centre, [0, 360)."),
    "DEC": ("deg", "Declination (ICRF) of the spaxel's centre."),
    "LAT": ("deg", "Planetocentric latitude of the point seen on {target}; NaN off the disc."),
    "LON": ("deg", "Planetocentric longitude, positive WEST, [0, 360); NaN off the disc."),
    "LAT_GRAPHIC": ("deg", "Planetographic latitude; NaN off the disc."),
    "LON_GRAPHIC": ("deg", "Planetographic longitude, positive {direction}, [0, 360); NaN off the disc."),
    "PHASE": ("deg", "Phase angle Sun - surface point - JWST; NaN off the disc."),
    "INCIDENCE": ("deg", "Incidence angle of sunlight; NaN off the disc."),
    "EMISSION": ("deg", "Emission angle; NaN off the disc."),
    "AZIMUTH": (
        "deg",
        "Azimuth between Sun and JWST seen from the surface point, 180 = Sun behind JWST; NaN off the disc.",
    ),
    "LOCALTIME": ("h", "Local solar time of the surface point when its light left, 12 = noon; NaN off the disc."),
    "DISTANCE": ("km", "Distance from JWST to the surface point; NaN off the disc."),
    "PIXEL_SCALE": ("km", "Side of a spaxel at the surface point, across the line of sight; NaN off the disc."),
    "LAT_LIMB": (
        "deg",
        "Planetographic latitude on the ellipsoid below the ray's point nearest to the centre of {target}.",
    ),
    "LON_LIMB": ("deg", "Planetographic longitude of that point, positive {direction}, [0, 360)."),
    "DISTANCE_LIMB": (
        "km",
        "Distance of the ray's point nearest to the centre from the ellipsoid below, negative inside.",
    ),
    "DISTANCE_RINGS": (
        "km",
        "Distance from the centre of {target} in its equatorial plane; NaN where the body hides it.",
    ),
    "LON_RINGS": ("deg", "Planetographic longitude in the equatorial plane, positive {direction}; NaN where hidden."),
    "RADIAL_VELOCITY": ("km/s", "Velocity of the surface point relative to JWST along the line of sight, + receding."),
    "DOPPLER": (
        "",
        "sqrt((1 + b)/(1 - b)), b = RADIAL_VELOCITY/c: wavelength seen by JWST = rest wavelength * DOPPLER.",
    ),
    "DOPPLER_BARY": ("", "DOPPLER/(1 + VELOSYS/c): rest wavelength = wavelength of this cube / DOPPLER_BARY."),
}

_HEADER_KEYS = ("NAVTARG", "NAVTIME", "NAVKERN", "NAV_SRA", "NAV_SDEC", "NAV_RHO")


def navigate_file(
    path_in: str | Path,
    path_out: str | Path,
    *,
    ra_offset: float = 0.0,
    dec_offset: float = 0.0,
    basic_navigation: bool = False,
    fit_pointing: bool = False,
    pointing: str | Path | None = None,
    kernel_path: str | Path | None = None,
    target: str | None = None,
) -> dict[str, Any]:
    """Add backplanes to a cube.

    Parameters
    ----------
    path_in, path_out
        The cube to read and the one to write; they may be the same.
    ra_offset, dec_offset
        By how much the WCS of the header reads too high [arcsec on the sky]; subtracted from it. They count from the
        original WCS: what an earlier navigation of the file applied is undone first.
    basic_navigation
        RA and DEC planes only; needs no kernels.
    fit_pointing
        Find the disc in the cube, after the offsets given, and take off what is found (`pointing_fit`).
    pointing
        Table with what the cubes of the visit show together (`visit_pointing`), to take off after the offsets given.
    kernel_path
        Folder of SPICE kernels, see `spice_kernels.kernel_directory`.
    target
        SPICE name of the body, instead of that in the header.

    Returns
    -------
    dict
        'notes' and 'warnings' (lists of sentences); 'ra_offset', 'dec_offset' [arcsec] in all; unless basic, also
        'target', 'utc', 'kernels', 'target_ra', 'target_dec' [deg]; with a fit or a visit's
        pointing also 'fit' (`pointing_fit.PointingFit.facts`).

    Raises
    ------
    FileFormatError
        If the cube cannot be read or has no time.
    KernelError
        If a kernel is missing or does not cover the date.
    InputError
        If the target is no body that SPICE knows, or the options contradict one another.
    """
    if basic_navigation and fit_pointing:
        raise InputError(
            "--basic_navigation uses no kernels and so cannot be combined with --fit_pointing: leave one out."
        )
    if pointing is not None and (fit_pointing or basic_navigation):
        other = "--fit_pointing" if fit_pointing else "--basic_navigation"
        raise InputError(f"--pointing {pointing} cannot be combined with {other}: leave one out.")
    cube = read_cube(path_in)
    facts: dict[str, Any] = {"notes": [], "warnings": []}
    _start_afresh(cube, ra_offset, dec_offset, facts)
    if basic_navigation:
        planes = _sky_planes(cube)
    else:
        planes = _all_planes(cube, fit_pointing, pointing, kernel_path, target, facts)
    words = {"target": facts.get("target", ""), "direction": facts.get("longitude_direction", "")}
    for name, plane in planes.items():
        unit, comment = PLANES[name]
        cube.set_extension(name, plane, unit, comment.format(**words))
    parameters = {
        "ra_offset": facts["ra_offset"],
        "dec_offset": facts["dec_offset"],
        "basic_navigation": basic_navigation,
        "fit_pointing": fit_pointing or pointing is not None,
        "target": facts.get("target"),
    }
    cube.add_note(STEP, "Navigated (RA and DEC only)" if basic_navigation else "Navigated", parameters)
    write_cube(cube, path_out)
    return facts


def _start_afresh(cube: Cube, ra_offset: float, dec_offset: float, facts: dict[str, Any]) -> None:
    # What an earlier navigation left: planes for another pointing must not survive beside new ones.
    from cube_pointing import applied_offset

    earlier = applied_offset(cube)
    if any(earlier):
        facts["notes"].append(
            f"an earlier navigation had taken {earlier[0]:+.3f}, {earlier[1]:+.3f} arcsec (RA, Dec) off the WCS: "
            "undone first"
        )
    for name in PLANES:
        while name in cube.hdul:
            del cube.hdul[name]
    for key in _HEADER_KEYS:
        cube.header.remove(key, ignore_missing=True)
    _apply_offset(cube, ra_offset, dec_offset, facts)


def _apply_offset(cube: Cube, ra_offset: float, dec_offset: float, facts: dict[str, Any]) -> None:
    from cube_pointing import set_offset

    facts["ra_offset"], facts["dec_offset"] = ra_offset, dec_offset
    if not set_offset(cube, ra_offset, dec_offset):
        facts["warnings"].append("the WCS object in the ASDF extension could not be shifted: read the header's WCS")


def _sky_planes(cube: Cube) -> dict[str, np.ndarray]:
    ra, dec = sky_coordinates(cube.sci_header)
    return {"RA": ra, "DEC": dec}


def cube_geometry(
    cube: Cube, *, kernel_path: str | Path | None = None, target: str | None = None
) -> "ObservationGeometry":
    """Geometry of the observation that a cube is of, as its backplanes are made from.

    Parameters
    ----------
    cube
        Navigated or not; where it is, the body of its backplanes is taken.
    kernel_path, target
        As in `navigate_file`.

    Raises
    ------
    FileFormatError, KernelError, InputError
        As in `navigate_file`.
    """
    return _geometry(cube, kernel_path, target or cube.header.get("NAVTARG"))[0]


def check_kernels(path: str | Path, *, kernel_path: str | Path | None = None, target: str | None = None) -> list[str]:
    """Make sure that an exposure's cubes can be navigated, before they are made: from its start to its end.

    Parameters
    ----------
    path
        The exposure at any stage: only headers are read.
    kernel_path, target
        As in `navigate_file`.

    Returns
    -------
    list of str
        What `navigate_file` would warn of.

    Raises
    ------
    FileFormatError, KernelError, InputError
        As in `navigate_file`.
    """
    from cube_observation import exposure_bounds
    from observation_geometry import ephemeris_time, observation_geometry
    from spice_kernels import kernels_loaded

    with fits.open(path) as hdul, kernels_loaded(kernel_path):
        cube = Cube(Path(path), hdul)
        geometry, observation, found = _geometry(cube, kernel_path, target)
        for utc in exposure_bounds(cube):
            state = _observer_state(observation, utc, _observer_source(observation, utc))
            observation_geometry(geometry.naif_id, ephemeris_time(utc), state, kernel_path)
    return found["warnings"]


def _all_planes(
    cube: Cube,
    fit_pointing: bool,
    pointing: str | Path | None,
    kernel_path: str | Path | None,
    target: str | None,
    facts: dict[str, Any],
) -> dict[str, np.ndarray]:
    from body_geometry import backplanes

    geometry, observation, found = _geometry(cube, kernel_path, target)
    facts["warnings"] += found.pop("warnings")
    facts |= found
    _write_header(cube, facts, len(observation.exposures_utc))
    if fit_pointing:
        from pointing_fit import fit_cube_pointing

        _correct(cube, fit_cube_pointing(cube, geometry), facts)
    elif pointing is not None:
        from visit_pointing import read_visit_pointing

        _correct(cube, read_visit_pointing(pointing), facts)
    sky = _sky_planes(cube)
    planes = backplanes(sky["RA"], sky["DEC"], geometry, observation.velosys)
    planes["PIXEL_SCALE"] = planes["DISTANCE"] * np.radians(spaxel_scale(cube.sci_header) / 3600)
    _warn_if_elsewhere(planes, geometry, facts)
    return {name: planes[name] for name in PLANES}


def _geometry(
    cube: Cube, kernel_path: str | Path | None, target: str | None
) -> tuple["ObservationGeometry", "CubeObservation", dict[str, Any]]:
    # SPICE takes 0.2 s to import: only where it is used.
    from cube_observation import aligned_position, read_observation
    from observation_geometry import apparent_radec, ephemeris_time, observation_geometry
    from spice_kernels import kernels_loaded

    observation = read_observation(cube)
    with kernels_loaded(kernel_path):
        name, warnings = _target(observation.target_names, target, cube.path)
        kind = _observer_source(observation, observation.utc)
        if kind == "header":
            warnings.append(
                f"no kernel covers JWST on {observation.utc[:10]}: its position is the header's (JWST_X ...)"
            )
        elif kind == "predicted":
            warnings.append("JWST's position is a prediction: download jwst_rec.bsp, the reconstructed trajectory")
        state = _observer_state(observation, observation.utc, kind)
        geometry = observation_geometry(name, ephemeris_time(observation.utc), state, kernel_path)
        if observation.aligned:
            positions = [
                apparent_radec(geometry.naif_id, ephemeris_time(utc), _observer_state(observation, utc, kind)[0])
                for utc in observation.exposures_utc
            ]
            geometry = geometry.moved_to(*aligned_position(positions, cube.sci_header["CRVAL1"]))
        elif len(observation.exposures_utc) > 1:
            warnings.append(
                "the exposures in this cube were not aligned on the moving target: navigated at their mean time"
            )
    ra, dec = geometry.target_radec
    found = {"target": geometry.target, "utc": observation.utc, "kernels": kind, "target_ra": ra, "target_dec": dec}
    found["longitude_direction"] = "EAST" if geometry.graphic_sign > 0 else "WEST"
    return geometry, observation, found | {"warnings": warnings}


def _observer_source(observation: "CubeObservation", utc: str) -> str | None:
    """Where JWST's state is from: a 'reconstructed' or 'predicted' trajectory, else the 'header', None without any."""
    from observation_geometry import ephemeris_time
    from spice_kernels import jwst_kernel_kind

    kind = jwst_kernel_kind(ephemeris_time(utc))
    return "header" if kind is None and observation.header_state is not None else kind


def _observer_state(observation: "CubeObservation", utc: str, source: str | None) -> "State":
    from observation_geometry import ephemeris_time, observer_state

    return observation.header_state(utc) if source == "header" else observer_state("JWST", ephemeris_time(utc))


def _write_header(cube: Cube, facts: dict[str, Any], number: int) -> None:
    meaning = "mid-exposure" if number == 1 else f"mean of {number} mid-exposures"
    cube.header["NAVTARG"] = (facts["target"], "body the backplanes are of")
    cube.header["NAVTIME"] = (facts["utc"], f"UTC, {meaning}")
    cube.header["NAVKERN"] = (facts["kernels"], "JWST position: reconstructed|predicted|header")


def _target(names: tuple[str, ...], target: str | None, path: Path) -> tuple[str, list[str]]:
    from observation_geometry import body_from_name

    if target is not None:
        return body_from_name(target)[0], []
    found = {}
    for name in names:
        try:
            found[name] = body_from_name(name)[0]
        except InputError:
            continue
    if not found:
        value = ", ".join(f"'{name}'" for name in names) or "none"
        raise InputError(
            f"the target in the header of {path} ({value}) is no body that SPICE knows: name one with --target, as in "
            "--target saturn."
        )
    first = next(iter(found.values()))
    if len(set(found.values())) == 1:
        return first, []
    return first, [f"TARGPROP and TARGNAME name two bodies ({', '.join(found)}): taken is {first}; --target decides"]


def _warn_if_elsewhere(planes: dict[str, np.ndarray], geometry: "ObservationGeometry", facts: dict[str, Any]) -> None:
    target_ra, target_dec = geometry.target_radec
    d_ra = ((planes["RA"] - target_ra + 180) % 360 - 180) * np.cos(np.radians(target_dec))
    d_dec = planes["DEC"] - target_dec
    nearest = float(np.min(np.hypot(d_ra, d_dec))) * 3600
    if nearest > 5 * geometry.angular_radius + 30:
        facts["warnings"].append(
            f"the field lies {nearest:.0f} arcsec from {geometry.target}: if that is not so on the sky, the target, "
            "the time or the kernels are wrong (--target names another body)"
        )


def _correct(cube: Cube, fit: "PointingFit", facts: dict[str, Any]) -> None:
    facts["fit"] = fit.facts
    if not fit.significant:
        facts["warnings"].append(f"pointing not fitted, no offset applied: {fit.reason}")
        return
    if fit.reason:
        facts["warnings"].append(f"pointing fit: {fit.reason}")
    facts["notes"].append(
        f"pointing fit: WCS read too high by {fit.ra_offset:+.4f} +- {fit.ra_error:.4f} arcsec in RA, "
        f"{fit.dec_offset:+.4f} +- {fit.dec_error:.4f} arcsec in Dec; corrected"
    )
    cube.header["NAV_SRA"] = (round(fit.ra_error, 6), "[arcsec] 1-sigma error of the fitted RA")
    cube.header["NAV_SDEC"] = (round(fit.dec_error, 6), "[arcsec] 1-sigma error of the fitted Dec")
    cube.header["NAV_RHO"] = (round(fit.correlation, 6), "correlation of these errors")
    _apply_offset(cube, facts["ra_offset"] + fit.ra_offset, facts["dec_offset"] + fit.dec_offset, facts)


def _command(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = ArgumentParser(
        prog="navigate.py", description="Add backplanes (where on the planet each spaxel looks) to a cube."
    )
    parser.add_argument("path_in", metavar="IN", help="cube to read (*_s3d.fits)")
    parser.add_argument("path_out", metavar="OUT", help="cube to write")
    parser.add_flag(
        "ra_offset", type=float, default=0.0, help="by how much RA in the header reads too high [arcsec on the sky]"
    )
    parser.add_flag("dec_offset", type=float, default=0.0, help="by how much Dec in the header reads too high [arcsec]")
    parser.add_flag("basic_navigation", action="store_true", help="RA and DEC planes only, without kernels")
    parser.add_flag("fit_pointing", action="store_true", help="find the disc in the cube and correct the pointing")
    parser.add_flag("pointing", default=None, help="table of visit_pointing.py, whose offset is corrected")
    parser.add_flag("kernel_path", default=None, help="folder of SPICE kernels, instead of PLANETMAPPER_KERNEL_PATH")
    parser.add_flag("target", default=None, help="name of the body, instead of that in the header")
    return navigate_file(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python navigate.py IN OUT [options]`; returns its exit status."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
