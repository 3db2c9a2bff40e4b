"""Where points of a body are seen on the sky: the way back from `body_geometry`, in plain NumPy.

In: planetographic longitudes and latitudes, or body-fixed points, and an `ObservationGeometry`. Out: RA and Dec, and
whether the point is seen. Also the lines that make a picture of the body: limb, terminator, meridians and rings.
Follows PGRREC, EDLIMB and EDTERM of SPICE, and PlanetMapper (King & Fletcher 2023, JOSS 8, 5728) in its conventions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from body_geometry import (
    SPEED_OF_LIGHT,
    ObservationGeometry,
    backplanes,
    line_of_sight,
    sky_axes,
    surface_points,
)

_LIGHT_TIME_ROUNDS = 3
_LINE_POINTS = 181
# Edges and single rings that are seen in the infrared, distance from the centre [km]. Saturn: C, B and A, inner and
# outer edge (Cuzzi et al. 2018, ISBN 9781107113824, ch. 3); Uranus: epsilon; Neptune: Le Verrier, Adams (NSSDCA
# planetary ring fact sheets).
RINGS_KM = {
    "SATURN": (74658.0, 91975.0, 117507.0, 122340.0, 136780.0),
    "URANUS": (51149.0,),
    "NEPTUNE": (53200.0, 62933.0),
}


def body_points(longitude: np.ndarray, latitude: np.ndarray, geometry: ObservationGeometry) -> np.ndarray:
    """Body-fixed points (..., 3) [km] at planetographic longitudes and latitudes [deg] (PGRREC).

    Parameters
    ----------
    longitude
        In the body's own positive direction.
    latitude
        Planetographic. Both any one shape; NaN gives NaN.
    geometry
        The observation; its equatorial and polar radius make the spheroid.
    """
    east, latitude = np.broadcast_arrays(np.radians(geometry.graphic_sign * longitude), np.radians(latitude))
    equatorial, polar = geometry.radii[0], geometry.radii[2]
    parametric = np.arctan2(polar * np.sin(latitude), equatorial * np.cos(latitude))
    across = equatorial * np.cos(parametric)
    return np.stack([across * np.cos(east), across * np.sin(east), polar * np.sin(parametric)], axis=-1)


def sky_positions(body: np.ndarray, geometry: ObservationGeometry) -> tuple[np.ndarray, np.ndarray]:
    """RA in [0, 360) and Dec [deg] at which body-fixed points are seen, each by the light that left it in time.

    Parameters
    ----------
    body
        (..., 3) [km]; NaN gives NaN.
    geometry
        The observation.
    """
    delay = np.zeros(body.shape[:-1])
    for _ in range(_LIGHT_TIME_ROUNDS):
        offset = _from_body(body, delay, geometry) + delay[..., None] * geometry.target_velocity
        ray = geometry.centre + offset
        delay = geometry.light_time - np.linalg.norm(ray, axis=-1) / SPEED_OF_LIGHT
    ra = np.degrees(np.arctan2(ray[..., 1], ray[..., 0])) % 360
    return ra, np.degrees(np.arctan2(ray[..., 2], np.hypot(ray[..., 0], ray[..., 1])))


def is_facing(body: np.ndarray, geometry: ObservationGeometry) -> np.ndarray:
    """Whether the observer is above the horizon of surface points (..., 3): emission angle at most 90 deg."""
    normal = body / geometry.radii**2
    return np.sum(normal * (_observer(geometry) - body), axis=-1) >= 0


def emission_angle(body: np.ndarray, geometry: ObservationGeometry) -> np.ndarray:
    """Emission angle [deg] of surface points (..., 3) [km]; above 90 on the far side."""
    normal, ray = body / geometry.radii**2, _observer(geometry) - body
    cosine = np.sum(normal * ray, axis=-1) / np.linalg.norm(normal, axis=-1) / np.linalg.norm(ray, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def pole_angle(geometry: ObservationGeometry) -> float:
    """Position angle of the body's north pole [deg], from north through east."""
    _, east, north = sky_axes(*geometry.target_radec)
    pole = geometry.rotation[2]
    return float(np.degrees(np.arctan2(pole @ east, pole @ north)))


def sub_observer_point(geometry: ObservationGeometry) -> tuple[float, float]:
    """Planetographic longitude in [0, 360) and latitude [deg] of the point right below the observer.

    The surface point on the line to the body's centre ('INTERCEPT' of SUBPNT), as PlanetMapper gives it.
    """
    planes = backplanes(*geometry.target_radec, geometry)
    return float(planes["LON_GRAPHIC"]), float(planes["LAT_GRAPHIC"])


# --- lines ----------------------------------------------------------------------------------------------------------


def limb(geometry: ObservationGeometry) -> np.ndarray:
    """Body-fixed points (n, 3) [km] of the limb as the observer sees it, closed (EDLIMB)."""
    return _horizon(_observer(geometry), geometry.radii)


def terminator(geometry: ObservationGeometry) -> np.ndarray:
    """Body-fixed points (n, 3) [km] where the Sun's centre is on the horizon, NaN where they are not seen (EDTERM)."""
    sun = geometry.rotation @ (geometry.sun_position - geometry.target_position)
    return _seen(_horizon(sun, geometry.radii), geometry)


def meridian(longitude: float, geometry: ObservationGeometry) -> np.ndarray:
    """Body-fixed points (n, 3) [km] of a meridian [deg, planetographic] short of the poles, NaN where not seen."""
    return _seen(body_points(longitude, np.linspace(-80, 80, _LINE_POINTS), geometry), geometry)


def parallel(latitude: float, geometry: ObservationGeometry) -> np.ndarray:
    """Body-fixed points (n, 3) [km] of a parallel [deg, planetographic], NaN where they are not seen."""
    return _seen(body_points(np.linspace(0, 360, 2 * _LINE_POINTS - 1), latitude, geometry), geometry)


def ring(radius: float, geometry: ObservationGeometry) -> np.ndarray:
    """Body-fixed points (n, 3) [km] of a ring in the equatorial plane, NaN where the body hides it."""
    angle = np.radians(np.linspace(0, 360, 2 * _LINE_POINTS - 1))
    points = radius * np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)
    surface = surface_points(line_of_sight(*sky_positions(points, geometry)), geometry)
    distance = np.linalg.norm(_observer(geometry) - points, axis=-1)
    with np.errstate(invalid="ignore"):
        hidden = surface.distance < distance
    return np.where(hidden[:, None], np.nan, points)


def rings_of(geometry: ObservationGeometry) -> Sequence[float]:
    """Distances of the body's rings from its centre [km]; none for bodies without."""
    return RINGS_KM.get(geometry.target.upper(), ())


def _observer(geometry: ObservationGeometry) -> np.ndarray:
    # From the body's centre, body-fixed; the turn within the fraction of a second of light time does not show.
    return geometry.rotation @ -geometry.centre


def _seen(points: np.ndarray, geometry: ObservationGeometry) -> np.ndarray:
    return np.where(is_facing(points, geometry)[..., None], points, np.nan)


def _horizon(viewpoint: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Points of an ellipsoid's surface whose tangent plane goes through a viewpoint, body-fixed, closed.

    With u = p / radii and s = viewpoint / radii, the tangent plane in p goes through the viewpoint where u s = 1: a
    circle on the unit sphere about s.
    """
    scaled = viewpoint / radii
    distance = np.linalg.norm(scaled)
    axis = scaled / distance
    first = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    first = first / np.linalg.norm(first)
    angle = np.radians(np.linspace(0, 360, 2 * _LINE_POINTS - 1))[:, None]
    circle = np.cos(angle) * first + np.sin(angle) * np.cross(axis, first)
    return (axis / distance + np.sqrt(1 - distance**-2) * circle) * radii


def _from_body(vector: np.ndarray, delay: np.ndarray, geometry: ObservationGeometry) -> np.ndarray:
    # Body-fixed axes at emission to J2000: Rodrigues' rotation by the angle that the body turns in `delay`.
    rate = np.linalg.norm(geometry.angular_velocity)
    axis = geometry.angular_velocity / rate
    angle = (rate * delay)[..., None]
    along = (vector @ axis)[..., None] * axis
    turned = vector * np.cos(angle) + np.cross(axis, vector) * np.sin(angle) + along * (1 - np.cos(angle))
    return turned @ geometry.rotation
