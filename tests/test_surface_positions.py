"""Points of a body on the sky: back and forth with the backplanes, and the lines that make its picture."""

import numpy as np
import pytest

from body_geometry import backplanes
from observation_geometry import observation_geometry
from simulate.kernels import write_kernels
from spice_kernels import kernels_loaded
from surface_positions import (
    body_points,
    is_facing,
    limb,
    meridian,
    parallel,
    pole_angle,
    ring,
    rings_of,
    sky_positions,
    sub_observer_point,
    terminator,
)

UTC = "2022-11-13T10:00:00"


@pytest.fixture(scope="module", params=["saturn", "uranus"])
def geometry(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    write_kernels(directory, "2022-11-11", "2022-11-15", request.param)
    with kernels_loaded(directory):
        return observation_geometry(request.param, UTC)


def seen(points):
    return points[np.isfinite(points).all(axis=-1)]


def test_it_is_the_inverse_of_the_backplanes(geometry):
    longitude, latitude = np.meshgrid(np.arange(5.0, 360, 10), np.arange(-85.0, 90, 10))
    points = body_points(longitude, latitude, geometry)
    planes = backplanes(*sky_positions(points, geometry), geometry)
    facing = is_facing(points, geometry)
    # Right at the limb a position error of a rounding is a large one in longitude and latitude.
    inner = facing & (planes["EMISSION"] < 89)
    assert inner.sum() > 100
    np.testing.assert_allclose(planes["LAT_GRAPHIC"][inner], latitude[inner], atol=1e-6)
    turn = (planes["LON_GRAPHIC"] - longitude + 180) % 360 - 180
    np.testing.assert_allclose(turn[inner], 0, atol=1e-6)


def test_points_that_do_not_face_us_are_hidden_by_the_body(geometry):
    longitude, latitude = np.meshgrid(np.arange(5.0, 360, 10), np.arange(-85.0, 90, 10))
    points = body_points(longitude, latitude, geometry)
    distance = np.linalg.norm(geometry.rotation @ -geometry.centre - points, axis=-1)
    planes = backplanes(*sky_positions(points, geometry), geometry)
    in_front = planes["DISTANCE"] < distance - 10.0  # km
    clear = planes["EMISSION"] < 89.5  # elsewhere the two are the same point within kilometres
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(in_front[clear], ~is_facing(points, geometry)[clear])


def test_the_limb_is_where_the_disc_ends(geometry):
    for factor, on_disc in ((0.9999, True), (1.0001, False)):
        planes = backplanes(*sky_positions(factor * limb(geometry), geometry), geometry)
        assert (np.isfinite(planes["LAT"]) == on_disc).all()


@pytest.mark.parametrize("geometry", ["saturn"], indirect=True)  # Uranus is full: its terminator is the limb
def test_the_sun_is_on_the_horizon_at_the_terminator(geometry):
    planes = backplanes(*sky_positions(seen(terminator(geometry)), geometry), geometry)
    on_disc = planes["EMISSION"] < 89
    assert on_disc.sum() > 20
    np.testing.assert_allclose(planes["INCIDENCE"][on_disc], 90, atol=1e-3)


def test_grid_lines_have_their_longitude_and_latitude(geometry):
    planes = backplanes(*sky_positions(seen(parallel(30.0, geometry)), geometry), geometry)
    inner = planes["EMISSION"] < 89
    np.testing.assert_allclose(planes["LAT_GRAPHIC"][inner], 30, atol=1e-6)
    longitude, _ = sub_observer_point(geometry)
    planes = backplanes(*sky_positions(seen(meridian(longitude, geometry)), geometry), geometry)
    inner = planes["EMISSION"] < 89
    assert inner.any()
    np.testing.assert_allclose((planes["LON_GRAPHIC"][inner] - longitude + 180) % 360 - 180, 0, atol=1e-6)


def test_rings_have_their_radius_and_are_hidden_behind_the_body(geometry):
    radius = max(rings_of(geometry))
    points = ring(radius, geometry)
    planes = backplanes(*sky_positions(seen(points), geometry), geometry)
    np.testing.assert_allclose(planes["DISTANCE_RINGS"], radius, rtol=1e-5)
    everywhere = radius * np.stack([np.cos(np.linspace(0, 6, 50)), np.sin(np.linspace(0, 6, 50)), np.zeros(50)], -1)
    hidden = np.isnan(backplanes(*sky_positions(everywhere, geometry), geometry)["DISTANCE_RINGS"])
    assert np.isnan(points).any() == hidden.any()


def test_the_pole_lies_where_the_pole_angle_says(geometry):
    north = sky_positions(np.array([0.0, 0.0, 1.0]), geometry)
    south = sky_positions(np.array([0.0, 0.0, -1.0]), geometry)
    east = (north[0] - south[0]) * np.cos(np.radians(geometry.target_radec[1]))
    angle = np.degrees(np.arctan2(east, north[1] - south[1]))
    assert pole_angle(geometry) == pytest.approx(angle, abs=1e-3)
