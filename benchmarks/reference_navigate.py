"""Backplanes the plain way: SPICE asked anew for every line of sight.

Written from the definitions, not for speed; the tests hold `body_geometry.backplanes` against it and `benchmarks` tells
how much faster that is.
"""

import numpy as np
import spiceypy as spice

SPEED_OF_LIGHT = spice.clight()


def reference_backplanes(
    ra: np.ndarray, dec: np.ndarray, target: str, et: float, velosys: float = 0.0, observer="JWST"
):
    """Backplanes of each line of sight, by SINCPT, ILUMIN, ET2LST, SPKCPT and RECPGR.

    Parameters
    ----------
    ra, dec
        [deg], one shape.
    target
        SPICE name; its kernels and the observer's must be loaded.
    et
        TDB seconds past J2000 at the observer.
    velosys
        [m/s].
    observer
        SPICE name.

    Returns
    -------
    dict
        float64 arrays by plane. LOCALTIME is whole seconds / 3600, which is all that ET2LST gives.
    """
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    planes: dict[str, np.ndarray] = {}
    for index in np.ndindex(ra.shape):
        for name, value in _one_line_of_sight(ra[index], dec[index], target, et, velosys, observer).items():
            planes.setdefault(name, np.full(ra.shape, np.nan))[index] = value
    return planes


def _one_line_of_sight(
    ra: float, dec: float, target: str, et: float, velosys: float, observer: str
) -> dict[str, float]:
    direction = spice.radrec(1.0, np.radians(ra), np.radians(dec))
    planes = {"RA": ra, "DEC": dec}
    surface_distance = np.inf
    try:
        point, epoch, ray = spice.sincpt("ELLIPSOID", target, et, f"IAU_{target}", "CN", observer, "J2000", direction)
    except spice.NotFoundError:
        pass
    else:
        surface_distance = np.linalg.norm(ray)
        planes |= _surface_planes(point, epoch, target, et, velosys, observer)
    planes |= _limb_planes(direction, target, et, observer)
    planes |= _ring_planes(direction, surface_distance, target, et, observer)
    return planes


def _surface_planes(point, epoch, target, et, velosys, observer) -> dict[str, float]:
    frame = f"IAU_{target}"
    radii = spice.bodvrd(target, "RADII", 3)[1]
    flattening = (radii[0] - radii[2]) / radii[0]
    _, longitude, latitude = spice.reclat(point)
    graphic_longitude, graphic_latitude, _ = spice.recpgr(target, point, radii[0], flattening)
    _, ray, phase, incidence, emission = spice.ilumin("ELLIPSOID", target, et, frame, "CN", observer, point)
    sun, _ = spice.spkcpo("SUN", epoch, frame, "OBSERVER", "CN", point, target, frame)
    hour, minute, second, *_ = spice.et2lst(epoch, spice.bodn2c(target), longitude, "PLANETOCENTRIC")
    state, _ = spice.spkcpt(point, target, frame, et, "J2000", "OBSERVER", "CN", observer)
    radial_velocity = np.dot(state[3:], spice.vhat(state[:3]))
    beta = radial_velocity / SPEED_OF_LIGHT
    doppler = np.sqrt((1 + beta) / (1 - beta))
    return {
        "LAT": np.degrees(latitude),
        "LON": np.degrees(-longitude) % 360,
        "LAT_GRAPHIC": np.degrees(graphic_latitude),
        "LON_GRAPHIC": np.degrees(graphic_longitude) % 360,
        "PHASE": np.degrees(phase),
        "INCIDENCE": np.degrees(incidence),
        "EMISSION": np.degrees(emission),
        "AZIMUTH": 180 - np.degrees(_horizontal_angle(spice.surfnm(*radii, point), sun[:3], -ray)),
        "LOCALTIME": hour + minute / 60 + second / 3600,
        "DISTANCE": np.linalg.norm(ray),
        "RADIAL_VELOCITY": radial_velocity,
        "DOPPLER": doppler,
        "DOPPLER_BARY": doppler / (1 + velosys / 1000 / SPEED_OF_LIGHT),
    }


def _horizontal_angle(normal, first, second) -> float:
    return spice.vsep(spice.vperp(first, normal), spice.vperp(second, normal))


def _limb_planes(direction, target, et, observer) -> dict[str, float]:
    centre, light_time = spice.spkpos(target, et, "J2000", "CN", observer)
    nearest, _ = spice.nplnpt(np.zeros(3), direction, centre)
    to_body = spice.pxform("J2000", f"IAU_{target}", et - light_time)
    body = to_body @ (nearest - centre)
    radii = spice.bodvrd(target, "RADII", 3)[1]
    surface = spice.surfpt(np.zeros(3), body, *radii)
    longitude, latitude, _ = spice.recpgr(target, surface, radii[0], (radii[0] - radii[2]) / radii[0])
    return {
        "LAT_LIMB": np.degrees(latitude),
        "LON_LIMB": np.degrees(longitude),
        "DISTANCE_LIMB": np.linalg.norm(body) - np.linalg.norm(surface),
    }


def _ring_planes(direction, surface_distance, target, et, observer) -> dict[str, float]:
    frame = f"IAU_{target}"
    here = spice.spkgeo(spice.bodn2c(observer), et, "J2000", 0)[0][:3]
    distance = 0.0
    for _ in range(8):
        epoch = et - distance / SPEED_OF_LIGHT
        centre = spice.spkgeo(spice.bodn2c(target), epoch, "J2000", 0)[0][:3] - here
        to_body = spice.pxform("J2000", frame, epoch)
        pole = to_body[2]
        distance = np.dot(centre, pole) / np.dot(direction, pole)
        if distance <= 0:
            return {"DISTANCE_RINGS": np.nan, "LON_RINGS": np.nan}
    if distance > surface_distance:
        return {"DISTANCE_RINGS": np.nan, "LON_RINGS": np.nan}
    body = to_body @ (distance * direction - centre)
    radii = spice.bodvrd(target, "RADII", 3)[1]
    longitude, _, _ = spice.recpgr(target, body, radii[0], (radii[0] - radii[2]) / radii[0])
    return {"DISTANCE_RINGS": np.linalg.norm(body), "LON_RINGS": np.degrees(longitude) % 360}
