"""What a cube's headers tell about the observation: target, times, velocity and the spacecraft's own position.

Times are UTC. A cube of one exposure is taken at its mid-time, EXPMID [MJD]. In a cube made of several, `jwst` keeps
the mean of the EXPMIDs there and the single ones in the table HDRTAB.

What a combined cube's RA and Dec mean. For a moving target, `jwst.assign_mtwcs` shifts each exposure by the mean of
MT_RA, MT_DEC over all exposures minus its own, so that the target stays where it was on average: at the mean over the
exposures of its ephemeris positions. That differs from the position at the mean time when the motion is curved (0.1
arcsec for Io in an hour), and it holds whatever constant MT_RA and MT_DEC (the observatory's 'apparent' positions) are
off by. `aligned_position` is that mean; the geometry at the mean time is moved there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from astropy.io import fits

from cubes import Cube, values_from
from errors import FileFormatError

_MJD_ZERO = datetime(1858, 11, 17)
# The header's position and velocity are carried on in a straight line: JWST's acceleration, 6e-6 km/s^2, makes 120 km
# in the longest time allowed, 0.02 arcsec seen from Jupiter.
_LONGEST_EXTRAPOLATION_DAYS = 0.25


@dataclass(frozen=True)
class CubeObservation:
    """The observation that a cube is of.

    Attributes
    ----------
    target_names
        TARGPROP and TARGNAME, those that are there.
    utc
        Time of the cube, mid-exposure or the mean of several.
    exposures_utc
        Mid-time of each exposure in it.
    velosys
        Velocity by which `jwst` has shifted the wavelengths [m/s]; 0 without VELOSYS: then nothing was shifted.
    aligned
        Whether the exposures were aligned on a moving target.
    header_state
        Function of a UTC date that gives JWST's position [km] and velocity [km/s] relative to the solar-system
        barycentre from the header, or None where the header has none near the time of the cube.
    """

    target_names: tuple[str, ...]
    utc: str
    exposures_utc: tuple[str, ...]
    velosys: float
    aligned: bool
    header_state: Callable[[str], tuple[np.ndarray, np.ndarray]] | None


def read_observation(cube: Cube) -> CubeObservation:
    """Read the observation from a cube's headers.

    Raises
    ------
    FileFormatError
        If the headers have no time.
    """
    header, sci = cube.header, cube.sci_header
    with values_from(cube.path, "a wrong time, position or velocity in its header"):
        return _observation(cube, header, sci)


def exposure_bounds(cube: Cube) -> tuple[str, ...]:
    """Start and end of an exposure, UTC, those that its header tells.

    Raises
    ------
    FileFormatError
        If one is no time.
    """
    with values_from(cube.path, "a wrong time in its header"):
        times = [cube.header.get(key) for key in ("EXPSTART", "EXPEND")]
        return tuple(_utc(_from_mjd(time)) for time in times if isinstance(time, int | float))


def _observation(cube: Cube, header: fits.Header, sci: fits.Header) -> CubeObservation:
    mid = _mid_time(cube)
    exposures = _exposure_times(cube.hdul) or [mid]
    names = tuple(str(header[key]).strip() for key in ("TARGPROP", "TARGNAME") if str(header.get(key, "")).strip())
    return CubeObservation(
        target_names=names,
        utc=_utc(mid),
        exposures_utc=tuple(_utc(time) for time in exposures),
        velosys=float(sci.get("VELOSYS") or 0.0),
        aligned=len(exposures) > 1 and sci.get("MT_RA") is not None,
        header_state=_header_state(header, sci, mid),
    )


def _mid_time(cube: Cube) -> datetime:
    header = cube.header
    if isinstance(header.get("EXPMID"), int | float):
        return _from_mjd(header["EXPMID"])
    try:
        if header.get("DATE-AVG"):
            return _date(header["DATE-AVG"])
        begin, end = _date(header["DATE-BEG"]), _date(header["DATE-END"])
    except (KeyError, ValueError, TypeError) as error:
        raise FileFormatError(
            f"{cube.path} does not tell when it was observed (EXPMID, DATE-AVG, or DATE-BEG and DATE-END): "
            "use --basic_navigation, or a cube with its full header."
        ) from error
    return begin + (end - begin) / 2


def _date(text: str) -> datetime:
    return datetime.fromisoformat(str(text).strip()).replace(tzinfo=None)


def _from_mjd(days: float) -> datetime:
    return _MJD_ZERO + timedelta(days=float(days))


def _utc(time: datetime) -> str:
    return time.isoformat(timespec="microseconds")


def _exposure_times(hdul: fits.HDUList) -> list[datetime]:
    if "HDRTAB" not in hdul or "EXPMID" not in (hdul["HDRTAB"].columns.names or []):
        return []
    days = np.asarray(hdul["HDRTAB"].data["EXPMID"], float)
    return [_from_mjd(day) for day in days] if np.all(np.isfinite(days)) else []


def _header_state(
    header: fits.Header, sci: fits.Header, mid: datetime
) -> Callable[[str], tuple[np.ndarray, np.ndarray]] | None:
    # JWST_X ... are barycentric, REFFRAME 'EME2000' [km, km/s], at EPH_TIME [MJD, UTC] (stdatamodels' core schema).
    keys = ("JWST_X", "JWST_Y", "JWST_Z", "JWST_DX", "JWST_DY", "JWST_DZ", "EPH_TIME")
    values = [sci.get(key, header.get(key)) for key in keys]
    if not all(isinstance(value, int | float) for value in values):
        return None
    position, velocity = np.array(values[:3], float), np.array(values[3:6], float)
    epoch = _from_mjd(values[6])
    if abs(mid - epoch) > timedelta(days=_LONGEST_EXTRAPOLATION_DAYS):
        return None

    def state(utc: str) -> tuple[np.ndarray, np.ndarray]:
        return position + velocity * (_date(utc) - epoch).total_seconds(), velocity

    return state


def aligned_position(positions: list[tuple[float, float]], ra: float) -> tuple[float, float]:
    """Where the target is in a combined cube whose exposures were aligned on it.

    Parameters
    ----------
    positions
        RA, Dec [deg] of the target at the mid-time of each exposure; RA in [0, 360).
    ra
        RA [deg] of the cube's field.

    Returns
    -------
    tuple of float
        RA and Dec [deg]. `jwst` takes the plain mean of RAs, which for a target that crosses RA = 0 lies far off: of
        that and the mean around the circle, the one nearest to the field.
    """
    ras, decs = np.array(positions).T
    around = ras[0] + np.mean((ras - ras[0] + 180) % 360 - 180)
    nearest = min((around, np.mean(ras)), key=lambda mean: abs((mean - ra + 180) % 360 - 180))
    return float(nearest % 360), float(np.mean(decs))
