"""Where lines of sight meet a planet: the scene's own geometry, one ray at a time in plain vectors.

SPICE gives states and orientation at one epoch; everything per ray is arithmetic here, independent of the pipeline's
navigation. Light time is that of the point seen ('CN', no stellar aberration), as in `spice.sincpt`: a point nearer
than the centre is seen later by `delay` seconds, in which the planet has moved and turned.

Vectors are (..., 3) arrays in km: 'sky' vectors in J2000 (ICRF) axes, 'body' vectors in the rotating IAU frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import spiceypy as spice

from simulate.bodies import Body
from simulate.spectra import SPEED_OF_LIGHT

ARCSEC = np.pi / 180 / 3600  # rad


@dataclass
class Intercepts:
    """Where rays meet the ellipsoid; values of rays that miss it are those of the point nearest to it.

    Attributes
    ----------
    hit : ndarray of bool, shape (n,)
    distance : ndarray, shape (n,)
        Observer to point [km].
    point, normal, sun : ndarray, shape (n, 3)
        Point, outward unit normal, and unit vector to the Sun, in body axes.
    mu, mu_sun : ndarray, shape (n,)
        Cosines of emission and incidence angle.
    cos_phase : ndarray, shape (n,)
    radial_velocity : ndarray, shape (n,)
        Rate of change of the apparent distance [km/s], receding positive, as from `spice.spkcpt`.
    """

    hit: np.ndarray
    distance: np.ndarray
    point: np.ndarray
    normal: np.ndarray
    sun: np.ndarray
    mu: np.ndarray
    mu_sun: np.ndarray
    cos_phase: np.ndarray
    radial_velocity: np.ndarray


class Sightlines:
    """Geometry of one body seen by one observer at one time. Kernels must be loaded while it is made, not after.

    Parameters
    ----------
    body : Body
    et : float
        TDB seconds past J2000 at the observer.
    observer : str
        SPICE name.
    radius_scale : float
        Factor on the radii of the kernels.
    """

    def __init__(self, body: Body, et: float, observer: str = "JWST", radius_scale: float = 1.0) -> None:
        name = str(body.naif_id)
        frame = f"IAU_{body.name.upper()}"
        self.et = float(et)
        state, self.light_time = spice.spkezr(name, self.et, "J2000", "CN", observer)
        epoch = self.et - self.light_time
        self.centre = np.array(state[:3])
        self.distance = float(np.linalg.norm(self.centre))
        self.velocity = np.array(spice.spkezr(name, epoch, "J2000", "NONE", "SSB")[0][3:])
        self.observer_velocity = np.array(spice.spkezr(observer, self.et, "J2000", "NONE", "SSB")[0][3:])
        self.sun = np.array(spice.spkpos("SUN", epoch, "J2000", "CN", name)[0])
        transform = np.array(spice.sxform("J2000", frame, epoch))
        self.rotation, self.rotation_rate = transform[:3, :3], transform[3:, :3]
        self.radii = np.array(spice.bodvrd(name, "RADII", 3)[1]) * radius_scale
        rotates_east = spice.bodvrd(name, "PM", 3)[1][1] >= 0
        self.positive_longitude = "W" if rotates_east else "E"

        self.towards = self.centre / self.distance
        self.ra = float(np.arctan2(self.towards[1], self.towards[0]) % (2 * np.pi))
        self.dec = float(np.arcsin(self.towards[2]))
        self.east = np.array([-np.sin(self.ra), np.cos(self.ra), 0.0])
        self.north = np.cross(self.towards, self.east)
        radial = self.towards @ self.velocity
        self.radial_velocity = float((radial - self.towards @ self.observer_velocity) / (1 + radial / SPEED_OF_LIGHT))

    def offsets(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return tangent-plane offsets east and north of the body's centre [arcsec] of positions [deg]; RA may wrap."""
        delta = np.deg2rad(ra) - self.ra
        dec = np.deg2rad(dec)
        cos_dec = np.cos(dec)
        sin_half = np.sin(delta / 2)
        x = cos_dec * np.sin(delta)
        # sin(dec - dec0) plus the sagitta of the parallel: no cancellation close to the centre
        sagitta = 2 * cos_dec * sin_half**2
        y = np.sin(dec - self.dec) + sagitta * np.sin(self.dec)
        z = np.cos(dec - self.dec) - sagitta * np.cos(self.dec)
        return x / z / ARCSEC, y / z / ARCSEC

    def positions(self, east: np.ndarray, north: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return RA in [0, 360) and Dec [deg] of tangent-plane offsets [arcsec] from the body's centre."""
        rays = self.rays(np.asarray(east, float), np.asarray(north, float))
        ra = np.rad2deg(np.arctan2(rays[..., 1], rays[..., 0])) % 360
        return ra, np.rad2deg(np.arcsin(rays[..., 2]))

    def rays(self, east: np.ndarray, north: np.ndarray) -> np.ndarray:
        """Return unit vectors (..., 3) of the directions at tangent-plane offsets [arcsec] from the body's centre."""
        rays = (
            self.towards
            + (np.asarray(east) * ARCSEC)[..., None] * self.east
            + (np.asarray(north) * ARCSEC)[..., None] * self.north
        )
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True)

    def trace(self, rays: np.ndarray) -> Intercepts:
        """Follow rays (n, 3) to the ellipsoid.

        In the body's frame, axes scaled to the unit sphere, a ray O + s D passes the origin closest at q = O + s0 D
        with s0 = -O.D / D.D, and enters at s0 - sqrt((1 - q.q) / D.D). O and D depend on the delay, the delay on s:
        each round gains four digits (velocity over speed of light), and the second leaves under 1 m.
        """
        delay = np.zeros(len(rays))
        for _ in range(2):
            direction = self._to_body(rays, delay)
            origin = -self._to_body(self.centre + delay[:, None] * self.velocity, delay)
            d, o = direction / self.radii, origin / self.radii
            dd = np.einsum("ij,ij->i", d, d)
            s0 = -np.einsum("ij,ij->i", o, d) / dd
            q = o + s0[:, None] * d
            inside = 1.0 - np.einsum("ij,ij->i", q, q)
            distance = s0 - np.sqrt(np.maximum(inside, 0.0) / dd)
            delay = self.light_time - distance / SPEED_OF_LIGHT
        point = origin + distance[:, None] * direction
        normal = point / self.radii**2
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        sun = self._to_body(np.broadcast_to(self.sun, rays.shape), delay) - point
        sun /= np.linalg.norm(sun, axis=1, keepdims=True)
        # a body-fixed point x stands at R^T x in the sky's axes and moves by dR^T/dt x; d2R/dt2 is R' R^T R'
        acceleration = self.rotation_rate @ self.rotation.T @ self.rotation_rate
        velocity = self.velocity + point @ self.rotation_rate + delay[:, None] * (point @ acceleration)
        return Intercepts(
            hit=inside > 0,
            distance=distance,
            point=point,
            normal=normal,
            sun=sun,
            mu=-np.einsum("ij,ij->i", normal, direction),
            mu_sun=np.einsum("ij,ij->i", normal, sun),
            cos_phase=-np.einsum("ij,ij->i", sun, direction),
            radial_velocity=self._radial_velocity(rays, velocity),
        )

    def trace_equator(self, rays: np.ndarray, gm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Follow rays (n, 3) to the equatorial plane, seen at the epoch of the body's centre.

        Returns
        -------
        radius, distance, radial_velocity : ndarray, shape (n,)
            Distance from the body's centre and from the observer [km], and velocity [km/s] of particles that circle the
            body in its sense of rotation; NaN for rays that never meet the plane.
        sunlit : ndarray of bool, shape (n,)
            False in the shadow of the body.
        """
        direction, origin = rays @ self.rotation.T, -self.rotation @ self.centre
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = -origin[2] / direction[:, 2]
        distance[~(distance > 0) | ~np.isfinite(distance)] = np.nan
        point = origin + distance[:, None] * direction
        radius = np.linalg.norm(point, axis=1)
        spin = np.array([0.0, 0.0, 1.0 if self.positive_longitude == "W" else -1.0])
        orbital = np.cross(spin, point) * np.sqrt(gm / radius**3)[:, None]
        to_sun = (self.rotation @ self.sun - point) / self.radii
        scaled = point / self.radii
        along = np.einsum("ij,ij->i", scaled, to_sun) / np.einsum("ij,ij->i", to_sun, to_sun)
        nearest = scaled - along[:, None] * to_sun
        sunlit = (along > 0) | (np.einsum("ij,ij->i", nearest, nearest) > 1)
        velocity = self.velocity + orbital @ self.rotation
        return radius, distance, self._radial_velocity(rays, velocity), sunlit

    def longitude_latitude(self, point: np.ndarray) -> dict[str, np.ndarray]:
        """Return longitudes in [0, 360) and latitudes [deg] of body-fixed points (n, 3).

        LON is west, LON_GRAPHIC in the body's positive direction (`spice.recpgr`); LAT is planetocentric, LAT_GRAPHIC
        planetographic on the spheroid of the first and third radius.
        """
        x, y, z = np.moveaxis(point, -1, 0)
        equatorial = np.hypot(x, y)
        east = np.rad2deg(np.arctan2(y, x)) % 360
        west = (360 - east) % 360
        a, c = self.radii[0], self.radii[2]
        # Bowring (1976): exact on the spheroid, and converging at once for points slightly off it
        parametric = np.arctan2(z * a, equatorial * c)
        for _ in range(3):
            latitude = np.arctan2(
                z + (a**2 - c**2) / c * np.sin(parametric) ** 3,
                equatorial - (a**2 - c**2) / a * np.cos(parametric) ** 3,
            )
            parametric = np.arctan2(c * np.sin(latitude), a * np.cos(latitude))
        return {
            "LON": west,
            "LAT": np.rad2deg(np.arctan2(z, equatorial)),
            "LON_GRAPHIC": west if self.positive_longitude == "W" else east,
            "LAT_GRAPHIC": np.rad2deg(latitude),
        }

    def limb_offset(self, position_angle: float) -> tuple[float, float]:
        """Return the offset east, north [arcsec] of the limb at a position angle [deg, north through east].

        The limb is the outline of the ellipsoid: a ray along the unit vector u, starting at b off the centre, grazes it
        where the scaled ray's closest approach is 1.
        """
        angle = np.deg2rad(position_angle)
        across = np.sin(angle) * self.east + np.cos(angle) * self.north
        d, b = self.rotation @ self.towards / self.radii, self.rotation @ across / self.radii
        nearest = b - (b @ d) / (d @ d) * d
        offset = 1 / np.linalg.norm(nearest) / self.distance / ARCSEC
        return float(offset * np.sin(angle)), float(offset * np.cos(angle))

    @property
    def pole_angle(self) -> float:
        """Position angle of the body's north pole [deg, north through east]."""
        pole = self.rotation[2]
        return float(np.rad2deg(np.arctan2(pole @ self.east, pole @ self.north)) % 360)

    @property
    def velosys(self) -> float:
        """Velocity of the observer away from the target, relative to the solar-system barycentre [m/s].

        The sign `jwst.assign_wcs.util.velocity_correction` expects: barycentric wavelength = observed wavelength /
        (1 + velosys / c).
        """
        return float(-1000.0 * self.towards @ self.observer_velocity)

    def _to_body(self, vectors: np.ndarray, delay: np.ndarray) -> np.ndarray:
        """Turn sky vectors (n, 3) into body axes, `delay` seconds after the epoch of the centre."""
        return vectors @ self.rotation.T + delay[:, None] * (vectors @ self.rotation_rate.T)

    def _radial_velocity(self, rays: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return the rate of the apparent distance of points moving with barycentric velocities (n, 3) [km/s]."""
        radial = np.einsum("ij,ij->i", rays, velocity)
        return (radial - rays @ self.observer_velocity) / (1 + radial / SPEED_OF_LIGHT)
