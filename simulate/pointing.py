"""Where the telescope looks: attitude, velocity aberration, dithers.

Positions in the telescope's focal plane are V2, V3 [arcsec]; on the sky RA, Dec [deg, ICRF]. The attitude is the
rotation that takes the unit vector of (V2, V3), with V1 along the telescope's axis, to the unit vector of (RA, Dec). It
is fixed by the sky position of one reference point and by the position angle of V3 there (ROLL_REF, from north to
east). Reference: JWST-STScI-001550, "Description and Use of the JWST Science Instrument Aperture File".
"""

from dataclasses import dataclass

import numpy as np

ARCSEC = np.pi / 180 / 3600
SPEED_OF_LIGHT = 299792.458  # [km/s]


@dataclass(frozen=True)
class Aperture:
    """Where an instrument's field lies in the focal plane, and its ideal frame.

    Attributes
    ----------
    name
        As in the SIAF (the telescope's aperture file).
    v2_ref, v3_ref
        Reference point, origin of the ideal frame [arcsec].
    v3_ideal_y_angle
        Angle of the frame's y axis, from V3 towards V2 [deg].
    parity
        1 where x and y are as V2 and V3 are to one another, -1 where they are mirrored.
    """

    name: str
    v2_ref: float
    v3_ref: float
    v3_ideal_y_angle: float
    parity: int

    def to_v2v3(self, x: float, y: float) -> tuple[float, float]:
        """V2, V3 [arcsec] of a position in the ideal frame [arcsec]."""
        angle = np.deg2rad(self.v3_ideal_y_angle)
        v2 = self.v2_ref + self.parity * x * np.cos(angle) + y * np.sin(angle)
        v3 = self.v3_ref - self.parity * x * np.sin(angle) + y * np.cos(angle)
        return float(v2), float(v3)

    def attitude(self, ra_ref: float, dec_ref: float, roll_ref: float) -> np.ndarray:
        """The attitude matrix for which the reference point lies at (ra_ref, dec_ref) [deg]; see `attitude_matrix`."""
        return attitude_matrix(self.v2_ref, self.v3_ref, ra_ref, dec_ref, roll_ref)


# The apertures that the headers of all MRS and of all NIRSpec IFU exposures refer to (PRD, SIAF).
MRS_APERTURE = Aperture("MIRIFU_CHANNEL1A", -503.654472, -318.742464, 8.4, -1)
NRS_APERTURE = Aperture("NRS_FULL_IFU", 300.2961, -497.9, 138.5746, -1)


def attitude_matrix(v2_ref: float, v3_ref: float, ra_ref: float, dec_ref: float, roll_ref: float) -> np.ndarray:
    """The rotation from the telescope's frame (V1, V2, V3) to ICRF.

    Parameters
    ----------
    v2_ref, v3_ref
        Reference point in the focal plane [arcsec].
    ra_ref, dec_ref
        Its place on the sky [deg].
    roll_ref
        Position angle of V3 there, east of north [deg].

    Returns
    -------
    ndarray of shape (3, 3)
    """
    v2, v3 = v2_ref * ARCSEC, v3_ref * ARCSEC
    ra, dec, roll = np.deg2rad([ra_ref, dec_ref, roll_ref])
    # Columns: the direction itself, that of growing longitude (V2, east) and that of growing latitude (V3, north).
    telescope = _local_axes(v2, v3)
    sky = _local_axes(ra, dec)
    turn = np.array([[1, 0, 0], [0, np.cos(roll), np.sin(roll)], [0, -np.sin(roll), np.cos(roll)]])
    return sky @ turn @ telescope.T


def v2v3_to_sky(v2: np.ndarray, v3: np.ndarray, attitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sky positions [deg, RA in 0-360] of focal-plane positions [arcsec], of any shape."""
    x, y, z = np.tensordot(attitude, _unit_vector(np.asarray(v2) * ARCSEC, np.asarray(v3) * ARCSEC), axes=1)
    return np.rad2deg(np.arctan2(y, x)) % 360, np.rad2deg(np.arctan2(z, np.hypot(x, y)))


def sky_to_v2v3(ra: np.ndarray, dec: np.ndarray, attitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Focal-plane positions [arcsec] of sky positions [deg], of any shape."""
    x, y, z = np.tensordot(attitude.T, _unit_vector(np.deg2rad(ra), np.deg2rad(dec)), axes=1)
    return np.arctan2(y, x) / ARCSEC, np.arctan2(z, np.hypot(x, y)) / ARCSEC


def aim(aperture: Aperture, v2: float, v3: float, ra: float, dec: float, roll_ref: float) -> tuple[float, float]:
    """RA and Dec of an aperture's reference point [deg] for which the point (v2, v3) [arcsec] looks at (ra, dec).

    The two points may be arcminutes apart; solved by iteration to 1e-9 arcsec.
    """
    ra_ref, dec_ref = ra, dec
    for _ in range(6):
        seen_ra, seen_dec = v2v3_to_sky(v2, v3, aperture.attitude(ra_ref, dec_ref, roll_ref))
        ra_ref += (ra - float(seen_ra) + 180) % 360 - 180
        dec_ref += dec - float(seen_dec)
    return ra_ref % 360, dec_ref


def offset_position(ra: float, dec: float, east: float, north: float) -> tuple[float, float]:
    """The position [deg] that lies `east` and `north` [arcsec, in the tangent plane] of (ra, dec)."""
    direction = _local_axes(*np.deg2rad([ra, dec])) @ np.array([1.0, east * ARCSEC, north * ARCSEC])
    x, y, z = direction
    return float(np.rad2deg(np.arctan2(y, x)) % 360), float(np.rad2deg(np.arctan2(z, np.hypot(x, y))))


def misread(ra: float, dec: float, east: float, north: float) -> tuple[float, float]:
    """What a header reads [deg] that is too high by `east` / cos(Dec) in RA and `north` in Dec [arcsec]."""
    return (ra + east / 3600 / np.cos(np.deg2rad(dec))) % 360, dec + north / 3600


@dataclass(frozen=True)
class Aberration:
    """Differential velocity aberration: sky angles from the aperture's reference point are `scale` times the others."""

    aperture: Aperture
    scale: float
    apparent_ra: float
    apparent_dec: float

    def correct(self, v2: np.ndarray, v3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Focal-plane positions [arcsec] as they would be for a telescope at rest."""
        v2_ref, v3_ref = self.aperture.v2_ref, self.aperture.v3_ref
        return v2_ref + self.scale * (v2 - v2_ref), v3_ref + self.scale * (v3 - v3_ref)


def velocity_aberration(aperture: Aperture, ra: float, dec: float, velocity: np.ndarray) -> Aberration:
    """Aberration towards (ra, dec) [deg] for a barycentric velocity [km/s].

    With beta = v/c and u the direction, angles on the sky shrink by gamma (1 + beta.u) = VA_SCALE in the moving frame,
    and the apparent direction is that of u/gamma + beta (1 + gamma beta.u / (1 + gamma)).
    """
    direction = _unit_vector(*np.deg2rad([ra, dec]))
    beta = np.asarray(velocity) / SPEED_OF_LIGHT
    along = float(beta @ direction)
    gamma = 1 / np.sqrt(1 - beta @ beta)
    x, y, z = direction / gamma + beta * (1 + gamma * along / (1 + gamma))
    return Aberration(
        aperture,
        float(gamma * (1 + along)),
        float(np.rad2deg(np.arctan2(y, x)) % 360),
        float(np.rad2deg(np.arctan2(z, np.hypot(x, y)))),
    )


def roll_at(attitude: np.ndarray, v2: float, v3: float) -> float:
    """Position angle of V3 at the focal-plane position (v2, v3) [arcsec], east of north [deg, 0-360]."""
    ra, dec = v2v3_to_sky(v2, v3, attitude)
    _, east, north = _local_axes(*np.deg2rad([float(ra), float(dec)])).T
    v3_direction = attitude @ _local_axes(v2 * ARCSEC, v3 * ARCSEC)[:, 2]
    return float(np.rad2deg(np.arctan2(v3_direction @ east, v3_direction @ north)) % 360)


def _unit_vector(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    return np.array([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)])


def _local_axes(longitude: float, latitude: float) -> np.ndarray:
    """Columns: a direction and, at right angles to it, those of growing longitude and latitude [rad]."""
    east = np.array([-np.sin(longitude), np.cos(longitude), 0.0])
    direction = _unit_vector(longitude, latitude)
    return np.array([direction, east, np.cross(direction, east)]).T
