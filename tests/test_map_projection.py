"""Projections: PlanetMapper's maps, interpolation and NaN, zonal means."""

import numpy as np
import pytest
from astropy.io import fits

from animation_panels import map_limits
from errors import InputError
from map_projection import (
    MapGrid,
    map_projection,
    spaxel_projection,
    zonal_deviation,
    zonal_means,
    zonal_weights,
)
from observation_geometry import observation_geometry
from simulate.kernels import write_kernels
from spice_kernels import kernels_loaded

UTC = "2022-11-13T10:00:00"
GRID = MapGrid(4.0)


@pytest.fixture(scope="module", params=["saturn", "uranus"])
def scene(request, tmp_path_factory):
    """Geometry, header and image of a body, and the maps that PlanetMapper makes of it."""
    planetmapper = pytest.importorskip("planetmapper")
    directory = tmp_path_factory.mktemp(request.param)
    write_kernels(directory, "2022-11-11", "2022-11-15", request.param)
    planetmapper.base.prevent_kernel_loading()
    with kernels_loaded(directory):
        body = planetmapper.BodyXY(request.param, UTC, observer="JWST", nx=19, ny=16)
        body.set_disc_params(7.11, 9.23, 8.4, 17)
        geometry = observation_geometry(request.param, UTC)
        image = np.random.default_rng(1).normal(0, 1, (16, 19))
        maps = {
            name: body.map_img(image, interpolation=name, degree_interval=GRID.interval)
            for name in ("nearest", "linear")
        }
        places = [body.get_backplane_map(name, degree_interval=GRID.interval) for name in ("PIXEL-X", "PIXEL-Y")]
        ra, dec = body.get_backplane_img("RA"), body.get_backplane_img("DEC")
        longitude = body.get_backplane_map("LON-GRAPHIC", degree_interval=GRID.interval)
    planetmapper.base.clear_kernels()
    if longitude[0, 0] > longitude[0, 1]:
        # It lists the columns of bodies that count longitude to the west from 360 down, with east to the right.
        places = [place[:, ::-1] for place in places]
        maps = {name: values[:, ::-1] for name, values in maps.items()}
        longitude = longitude[:, ::-1]
    header = fits.Header({"NAXIS1": 19, "NAXIS2": 16, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"})
    y0, x0 = 9, 7
    header["CRPIX1"], header["CRPIX2"], header["CRVAL1"], header["CRVAL2"] = x0 + 1, y0 + 1, ra[y0, x0], dec[y0, x0]
    shrink = np.cos(np.radians(dec[y0, x0]))
    for axis, (dy, dx) in ((1, (0, 1)), (2, (1, 0))):
        header[f"CD1_{axis}"] = (ra[y0 + dy, x0 + dx] - ra[y0, x0]) * shrink
        header[f"CD2_{axis}"] = dec[y0 + dy, x0 + dx] - dec[y0, x0]
    return geometry, header, image, maps, places, longitude


def test_nearest_maps_are_planetmappers(scene):
    geometry, header, image, maps, (x, y), longitude = scene
    np.testing.assert_allclose(GRID.longitude, longitude[0])
    mapped = map_projection(header, geometry, GRID, "nearest")(image)
    # On the edge between two spaxels a rounding decides which is the nearest.
    near_edge = (np.abs(x % 1 - 0.5) < 2e-3) | (np.abs(y % 1 - 0.5) < 2e-3)
    assert near_edge.mean() < 0.01 and np.isfinite(mapped).sum() > 500
    np.testing.assert_array_equal(mapped[~near_edge], maps["nearest"][~near_edge])


def test_linear_maps_are_planetmappers(scene):
    geometry, header, image, maps, _, _ = scene
    mapped = map_projection(header, geometry, GRID, "linear")(image)
    np.testing.assert_array_equal(np.isnan(mapped), np.isnan(maps["linear"]))
    np.testing.assert_allclose(mapped, maps["linear"], atol=5e-3)


def test_linear_interpolation_is_exact_for_a_plane():
    x, y = np.array([0.0, 1.25, 3.0, 3.01, np.nan]), np.array([0.0, 1.5, 2.0, 2.0, 1.0])
    rows, columns = np.mgrid[:3, :4]
    values = spaxel_projection(x, y, (3, 4), "linear")(2.0 * columns - 5.0 * rows)
    np.testing.assert_allclose(values, [0.0, -5.0, -4.0, np.nan, np.nan], atol=1e-6)


def test_nan_spreads_only_to_what_it_has_a_share_in():
    image = np.ones((3, 4))
    image[1, 1] = np.nan
    x, y = np.array([0.0, 0.5, 1.0, 2.0, 2.0]), np.array([1.0, 1.0, 1.0, 1.0, 1.5])
    np.testing.assert_array_equal(spaxel_projection(x, y, (3, 4), "linear")(image), [1, np.nan, np.nan, 1, 1])
    np.testing.assert_array_equal(spaxel_projection(x, y, (3, 4), "nearest")(image), [1, 1, np.nan, 1, 1])


def test_points_of_a_projection_can_be_chosen():
    image = np.arange(12.0).reshape(3, 4)
    y, x = np.mgrid[-1:3, -1:4]
    whole = spaxel_projection(x, y, (3, 4), "nearest")
    chosen = whole.at(np.array([[6, 0], [-1, 19]]))
    np.testing.assert_array_equal(chosen(image), [[0, np.nan], [np.nan, 11]])


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(InputError, match="cubic"):
        spaxel_projection(np.zeros(1), np.zeros(1), (2, 2), "cubic")


def test_the_zonal_mean_leaves_what_varies_along_longitude(scene):
    geometry, header, _, _, _, _ = scene
    from body_geometry import backplanes
    from cubes import sky_coordinates

    planes = backplanes(*sky_coordinates(header), geometry)
    latitude = planes["LAT_GRAPHIC"]
    wave = 0.2 * np.sin(np.radians(6 * planes["LON_GRAPHIC"]))
    belts = 3.0 + latitude / 30.0
    values = np.stack([belts, belts + wave]).reshape(2, -1)
    grid = MapGrid(1.0)
    projection = map_projection(header, geometry, grid, "linear")
    weights = zonal_weights(projection, geometry, grid, 60.0)
    # A second cube that sees nothing does not matter.
    means = zonal_means([values, np.full_like(values, np.nan)], [weights, weights])
    seen = np.isfinite(means[0]) & (np.abs(grid.latitude) < 75)  # at the pole a spaxel is wide in latitude
    np.testing.assert_allclose(means[0, seen], 3.0 + grid.latitude[seen] / 30.0, atol=0.03)
    middle = np.where(planes["EMISSION"] < 50, latitude, np.nan).ravel()
    deviation = zonal_deviation(values, middle, means, grid)
    np.testing.assert_array_equal(np.isnan(deviation[0]), np.isnan(middle))
    assert np.nanstd(deviation[0]) < 0.02
    kept = np.isfinite(middle)
    assert np.corrcoef(deviation[1, kept], wave.ravel()[kept])[0, 1] > 0.9


def test_a_map_is_cut_across_the_seam_of_longitude():
    grid = MapGrid(10.0)
    image = np.zeros(grid.shape, bool)
    image[12:15, [34, 35, 0, 1]] = True
    y, x = np.mgrid[: grid.shape[0], : grid.shape[1]].astype(float)
    x[~image] = np.nan
    longitude, latitude = map_limits([spaxel_projection(x, y, grid.shape, "nearest")], grid)
    assert 320 <= longitude[0] < 340 and 380 < longitude[1] <= 400
    assert 10 <= latitude[0] < 30 and 60 < latitude[1] <= 80
    x[:] = np.nan
    nothing = spaxel_projection(x, y, grid.shape, "nearest")
    assert map_limits([nothing], grid) == ((0.0, 360.0), (-90.0, 90.0))
