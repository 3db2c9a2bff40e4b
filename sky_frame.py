"""A cube's field and its target on the sky: offsets from a centre, and the body's outline drawn there.

In: a cube's SCI header and, where there is one, the geometry of its observation. Out: offsets [arcsec] east and north
of the body's centre (of the field's centre where there is no geometry), turned so that the body's pole is up if wished;
and lines on a matplotlib axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits

from cubes import celestial_wcs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from body_geometry import ObservationGeometry

GRID_STEP_DEG = 30
# A body of fewer spaxels across has its outline drawn and a mark, but no grid.
LEAST_SPAXELS_FOR_GRID = 4
# The observatory's target farther from the field than this is none that the field was meant for.
_FARTHEST_TARGET_ARCSEC = 600


@dataclass(frozen=True)
class SkyFrame:
    """Offsets on the sky [arcsec] from a centre, small against a radian.

    Attributes
    ----------
    ra0, dec0
        The centre [deg].
    angle
        Position angle of the frame's y axis [deg], from north through east.
    """

    ra0: float
    dec0: float
    angle: float = 0.0

    def offsets(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets x (east at angle 0) and y (north) [arcsec] of positions [deg]; RA wraps."""
        east = ((np.asarray(ra) - self.ra0 + 180) % 360 - 180) * np.cos(np.radians(self.dec0)) * 3600
        north = (np.asarray(dec) - self.dec0) * 3600
        sine, cosine = np.sin(np.radians(self.angle)), np.cos(np.radians(self.angle))
        return east * cosine - north * sine, east * sine + north * cosine

    def positions(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """RA in [0, 360) and Dec [deg] of offsets [arcsec]: the inverse of `offsets`."""
        sine, cosine = np.sin(np.radians(self.angle)), np.cos(np.radians(self.angle))
        east, north = np.asarray(x) * cosine + np.asarray(y) * sine, -np.asarray(x) * sine + np.asarray(y) * cosine
        return (self.ra0 + east / 3600 / np.cos(np.radians(self.dec0))) % 360, self.dec0 + north / 3600

    def corners(self, header: fits.Header) -> tuple[np.ndarray, np.ndarray]:
        """Offsets x and y [arcsec] of the corners of a cube's spaxels, (ny + 1, nx + 1) each."""
        y, x = np.mgrid[: header["NAXIS2"] + 1, : header["NAXIS1"] + 1] - 0.5
        return self.offsets(*celestial_wcs(header).all_pix2world(x, y, 0))


def frame_of(header: fits.Header, geometry: ObservationGeometry | None, *, pole_up: bool = False) -> SkyFrame:
    """The frame about the body's centre; without geometry, about the centre of the field.

    Parameters
    ----------
    header
        Of SCI.
    geometry
        Of the observation, or None.
    pole_up
        Turn the frame so that the body's north pole is up; without geometry, north stays up.
    """
    if geometry is not None:
        from surface_positions import pole_angle

        return SkyFrame(*geometry.target_radec, pole_angle(geometry) if pole_up else 0.0)
    x, y = (header["NAXIS1"] - 1) / 2, (header["NAXIS2"] - 1) / 2
    return SkyFrame(*(float(value) for value in celestial_wcs(header).all_pix2world(x, y, 0)))


def target_frame(header: fits.Header) -> SkyFrame | None:
    """The frame about MT_RA, MT_DEC, where the observatory expected a moving target: known without kernels.

    Parameters
    ----------
    header
        Of SCI. None if it has no such position, or one far from the field.
    """
    if not (isinstance(header.get("MT_RA"), float) and isinstance(header.get("MT_DEC"), float)):
        return None
    x, y = frame_of(header, None).offsets(header["MT_RA"], header["MT_DEC"])
    return SkyFrame(header["MT_RA"], header["MT_DEC"]) if np.hypot(x, y) < _FARTHEST_TARGET_ARCSEC else None


def edge(corners: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The outline of a field, closed, from the corners of its spaxels."""
    x, y = (np.concatenate([a[0], a[1:, -1], a[-1, -2::-1], a[-2::-1, 0]]) for a in corners)
    return x, y


def sky_directions(corners: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The frame's x and y axes as unit vectors in the image's x and y, at the centre of the field."""
    derivatives = np.array([[np.mean(np.diff(axis, axis=1)), np.mean(np.diff(axis, axis=0))] for axis in corners])
    inverse = np.linalg.inv(derivatives)
    return inverse[:, 0] / np.linalg.norm(inverse[:, 0]), inverse[:, 1] / np.linalg.norm(inverse[:, 1])


def body_extent(geometry: ObservationGeometry) -> float:
    """Half-width [arcsec] that shows the body and its rings."""
    from surface_positions import rings_of

    return max([geometry.radii[0], *rings_of(geometry)]) / geometry.radii[0] * geometry.angular_radius


def draw_body(
    axes: Axes, frame: SkyFrame, geometry: ObservationGeometry, spaxel: float, *, colour: str = "0.45"
) -> None:
    """Draw limb, terminator, grid, rings and poles of a body.

    Parameters
    ----------
    axes
        With the offsets of `frame` as coordinates.
    frame, geometry
        Of the observation.
    spaxel
        Side of a spaxel [arcsec]: very small bodies get a mark instead of a grid.
    colour
        Of the grid.
    """
    from surface_positions import body_points, is_facing, limb, meridian, parallel, ring, rings_of, sky_positions
    from surface_positions import terminator as terminator_of

    def draw(points: np.ndarray, colour: str, width: float, style: str = "solid") -> None:
        x, y = frame.offsets(*sky_positions(points, geometry))
        axes.plot(x, y, color=colour, linewidth=width, linestyle=style)

    outline = limb(geometry)
    draw(outline, "white", 2.0)
    if 2 * geometry.angular_radius >= LEAST_SPAXELS_FOR_GRID * spaxel:
        step = GRID_STEP_DEG
        lines = [parallel(latitude, geometry) for latitude in range(-90 + step, 90, step)]
        lines += [meridian(longitude, geometry) for longitude in range(0, 360, step)]
        # One line with gaps is drawn several times faster than many.
        gap = np.full((1, 3), np.nan)
        draw(np.concatenate([part for line in lines for part in (line, gap)]), colour, 0.5)
        draw(terminator_of(geometry), "0.2", 0.9, "dashed")
        for radius in rings_of(geometry):
            draw(ring(radius, geometry), "0.5", 0.7)
        for latitude, name in ((90, "N"), (-90, "S")):
            pole = body_points(np.array(0.0), np.array(latitude), geometry)
            if is_facing(pole, geometry):
                x, y = frame.offsets(*sky_positions(pole, geometry))
                style = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
                axes.text(x, y, name, ha="center", va="center", fontsize=8, clip_on=True, bbox=style)
    else:
        x, y = frame.offsets(*geometry.target_radec)
        axes.plot(x, y, marker="+", color="0.1", markersize=9)
    draw(outline, "0.1", 1.0)
