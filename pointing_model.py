"""What a planet's edge looks like, for finding it in a cube.

In: the geometry of an observation, the PSF and the spaxels' offsets from where the header has the planet's centre. Out:
`DiscModel`, which gives for any pointing offset the shapes of which an image is a sum, seen through the PSF:

- the disc and its darkening towards limb and terminator: 1, sqrt(mu mu0), mu, mu^2, mu0;
- belts: splines in planetographic latitude, plain and times sqrt(mu mu0);
- clouds: splines in position angle and in depth below the limb. They are finest at the limb, where foreshortening hides
  from the eye how a spot differs from a dent in the limb;
- Saturn's rings, each beside the disc, out of the planet's shadow, and before it, with the planet shining through.

A disc that is sunlit ends at the terminator, one that glows does not: by up to 0.4 arcsec on Jupiter. Both are made.

The edges are sharp and cells of the image are finite: those with an edge in or beside them are averages over a finer
grid of rays. With edges good to a tenth of a cell only, the position along a limb is wrong by 0.05 arcsec.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter1d, maximum_filter, minimum_filter, spline_filter1d
from scipy.sparse import csr_array, hstack

from body_geometry import (
    ObservationGeometry,
    RayPoints,
    ellipsoid_intercept,
    ring_plane_points,
    sky_axes,
    surface_points,
    surface_vectors,
)

# Colwell et al. 2009, in 'Saturn from Cassini-Huygens', chapter 13: C, B and A ring, inner and outer radius [km].
SATURN_RINGS_KM = ((74658.0, 91975.0), (91975.0, 117507.0), (122340.0, 136780.0))

FWHM_PER_SIGMA = np.sqrt(8 * np.log(2))
_CELLS_PER_FWHM = 5
_RAYS_PER_EDGE_CELL = 6  # in each direction
_BELT_STEP = 6.0  # deg, between the knots of the belts' splines, if the PSF is not wider
_CLOUD_STEP = 2.0  # PSF widths, between the knots of the clouds' splines away from the limb
_LIMB_KNOTS = (0.0, 0.1, 0.3, 0.7, 1.4)  # PSF widths below the limb

# What a shape is, so that each kind can have its own amplitude.
DISC, BELT, CLOUD, RING = range(4)


@dataclass(frozen=True)
class Sampled:
    """Shapes at the spaxels (spaxel, shape): values, derivatives by the offset [1/arcsec], half the Laplacian times the
    PSF's variance."""

    values: np.ndarray
    by_east: np.ndarray
    by_north: np.ndarray
    by_width: np.ndarray


@dataclass(frozen=True)
class DiscModel:
    """The shapes of which an image of the planet is a sum.

    Attributes
    ----------
    sharp
        (y, x, shape) images before the PSF; the first one is the disc.
    kinds
        (shape,) DISC, BELT, CLOUD or RING.
    fwhm
        Of the Gaussian PSF [arcsec].
    coefficients
        (cell, shape) cubic-spline coefficients of the images seen through it.
    origin
        Offset of the first cell east and north of the target's centre [arcsec].
    cell
        Side of a cell [arcsec].
    east, north
        (spaxel,) offsets from the target's centre by the header [arcsec].
    """

    sharp: np.ndarray
    kinds: np.ndarray
    fwhm: float
    coefficients: np.ndarray
    origin: tuple[float, float]
    cell: float
    east: np.ndarray
    north: np.ndarray

    def with_fwhm(self, fwhm: float) -> "DiscModel":
        """The same through another PSF [arcsec]."""
        # Averaging over cells has blurred the images already, by a variance of 1/12.
        sigma = np.sqrt(max((fwhm / FWHM_PER_SIGMA / self.cell) ** 2 - 1 / 12, 0.0))

        def smoothing(count: int) -> np.ndarray:
            blurred = gaussian_filter1d(np.eye(count), sigma, axis=0, mode="nearest")
            return spline_filter1d(blurred, order=3, axis=0, mode="mirror")

        rows, columns, shapes = self.sharp.shape
        images = np.tensordot(smoothing(rows), self.sharp, 1)
        images = np.tensordot(smoothing(columns), images, (1, 1)).transpose(1, 0, 2)
        return replace(self, fwhm=fwhm, coefficients=images.reshape(-1, shapes))

    def values(self, offset: np.ndarray) -> np.ndarray:
        """The shapes (spaxel, shape), if the header reads too high by `offset` (east, north) [arcsec]."""
        return self._sampled(offset, ((0, 0),))[0]

    def sample(self, offset: np.ndarray) -> Sampled:
        """The shapes and how they change, if the header reads too high by `offset` (east, north) [arcsec]."""
        values, by_east, by_north, *curvatures = self._sampled(offset, ((0, 0), (1, 0), (0, 1), (2, 0), (0, 2)))
        half_variance = (self.fwhm / FWHM_PER_SIGMA) ** 2 / 2
        return Sampled(values, by_east, by_north, sum(curvatures) * half_variance)

    def _sampled(self, offset: np.ndarray, orders: tuple[tuple[int, int], ...]) -> list[np.ndarray]:
        # Derivatives of some orders east and north.
        rows, columns = self.sharp.shape[:2]
        (x, across), (y, up) = (
            _spline_weights((values - shift - start) / self.cell, count)
            for values, shift, start, count in zip(
                (self.east, self.north), offset, self.origin, (columns, rows), strict=True
            )
        )
        cells = (y[:, :, None] * columns + x[:, None, :]).ravel()
        places = np.arange(len(x) + 1) * 16
        found = []
        for of_east, of_north in orders:
            weights = up[of_north][:, :, None] * across[of_east][:, None, :] / (-self.cell) ** (of_east + of_north)
            matrix = csr_array((weights.ravel(), cells, places), shape=(len(x), rows * columns))
            found.append(matrix @ self.coefficients)
        return found


def build_disc_model(
    geometry: ObservationGeometry,
    east: np.ndarray,
    north: np.ndarray,
    fwhm: float,
    *,
    sunlit: bool,
    centre: tuple[float, float] = (0.0, 0.0),
    reach: float,
    detailed: bool = True,
) -> DiscModel:
    """Make the model for some spaxels.

    Parameters
    ----------
    geometry
        The observation.
    east, north
        (spaxel,) offsets from the target's centre by the header [arcsec].
    fwhm
        Of the Gaussian PSF [arcsec].
    sunlit
        Whether the disc ends at the terminator.
    centre, reach
        Offsets that will be asked for [arcsec]: `centre`, give or take `reach`.
    detailed
        With all shapes; else with disc, sqrt(mu mu0) and rings only, for a quick search.
    """
    cell = fwhm / _CELLS_PER_FWHM
    margin = reach + 2 * fwhm
    x, y = (
        np.arange(values.min() - shift - margin, values.max() - shift + margin, cell)
        for values, shift in ((east, centre[0]), (north, centre[1]))
    )
    rays = _Rays.through(*(grid.ravel() for grid in np.meshgrid(x, y)), geometry)
    seen = np.stack([rays.hit, rays.lit, rays.front, *(ring > 0 for ring in rays.rings)]).reshape(-1, y.size, x.size)
    size = (1, 5, 5)
    edge = np.flatnonzero(np.any(maximum_filter(seen, size) != minimum_filter(seen, size), axis=0))
    inside = ((np.arange(_RAYS_PER_EDGE_CELL) + 0.5) / _RAYS_PER_EDGE_CELL - 0.5) * cell
    fine = np.stack(np.meshgrid(inside, inside)).reshape(2, -1)
    fine_rays = _Rays.through(
        (x[edge % x.size, None] + fine[0]).ravel(), (y[edge // x.size, None] + fine[1]).ravel(), geometry
    )
    knots = _Knots.for_rays(rays, geometry, fwhm) if detailed and rays.bare.any() else None
    sharp, kinds = _shapes(rays, sunlit, knots)
    sharp = sharp.toarray()
    averaging = csr_array(
        (
            np.full(edge.size * fine.shape[1], 1 / fine.shape[1]),
            np.arange(edge.size * fine.shape[1]),
            np.arange(edge.size + 1) * fine.shape[1],
        )
    )
    if edge.size:
        sharp[edge] = (averaging @ _shapes(fine_rays, sunlit, knots)[0]).toarray()
    seen_shapes = sharp.any(axis=0)
    model = DiscModel(
        sharp=sharp[:, seen_shapes].reshape(y.size, x.size, -1),
        kinds=kinds[seen_shapes],
        fwhm=fwhm,
        coefficients=np.empty((0, 0)),
        origin=(float(x[0]), float(y[0])),
        cell=cell,
        east=east,
        north=north,
    )
    return model.with_fwhm(fwhm)


def _spline_weights(position: np.ndarray, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    # The four nodes round each position, and the weights (position, node) of a cubic B-spline and its two derivatives.
    first = np.clip(np.floor(position).astype(int), 1, count - 3)
    t = (position - first)[:, None]
    nodes = first[:, None] + np.arange(-1, 3)
    value = np.hstack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    slope = np.hstack([-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2]) / 2
    bend = np.hstack([1 - t, 3 * t - 2, -3 * t + 1, t])
    return nodes, [value, slope, bend]


@dataclass(frozen=True)
class _Rays:
    # All (ray,). Before the rings' front part the planet is not bare.
    position_angle: np.ndarray
    hit: np.ndarray
    front: np.ndarray
    mu: np.ndarray
    mu_sun: np.ndarray
    latitude: np.ndarray
    rings: list[np.ndarray]

    @classmethod
    def through(cls, east: np.ndarray, north: np.ndarray, geometry: ObservationGeometry) -> "_Rays":
        towards, to_east, to_north = sky_axes(*geometry.target_radec)
        x, y = np.radians(east / 3600)[:, None], np.radians(north / 3600)[:, None]
        rays = towards + x * to_east + y * to_north
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        surface = surface_points(rays, geometry)
        normal, observer, sun = surface_vectors(surface, rays, geometry)
        sun = sun / np.linalg.norm(sun, axis=-1, keepdims=True)
        hit = np.isfinite(surface.distance)
        mu, mu_sun, sine = (
            np.where(hit, values, 0.0)
            for values in (np.sum(normal * observer, axis=-1), np.sum(normal * sun, axis=-1), normal[:, 2])
        )
        mu, mu_sun = np.clip(mu, 0, 1), np.clip(mu_sun, 0, 1)
        rings, front = _rings(rays, surface, np.sqrt(mu * mu_sun), geometry)
        latitude = np.degrees(np.arcsin(np.clip(sine, -1, 1)))
        return cls(np.arctan2(east, north), hit, front, mu, mu_sun, latitude, rings)

    @property
    def bare(self) -> np.ndarray:
        return self.hit & ~self.front

    @property
    def lit(self) -> np.ndarray:
        return self.mu_sun > 0


@dataclass(frozen=True)
class _Knots:
    # Cubic splines: knots in latitude [deg], in position angle from the middle one [rad] and in depth below the limb
    # [radii].
    latitude: np.ndarray
    middle: float
    angle: np.ndarray
    depth: np.ndarray

    @classmethod
    def for_rays(cls, rays: _Rays, geometry: ObservationGeometry, fwhm: float) -> "_Knots":
        width = fwhm / geometry.angular_radius
        angle = rays.position_angle[rays.bare]
        middle = float(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean()))
        deepest = _depth(rays)[rays.bare].max() / width
        steps = np.arange(_LIMB_KNOTS[-1] + _CLOUD_STEP, deepest + _CLOUD_STEP, _CLOUD_STEP)
        depth = width * np.concatenate([[0] * 3, _LIMB_KNOTS, steps])
        return cls(
            _even_knots(rays.latitude[rays.bare], max(_BELT_STEP, np.degrees(width))),
            middle,
            _even_knots(_turned(angle, middle), _CLOUD_STEP * width),
            np.append(depth, [depth[-1]] * 3),
        )

    def belts(self, rays: _Rays) -> csr_array:
        return _splines(rays.latitude, self.latitude)

    def clouds(self, rays: _Rays) -> csr_array:
        along = _splines(_turned(rays.position_angle, self.middle), self.angle)
        inwards = _splines(_depth(rays), self.depth)
        count = inwards.shape[1]
        # Four splines are not zero in each direction.
        parts = [part.reshape(-1, 4) for part in (along.data, along.indices, inwards.data, inwards.indices)]
        values = parts[0][:, :, None] * parts[2][:, None, :]
        numbers = parts[1][:, :, None] * count + parts[3][:, None, :]
        rows = np.arange(len(values) + 1) * 16
        return csr_array((values.ravel(), numbers.ravel(), rows), shape=(len(values), along.shape[1] * count))


def _depth(rays: _Rays) -> np.ndarray:
    return 1 - np.sqrt(1 - rays.mu**2)


def _turned(angle: np.ndarray, middle: float) -> np.ndarray:
    return (angle - middle + np.pi) % (2 * np.pi) - np.pi


def _even_knots(values: np.ndarray, step: float) -> np.ndarray:
    pieces = max(2, round(np.ptp(values) / step))
    return values.min() + (np.ptp(values) + 1e-9) / pieces * np.arange(-3, pieces + 4)


def _splines(values: np.ndarray, knots: np.ndarray) -> csr_array:
    inside = np.clip(values, knots[3], np.nextafter(knots[-4], knots[3]))
    return csr_array(BSpline.design_matrix(inside, knots, 3))


def _shapes(rays: _Rays, sunlit: bool, knots: _Knots | None) -> tuple[csr_array, np.ndarray]:
    bare = rays.bare.astype(float)
    minnaert = bare * np.sqrt(rays.mu * rays.mu_sun)
    disc = bare * rays.lit if sunlit else bare
    if knots is None:
        columns = [csr_array(np.stack([disc, minnaert], axis=-1))]
        kinds = [DISC] * 2
    else:
        darkened = np.stack([disc, minnaert, disc * rays.mu, disc * rays.mu**2, bare * rays.mu_sun], axis=-1)
        belts, clouds = knots.belts(rays), knots.clouds(rays)
        columns = [csr_array(darkened)]
        columns += [csr_array(part.multiply(factor[:, None])) for part, factor in ((belts, disc), (belts, minnaert))]
        columns.append(csr_array(clouds.multiply(disc[:, None])))
        kinds = [DISC] * 5 + [BELT] * 2 * belts.shape[1] + [CLOUD] * clouds.shape[1]
    if rays.rings:
        columns.append(csr_array(np.stack(rays.rings, axis=-1)))
    return hstack(columns, format="csr"), np.array(kinds + [RING] * len(rays.rings))


def _rings(
    rays: np.ndarray, surface: RayPoints, behind: np.ndarray, geometry: ObservationGeometry
) -> tuple[list[np.ndarray], np.ndarray]:
    # Before the disc the planet shines through: with `behind`, its brightness there.
    front = np.zeros(len(rays), bool)
    if geometry.target != "SATURN":
        return [], front
    plane = ring_plane_points(rays, geometry)
    hidden, before = plane.distance > surface.distance, plane.distance < surface.distance
    radius = np.hypot(plane.body[..., 0], plane.body[..., 1])
    # The Sun is far: its direction from the centre will do.
    sun = geometry.rotation @ (geometry.sun_position - geometry.target_position)
    sun = np.broadcast_to(sun / np.linalg.norm(sun), plane.body.shape)
    outside = plane.body + 1e3 * geometry.radii[0] * sun
    shadowed = np.isfinite(ellipsoid_intercept(outside, -sun, geometry.radii)[..., 0])
    shadowed &= np.sum(plane.body * sun, axis=-1) < 0
    images = []
    for inner, outer in SATURN_RINGS_KM:
        ring = (radius >= inner) & (radius <= outer) & ~hidden
        images += [1.0 * (ring & ~before & ~shadowed), 1.0 * (ring & before), (ring & before) * behind]
        front |= ring & before
    return images, front
