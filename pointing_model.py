"""What a planet's edge looks like, for finding it in a cube.

In: the geometry of an observation, the PSF and the spaxels' offsets from where the header has the planet's centre. Out:
`DiscModel`, which gives for any pointing offset the shapes of which the image is a sum. Only what is known for certain
moves with the offset, through the PSF:

- the disc, plain and darkened towards limb and terminator: 1, lit or not, sqrt(mu mu0), mu, mu^2, mu0;
- the Laplacian of the disc: a PSF a little wider or narrower than said;
- Saturn's rings, each beside the disc, out of the planet's shadow, and before it, with the planet shining through.

Belts, spots and clouds are unknown. They are a smooth function that stays fixed to the spaxels, a factor on the disc,
of B-splines not finer than the PSF: so they are free to take any form, and pretend to no knowledge of the position.
Whether they glow (thermal emission, night side included) or are sunlit decides where the disc ends, by up to 0.4 arcsec
on Jupiter: both kinds are made.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter, laplace, map_coordinates, spline_filter

from body_geometry import (
    ObservationGeometry,
    ellipsoid_intercept,
    ring_plane_points,
    sky_axes,
    surface_points,
    surface_vectors,
)

# Colwell et al. 2009, in 'Saturn from Cassini-Huygens', chapter 13: C, B and A ring, inner and outer radius [km].
SATURN_RINGS_KM = ((74658.0, 91975.0), (91975.0, 117507.0), (122340.0, 136780.0))

_CELLS_PER_FWHM = 6
_RAYS_PER_CELL = 2  # in each direction
_CLOUD_STEP = 1.2  # PSF widths, between the knots of the clouds' splines
_BELT_STEP = 8.0  # deg, between the knots of the belts' splines

# How large the coefficients may be, 1 sigma, in units of the disc's brightness.
_SIGMA_FREE = 3.0
_SIGMA_DARKENING = 0.5
_SIGMA_CLOUDS = 0.15
_SIGMA_CLOUDS_BESIDE_BELTS = 0.08
_SIGMA_BELTS = 0.2
_SIGMA_PSF = 0.3  # relative change of the PSF's variance


@dataclass(frozen=True)
class DiscModel:
    """The shapes of which an image of the planet is a sum.

    Attributes
    ----------
    images
        (shape, y, x) cubic-spline coefficients of the shapes that move: first the plain disc, then the sunlit one.
    origin
        Offset of the first cell east and north of the target's centre [arcsec].
    cell
        Side of a cell [arcsec].
    clouds
        (spaxel, spline) factors on the disc, fixed to the spaxels.
    east, north
        (spaxel,) offsets from the target's centre by the header [arcsec].
    prior
        (column,) inverse of how large coefficients may be.
    belts
        (belt, y, x) as `images`: splines in planetographic latitude.
    laplacian
        Number of the Laplacian's column.
    sunlit
        Whether the clouds are a factor on the sunlit disc, not the plain one.
    """

    images: np.ndarray
    origin: tuple[float, float]
    cell: float
    clouds: np.ndarray
    east: np.ndarray
    north: np.ndarray
    prior: np.ndarray
    belts: np.ndarray
    laplacian: int
    sunlit: bool = False

    def disc(self, offset: np.ndarray) -> np.ndarray:
        """The plain or sunlit disc through the PSF (spaxel,), if the header reads too high by `offset` [arcsec]."""
        return self._sample(self.images[int(self.sunlit)], offset)

    def columns(self, offset: np.ndarray) -> np.ndarray:
        """All shapes (spaxel, column), if the header reads too high by `offset` [arcsec]."""
        moving = np.stack([self._sample(image, offset) for image in self.images], axis=-1)
        sky = np.ones((self.east.size, 1))
        clouded = moving[:, int(self.sunlit), None] * self.clouds
        return np.hstack([moving, sky, clouded])

    def variants(self) -> tuple["DiscModel", ...]:
        """Clouds that glow, clouds that are sunlit, and belts that glow with what little else they leave to clouds."""
        plain = replace(self, belts=self.belts[:0])
        prior = self.prior.copy()
        prior[-self.clouds.shape[1] :] = 1 / _SIGMA_CLOUDS_BESIDE_BELTS
        belted = replace(
            self,
            images=np.concatenate([self.images, self.belts]),
            prior=np.concatenate(
                [prior[: len(self.images)], np.full(len(self.belts), 1 / _SIGMA_BELTS), prior[len(self.images) :]]
            ),
            belts=self.belts[:0],
        )
        return plain, replace(plain, sunlit=True), belted

    def coarse(self) -> "DiscModel":
        """The same with a quadratic surface instead of the clouds, for a quick search."""
        x, y = self.east - self.east.mean(), self.north - self.north.mean()
        surface = np.stack([x, y, x * x, x * y, y * y], axis=-1)
        surface /= np.abs(surface).max(axis=0)
        prior = np.concatenate([self.prior[: -self.clouds.shape[1]], np.full(5, 1.0)])
        return replace(self, clouds=surface, prior=prior)

    def _sample(self, image: np.ndarray, offset: np.ndarray) -> np.ndarray:
        places = [
            (self.north - offset[1] - self.origin[1]) / self.cell,
            (self.east - offset[0] - self.origin[0]) / self.cell,
        ]
        return map_coordinates(image, places, order=3, mode="nearest", prefilter=False)


def build_disc_model(
    geometry: ObservationGeometry, east: np.ndarray, north: np.ndarray, fwhm: float, reach: float
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
    reach
        Largest offset in east or north that will be asked for [arcsec].
    """
    cell = fwhm / _CELLS_PER_FWHM
    margin = reach + 2 * fwhm
    x, y = (_ray_axis(values.min() - margin, values.max() + margin, cell) for values in (east, north))
    towards, to_east, to_north = sky_axes(*geometry.target_radec)
    offsets = np.radians(np.stack(np.meshgrid(x, y), axis=-1) / 3600)
    rays = towards + offsets[..., :1] * to_east + offsets[..., 1:] * to_north
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    sigma = fwhm / np.sqrt(8 * np.log(2)) / cell

    def blurred(image: np.ndarray) -> np.ndarray:
        rows, columns = image.shape[0] // _RAYS_PER_CELL, image.shape[1] // _RAYS_PER_CELL
        cells = image.astype(float).reshape(rows, _RAYS_PER_CELL, columns, _RAYS_PER_CELL).mean(axis=(1, 3))
        return gaussian_filter(cells, sigma, mode="nearest")

    disc, belts, rings = _shapes(rays, geometry)
    images = [blurred(shape) for shape in (*disc, *rings)]
    # d(image)/d(variance) = Laplacian / 2; scaled to the variance's own size.
    images.append(laplace(images[0], mode="nearest") * sigma**2 / 2)
    clouds = _cloud_splines(east, north, _CLOUD_STEP * fwhm)
    sigmas = (
        [_SIGMA_FREE] * 2
        + [_SIGMA_DARKENING] * (len(disc) - 2)
        + [_SIGMA_FREE] * len(rings)
        + [_SIGMA_PSF, _SIGMA_FREE]
    )
    belt_images = [spline_filter(blurred(belt), order=3, mode="nearest") for belt in belts]
    return DiscModel(
        images=np.stack([spline_filter(image, order=3, mode="nearest") for image in images]),
        laplacian=len(images) - 1,
        belts=np.array(belt_images).reshape(-1, *images[0].shape),
        origin=(x[0] + 0.5 * (x[_RAYS_PER_CELL - 1] - x[0]), y[0] + 0.5 * (y[_RAYS_PER_CELL - 1] - y[0])),
        cell=cell,
        clouds=clouds,
        east=east,
        north=north,
        prior=1 / np.array(sigmas + [_SIGMA_CLOUDS] * clouds.shape[1]),
    )


def _ray_axis(low: float, high: float, cell: float) -> np.ndarray:
    count = int(np.ceil((high - low) / cell)) * _RAYS_PER_CELL
    return low + np.arange(count) * cell / _RAYS_PER_CELL


def _cloud_splines(east: np.ndarray, north: np.ndarray, step: float) -> np.ndarray:
    factors = []
    for values in (east, north):
        pieces = max(1, int(np.ceil(np.ptp(values) / step)))
        knots = values.min() + np.ptp(values) * (1 + 1e-9) / pieces * np.arange(-3, pieces + 4)
        factors.append(BSpline.design_matrix(values, knots, 3).toarray())
    return np.einsum("ni,nj->nij", *factors).reshape(east.size, -1)


def _shapes(
    rays: np.ndarray, geometry: ObservationGeometry
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    surface = surface_points(rays, geometry)
    normal, observer, sun = surface_vectors(surface, rays, geometry)
    sun = sun / np.linalg.norm(sun, axis=-1, keepdims=True)
    mu, mu0 = np.sum(normal * observer, axis=-1), np.maximum(np.sum(normal * sun, axis=-1), 0)
    rings, front = _rings(rays, surface.distance, np.nan_to_num(np.sqrt(mu * mu0)), geometry)
    bare = np.isfinite(surface.distance) & ~front
    minnaert = np.sqrt(mu * mu0)
    shapes = (np.ones_like(mu), 0.5 * (mu0 > 0) + 0.5 * minnaert, minnaert, mu, mu**2, mu0)
    belts = _belts(np.degrees(np.arcsin(np.clip(normal[..., 2], -1, 1))), bare) if bare.any() else []
    return [np.where(bare, shape, 0.0) for shape in shapes], belts, rings


def _belts(latitude: np.ndarray, bare: np.ndarray) -> list[np.ndarray]:
    low, high = np.min(latitude[bare]), np.max(latitude[bare]) + 1e-6
    pieces = max(1, round((high - low) / _BELT_STEP))
    knots = low + (high - low) / pieces * np.arange(-3, pieces + 4)
    values = BSpline.design_matrix(np.where(bare, latitude, low).ravel(), knots, 3).toarray()
    return [np.where(bare, column.reshape(latitude.shape), 0.0) for column in values.T]


def _rings(
    rays: np.ndarray, surface_distance: np.ndarray, behind: np.ndarray, geometry: ObservationGeometry
) -> tuple[list[np.ndarray], np.ndarray]:
    # Before the disc the planet shines through: with `behind`, its brightness there.
    front = np.zeros(rays.shape[:-1], bool)
    if geometry.target != "SATURN":
        return [], front
    plane = ring_plane_points(rays, geometry)
    hidden, before = plane.distance > surface_distance, plane.distance < surface_distance
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
        images += [ring & ~before & ~shadowed, ring & before, (ring & before) * behind]
        front |= ring & before
    return [image for image in images if image.any()], front
