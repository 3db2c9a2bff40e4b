"""Geometry of an ellipsoidal body in every line of sight: the backplanes, in plain NumPy.

In: RA and Dec [deg, ICRF] of any shape, and an `ObservationGeometry`, which holds what SPICE was asked once. Out: one
array per backplane. Method, with c the speed of light and t the time at the observer:

1. The ray of each spaxel meets the body as it was when the light left the surface point, at t - |ray|/c (SPICE's 'CN';
   no stellar aberration, as cubes have it taken out already). Body and orientation are known at the light time of the
   centre; from there position goes on linearly and orientation turns evenly, for a fraction of a second. Four rounds
   converge to 1e-9 km.
2. The intersection is computed with the ellipsoid scaled to the unit sphere, from the ray's foot point: the
   well-conditioned form of the quadratic equation, as in SURFPT.
3. Angles are atan2 of cross and dot products, exact at 0 and 180 deg too.

Names, signs and conventions are PlanetMapper's (King & Fletcher 2023, JOSS 8, 5728); the SPICE routines followed are
SINCPT, ILUMIN, ET2LST, SPKCPT and RECPGR.
"""

from dataclasses import dataclass, replace

import numpy as np

SPEED_OF_LIGHT = 299792.458  # km/s
_LIGHT_TIME_ROUNDS = 4


@dataclass(frozen=True)
class ObservationGeometry:
    """States and orientation for one body at one time, all that the backplanes need.

    Vectors are J2000 (= ICRF) [km, km/s] relative to the solar-system barycentre unless said otherwise.

    Attributes
    ----------
    target, naif_id
        SPICE name and number of the body.
    et
        Time at the observer, TDB seconds past J2000.
    observer_position, observer_velocity
        State of the observer at `et`.
    light_time
        One-way light time from the body's centre [s].
    target_position, target_velocity, target_acceleration
        Motion of the body's centre at `et - light_time`; the acceleration [km/s^2] counts for moons.
    rotation
        (3, 3) matrix from J2000 to the body-fixed frame at `et - light_time`.
    angular_velocity
        Of the body-fixed frame at `et - light_time`, along its own axes [rad/s].
    sun_position
        The Sun as it was when its light left for the body.
    sun_direction_lst
        Direction of the Sun seen from the body's centre with stellar aberration ('LT+S'), by which ET2LST counts local
        time.
    radii
        Semi-axes of the ellipsoid [km].
    graphic_sign
        +1 where planetographic longitude is positive east, -1 where it is positive west.
    retrograde
        Whether the body turns westwards: there local time runs backwards in longitude.
    """

    target: str
    naif_id: int
    et: float
    observer_position: np.ndarray
    observer_velocity: np.ndarray
    light_time: float
    target_position: np.ndarray
    target_velocity: np.ndarray
    target_acceleration: np.ndarray
    rotation: np.ndarray
    angular_velocity: np.ndarray
    sun_position: np.ndarray
    sun_direction_lst: np.ndarray
    radii: np.ndarray
    graphic_sign: int
    retrograde: bool

    @property
    def centre(self) -> np.ndarray:
        """Apparent position of the body's centre relative to the observer, J2000 [km]."""
        return self.target_position - self.observer_position

    @property
    def target_radec(self) -> tuple[float, float]:
        """RA and Dec [deg] of the body's centre; RA in [0, 360)."""
        x, y, z = self.centre
        return float(np.degrees(np.arctan2(y, x)) % 360), float(np.degrees(np.arctan2(z, np.hypot(x, y))))

    @property
    def angular_radius(self) -> float:
        """Equatorial angular radius [arcsec]."""
        return float(np.degrees(np.arcsin(self.radii[0] / np.linalg.norm(self.centre))) * 3600)

    def moved_to(self, ra: float, dec: float) -> "ObservationGeometry":
        """The same view with the body's centre at another place on the sky, north up as before: for cubes aligned on
        the target.

        Parameters
        ----------
        ra, dec
            [deg].
        """
        turn = sky_axes(ra, dec).T @ sky_axes(*self.target_radec)
        names = ("observer_position", "target_position", "sun_position", "sun_direction_lst")
        names += ("observer_velocity", "target_velocity", "target_acceleration")
        vectors = {name: turn @ getattr(self, name) for name in names}
        return replace(self, rotation=self.rotation @ turn.T, **vectors)


@dataclass(frozen=True)
class RayPoints:
    """Where rays meet something, with the time at which that light left.

    Attributes
    ----------
    body
        (..., 3) body-fixed coordinates at emission [km]; NaN where there is nothing.
    distance
        (...) from the observer [km].
    delay
        (...) emission time minus that of the centre's light [s].
    """

    body: np.ndarray
    distance: np.ndarray
    delay: np.ndarray


def sky_axes(ra: float, dec: float) -> np.ndarray:
    """Rows: unit vectors towards RA, Dec [deg], and from there to east and north, J2000."""
    (sin_ra, sin_dec), (cos_ra, cos_dec) = np.sin(np.radians([ra, dec])), np.cos(np.radians([ra, dec]))
    return np.array(
        [
            [cos_dec * cos_ra, cos_dec * sin_ra, sin_dec],
            [-sin_ra, cos_ra, 0],
            [-sin_dec * cos_ra, -sin_dec * sin_ra, cos_dec],
        ]
    )


def line_of_sight(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Unit vectors (..., 3) towards RA, Dec [deg], J2000."""
    ra, dec = np.broadcast_arrays(np.radians(ra), np.radians(dec))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def backplanes(
    ra: np.ndarray, dec: np.ndarray, geometry: ObservationGeometry, velosys: float = 0.0
) -> dict[str, np.ndarray]:
    """All backplanes for lines of sight.

    Parameters
    ----------
    ra, dec
        [deg], ICRF, any one shape; NaN gives NaN.
    geometry
        The observation.
    velosys
        VELOSYS of the cube [m/s], for DOPPLER_BARY.

    Returns
    -------
    dict
        float64 arrays of the shape of `ra`, by name; `navigate.PLANES` says what each is. The surface planes are
        NaN off the disc, the ring planes where the body hides the ring plane or the ray never meets it.

    Notes
    -----
    The `jwst` package multiplies the wavelength that the instrument saw by 1 / (1 + VELOSYS/c)
    (`jwst.assign_wcs.util.velocity_correction`), so lambda_rest = lambda_cube / DOPPLER_BARY with
    DOPPLER_BARY = DOPPLER / (1 + VELOSYS/c).
    """
    ra, dec = np.broadcast_arrays(np.asarray(ra, float), np.asarray(dec, float))
    direction = line_of_sight(ra, dec)
    surface = surface_points(direction, geometry)
    planes = {"RA": ra % 360, "DEC": dec.copy()}
    planes |= _surface_coordinates(surface.body, geometry)
    planes |= _illumination(surface, direction, geometry)
    planes["LOCALTIME"] = _local_time(surface, geometry)
    planes["DISTANCE"] = surface.distance
    planes |= _limb(direction, geometry)
    planes |= _rings(direction, surface.distance, geometry)
    planes["RADIAL_VELOCITY"] = _radial_velocity(surface, direction, geometry)
    beta = planes["RADIAL_VELOCITY"] / SPEED_OF_LIGHT
    planes["DOPPLER"] = np.sqrt((1 + beta) / (1 - beta))
    planes["DOPPLER_BARY"] = planes["DOPPLER"] / (1 + velosys / (1000 * SPEED_OF_LIGHT))
    return planes


def surface_points(direction: np.ndarray, geometry: ObservationGeometry) -> RayPoints:
    """Points where lines of sight meet the ellipsoid, each at its own light time (SINCPT with 'CN').

    Parameters
    ----------
    direction
        (..., 3) unit vectors, J2000.
    geometry
        The observation.

    Returns
    -------
    RayPoints
        NaN off the disc.
    """
    delay = np.zeros(direction.shape[:-1])
    for _ in range(_LIGHT_TIME_ROUNDS):
        origin = _to_body(-_centre(delay, geometry), delay, geometry)
        ray = _to_body(direction, delay, geometry)
        body = ellipsoid_intercept(origin, ray, geometry.radii)
        distance = np.sum((body - origin) * ray, axis=-1)
        delay = np.where(np.isfinite(distance), geometry.light_time - distance / SPEED_OF_LIGHT, 0.0)
    return RayPoints(body, distance, np.where(np.isfinite(distance), delay, np.nan))


def ellipsoid_intercept(origin: np.ndarray, direction: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """First points (..., 3) in which rays meet an ellipsoid, NaN where they miss it.

    Parameters
    ----------
    origin, direction
        (..., 3) starts, outside the ellipsoid [km], and unit vectors, along its axes.
    radii
        (3,) semi-axes [km].
    """
    start, ray = origin / radii, direction / radii
    ray = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    along = np.sum(start * ray, axis=-1, keepdims=True)
    foot = start - along * ray
    # The start is 1e4 radii away; a second projection takes the rounding error of the first one out.
    foot = foot - np.sum(foot * ray, axis=-1, keepdims=True) * ray
    offset = np.linalg.norm(foot, axis=-1, keepdims=True)
    height = (1 - offset) * (1 + offset)
    hit = (height >= 0) & (along < 0)
    return np.where(hit, (foot - np.sqrt(np.maximum(height, 0)) * ray) * radii, np.nan)


def _centre(delay: np.ndarray, geometry: ObservationGeometry) -> np.ndarray:
    # The body's centre relative to the observer, `delay` seconds after the emission time of its own light.
    return geometry.centre + np.asarray(delay)[..., None] * geometry.target_velocity


def _to_body(vector: np.ndarray, delay: np.ndarray, geometry: ObservationGeometry) -> np.ndarray:
    # J2000 to body-fixed axes at emission: Rodrigues' rotation by minus the angle that the body turns in `delay`.
    rotated = vector @ geometry.rotation.T
    rate = np.linalg.norm(geometry.angular_velocity)
    axis = geometry.angular_velocity / rate
    angle = (-rate * np.asarray(delay))[..., None]
    along = (rotated @ axis)[..., None] * axis
    return rotated * np.cos(angle) + np.cross(axis, rotated) * np.sin(angle) + along * (1 - np.cos(angle))


def _separation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), np.sum(a * b, axis=-1)))


def _east_longitude(body: np.ndarray) -> np.ndarray:
    return np.degrees(np.arctan2(body[..., 1], body[..., 0]))


def _wrap(longitude: np.ndarray) -> np.ndarray:
    # The remainder of a tiny negative number rounds to 360 itself.
    wrapped = longitude % 360
    return np.where(wrapped == 360, 0.0, wrapped)


def _graphic_latitude(body: np.ndarray, radii: np.ndarray) -> np.ndarray:
    # RECPGR's: normal to the spheroid (radii[0], radii[0], radii[2]), by Bowring's iteration. Points of a triaxial
    # body lie off that spheroid, so the closed form tan(lat) / (1 - f)^2 would not do.
    equatorial, polar = radii[0], radii[2]
    z, rho = body[..., 2], np.hypot(body[..., 0], body[..., 1])
    parametric = np.arctan2(equatorial * z, polar * rho)
    for _ in range(5):
        latitude = np.arctan2(
            z + (equatorial**2 - polar**2) / polar * np.sin(parametric) ** 3,
            rho - (equatorial**2 - polar**2) / equatorial * np.cos(parametric) ** 3,
        )
        parametric = np.arctan2(polar * np.sin(latitude), equatorial * np.cos(latitude))
    return np.degrees(latitude)


def _surface_coordinates(body: np.ndarray, geometry: ObservationGeometry) -> dict[str, np.ndarray]:
    east = _east_longitude(body)
    return {
        "LAT": np.degrees(np.arctan2(body[..., 2], np.hypot(body[..., 0], body[..., 1]))),
        "LON": _wrap(-east),
        "LAT_GRAPHIC": _graphic_latitude(body, geometry.radii),
        "LON_GRAPHIC": _wrap(geometry.graphic_sign * east),
    }


def surface_vectors(
    surface: RayPoints, direction: np.ndarray, geometry: ObservationGeometry
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit normal, direction to the observer and vector to the Sun at surface points, body-fixed, each (..., 3).

    Parameters
    ----------
    surface, direction, geometry
        As in `surface_points`.
    """
    normal = surface.body / geometry.radii**2
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    delay = np.where(np.isfinite(surface.delay), surface.delay, 0.0)
    sun = geometry.sun_position - geometry.observer_position - _centre(delay, geometry)
    return normal, _to_body(-direction, delay, geometry), _to_body(sun, delay, geometry) - surface.body


def _illumination(surface: RayPoints, direction: np.ndarray, geometry: ObservationGeometry) -> dict[str, np.ndarray]:
    normal, observer, sun = surface_vectors(surface, direction, geometry)
    sun = sun / np.linalg.norm(sun, axis=-1, keepdims=True)
    observer = np.where(np.isfinite(normal), observer, np.nan)
    # Azimuth: 180 deg minus the angle between the horizontal parts of the directions to the Sun and to the observer.
    azimuth = 180 - _separation(_horizontal(sun, normal), _horizontal(observer, normal))
    return {
        "PHASE": _separation(sun, observer),
        "INCIDENCE": _separation(sun, normal),
        "EMISSION": _separation(observer, normal),
        "AZIMUTH": azimuth,
    }


def _horizontal(vector: np.ndarray, normal: np.ndarray) -> np.ndarray:
    return vector - np.sum(vector * normal, axis=-1, keepdims=True) * normal


def _local_time(surface: RayPoints, geometry: ObservationGeometry) -> np.ndarray:
    delay = np.where(np.isfinite(surface.delay), surface.delay, 0.0)
    sun = np.broadcast_to(geometry.sun_direction_lst, surface.body.shape)
    hour_angle = _east_longitude(surface.body) - _east_longitude(_to_body(sun, delay, geometry))
    return (12 + (-hour_angle if geometry.retrograde else hour_angle) / 15) % 24


def _limb(direction: np.ndarray, geometry: ObservationGeometry) -> dict[str, np.ndarray]:
    delay = np.zeros(direction.shape[:-1])
    for _ in range(2):
        centre = _centre(delay, geometry)
        distance = np.sum(centre * direction, axis=-1)
        delay = geometry.light_time - distance / SPEED_OF_LIGHT
    nearest = distance[..., None] * direction - centre
    body = _to_body(nearest, delay, geometry)
    with np.errstate(invalid="ignore"):  # no direction is the nearest limb's for the ray through the very centre
        surface = body / np.linalg.norm(body / geometry.radii, axis=-1, keepdims=True)
    return {
        "LAT_LIMB": _graphic_latitude(surface, geometry.radii),
        "LON_LIMB": _wrap(geometry.graphic_sign * _east_longitude(surface)),
        "DISTANCE_LIMB": np.linalg.norm(body, axis=-1) - np.linalg.norm(surface, axis=-1),
    }


def ring_plane_points(direction: np.ndarray, geometry: ObservationGeometry) -> RayPoints:
    """Points where lines of sight meet the body's equatorial plane, hidden by the body or not.

    Parameters
    ----------
    direction, geometry
        As in `surface_points`.

    Returns
    -------
    RayPoints
        NaN for rays that run along the plane or away from it.
    """
    delay = np.zeros(direction.shape[:-1])
    for _ in range(_LIGHT_TIME_ROUNDS):
        origin = _to_body(-_centre(delay, geometry), delay, geometry)
        ray = _to_body(direction, delay, geometry)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = -origin[..., 2] / ray[..., 2]
        distance = np.where(np.isfinite(distance) & (distance > 0), distance, np.nan)
        # Rays nearly along the plane meet it light-years away, where the linear motion means nothing.
        delay = np.nan_to_num(geometry.light_time - distance / SPEED_OF_LIGHT)
        distance = np.where(np.abs(delay) < geometry.light_time, distance, np.nan)
        delay = np.where(np.isfinite(distance), delay, 0.0)
    body = origin + distance[..., None] * ray
    return RayPoints(body, distance, np.where(np.isfinite(distance), delay, np.nan))


def _rings(direction: np.ndarray, surface_distance: np.ndarray, geometry: ObservationGeometry) -> dict[str, np.ndarray]:
    plane = ring_plane_points(direction, geometry)
    hidden = plane.distance > surface_distance  # false where there is no surface: NaN
    body = np.where(hidden[..., None], np.nan, plane.body)
    return {
        "DISTANCE_RINGS": np.hypot(body[..., 0], body[..., 1]),
        "LON_RINGS": _wrap(geometry.graphic_sign * _east_longitude(body)),
    }


def _radial_velocity(surface: RayPoints, direction: np.ndarray, geometry: ObservationGeometry) -> np.ndarray:
    # The rate of the distance, as SPKCPT has it: the emission time moves on by 1 - d(light time)/dt per second.
    spin = np.cross(geometry.angular_velocity, surface.body)
    delay = np.where(np.isfinite(surface.delay), surface.delay, 0.0)
    ray = _to_body(direction, delay, geometry)
    velocity = geometry.target_velocity + delay[..., None] * geometry.target_acceleration
    target = np.sum(velocity * direction, axis=-1) + np.sum(spin * ray, axis=-1)
    observer = np.sum(geometry.observer_velocity * direction, axis=-1)
    return (target - observer) / (1 + target / SPEED_OF_LIGHT)
