"""What SPICE knows about an observation, asked once: states, orientation and shape of the target.

In: a body, a time and an observer; kernels must be loaded (`spice_kernels.kernels_loaded`). Out: `ObservationGeometry`.
Aberration correction is 'CN': converged one-way light time without stellar aberration.
"""

import re
from pathlib import Path

import numpy as np
import spiceypy as spice
from spiceypy.utils.exceptions import SpiceyError

from body_geometry import SPEED_OF_LIGHT, ObservationGeometry
from errors import InputError, KernelError
from spice_kernels import missing_kernel_error

SUN = 10
# Prograde, and yet counted positive east, for historical reasons (RECPGR).
_EAST_POSITIVE = (SUN, 301, 399)

State = tuple[np.ndarray, np.ndarray]


def body_from_name(name: str) -> tuple[str, int]:
    """SPICE's name and number of the body in a target name such as 'SATURN-RINGS', 'Jupiter_GRS' or 'TITAN'.

    Parameters
    ----------
    name
        The whole name is tried first, then its words from the left.

    Raises
    ------
    InputError
        If SPICE knows none of them.
    """
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name) if word and not word.isdigit()]
    for candidate in (" ".join(words), *words):
        try:
            number = spice.bodn2c(candidate)
        except (spice.NotFoundError, SpiceyError):
            continue
        return spice.bodc2n(number), number
    raise InputError(
        f"the target name '{name}' is no body that SPICE knows: name one with --target, as in --target saturn."
    )


def ephemeris_time(utc: str) -> float:
    """TDB seconds past J2000 of a UTC date such as '2022-11-13T10:00:00.123'.

    Raises
    ------
    KernelError
        If no leap-second kernel is loaded.
    InputError
        If the date cannot be read.
    """
    try:
        return spice.str2et(utc)
    except SpiceyError as error:
        if spice.ktotal("TEXT") == 0 or "DELTET" in str(error) or "LEAPSECONDS" in str(error):
            raise KernelError(
                "no leap-second kernel was found: download NAIF's naif0012.tls into the kernel folder."
            ) from error
        raise InputError(f"'{utc}' is no date: give UTC as in 2022-11-13T10:00:00.") from error


def observation_geometry(
    target: str | int,
    time: str | float,
    observer: str | int | State = "JWST",
    kernel_path: str | Path | None = None,
) -> ObservationGeometry:
    """Ask SPICE for all that the backplanes of one body at one time need.

    Parameters
    ----------
    target
        Name (see `body_from_name`) or NAIF number.
    time
        UTC as text, or TDB seconds past J2000.
    observer
        SPICE name or number, or (position, velocity) relative to the solar-system barycentre, J2000 [km, km/s].
    kernel_path
        The folder of the kernels, for messages only.

    Raises
    ------
    KernelError
        If a kernel is missing or does not cover the date.
    InputError
        If the target or the time cannot be understood.
    """
    name, number = body_from_name(target) if isinstance(target, str) else (spice.bodc2n(target), target)
    et = ephemeris_time(time) if isinstance(time, str) else float(time)
    position, velocity = observer if isinstance(observer, tuple) else observer_state(observer, et)
    try:
        return _geometry(name, number, et, np.asarray(position, float), np.asarray(velocity, float))
    except (SpiceyError, spice.NotFoundError) as error:
        raise missing_kernel_error(name, number, et, kernel_path, error) from error


def apparent_radec(target: int, et: float, observer_position: np.ndarray) -> tuple[float, float]:
    """Astrometric RA in [0, 360) and Dec [deg] of a body's centre ('CN'), as `observation_geometry` has them.

    Parameters
    ----------
    target
        NAIF number.
    et
        TDB seconds past J2000.
    observer_position
        Relative to the solar-system barycentre, J2000 [km].

    Raises
    ------
    KernelError
        If a kernel is missing or does not cover the date.
    """
    try:
        state, _ = _light_time_state(target, et, observer_position)
    except SpiceyError as error:
        raise missing_kernel_error(spice.bodc2n(target), target, et, None, error) from error
    _, ra, dec = spice.recrad(state[:3] - observer_position)
    return float(np.degrees(ra)), float(np.degrees(dec))


def observer_state(observer: str | int, et: float) -> State:
    """Position [km] and velocity [km/s] of an observer relative to the solar-system barycentre, J2000.

    Raises
    ------
    KernelError
        If the loaded kernels do not have it at `et`.
    """
    try:
        number = spice.bodn2c(observer) if isinstance(observer, str) else observer
        state, _ = spice.spkgeo(number, et, "J2000", 0)
    except (SpiceyError, spice.NotFoundError) as error:
        raise KernelError(
            f"no kernel gives the position of the observer {observer} on {spice.et2utc(et, 'ISOC', 0)} UTC: download "
            "jwst_rec.bsp (JWST) and de440s.bsp (Earth) from NAIF into the kernel folder."
        ) from error
    return state[:3], state[3:]


def _geometry(
    name: str, number: int, et: float, observer_position: np.ndarray, observer_velocity: np.ndarray
) -> ObservationGeometry:
    radii = spice.bodvcd(number, "RADII", 3)[1]
    meridian_rate = spice.bodvcd(number, "PM", 3)[1][1]
    state, light_time = _light_time_state(number, et, observer_position)
    emission = et - light_time
    before, after = (spice.spkgeo(number, emission + step, "J2000", 0)[0][3:] for step in (-0.5, 0.5))
    frame = spice.cidfrm(number)[1]
    rotation, angular_velocity = spice.xf2rav(spice.sxform("J2000", frame, emission))
    sun, _ = _light_time_state(SUN, emission, state[:3])
    apparent_sun, _ = spice.spkezp(SUN, emission, "J2000", "LT+S", number)
    return ObservationGeometry(
        target=name,
        naif_id=number,
        et=et,
        observer_position=observer_position,
        observer_velocity=observer_velocity,
        light_time=light_time,
        target_position=state[:3],
        target_velocity=state[3:],
        target_acceleration=after - before,
        rotation=rotation,
        # XF2RAV gives it along J2000 axes.
        angular_velocity=rotation @ angular_velocity,
        sun_position=sun[:3],
        sun_direction_lst=apparent_sun / np.linalg.norm(apparent_sun),
        radii=radii,
        graphic_sign=1 if meridian_rate < 0 or number in _EAST_POSITIVE else -1,
        retrograde=bool(meridian_rate < 0),
    )


def _light_time_state(body: int, et: float, position: np.ndarray) -> tuple[np.ndarray, float]:
    # State of a body relative to the barycentre when the light that arrives at `position` at `et` left it ('CN').
    light_time = 0.0
    for _ in range(6):
        state, _ = spice.spkgeo(body, et - light_time, "J2000", 0)
        light_time = float(np.linalg.norm(state[:3] - position)) / SPEED_OF_LIGHT
    return state, light_time
