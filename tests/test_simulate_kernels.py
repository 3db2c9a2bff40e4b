"""The kernels written for the simulated observatory: accuracy against real ones, consistency, and how they load."""

from pathlib import Path

import numpy as np
import pytest
import spiceypy as spice

from simulate.bodies import BODIES, get_body, moons_of
from simulate.kernels import furnish, write_kernels

REAL_KERNELS = Path(__file__).parents[1].parent / "shared" / "data" / "spice"
START, END = "2022-11-13T10:00", "2022-11-13T14:00"
PLANETS = ("jupiter", "saturn", "uranus", "neptune")
MOONS = [name for name, body in BODIES.items() if body.orbit_radius]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernels")
    write_kernels(directory, START, END)
    return directory


def planet_of(name):
    return next(body for body in BODIES.values() if body.barycentre == get_body(name).barycentre)


def test_files_are_few_and_small(kernels):
    files = sorted(path.name for path in kernels.iterdir())
    assert files == ["iau2015.tpc", "jwst.bsp", "leapseconds.tls", "planets.bsp", "satellites.bsp"]
    assert sum(path.stat().st_size for path in kernels.iterdir()) < 2e6


@pytest.mark.skipif(not REAL_KERNELS.is_dir(), reason=f"no real kernels in {REAL_KERNELS}")
@pytest.mark.parametrize("date", ["2022-01-20", "2022-11-13T10:00", "2023-09-20", "2024-12-20"])
def test_sky_positions_agree_with_de440_to_two_arcminutes(tmp_path, date):
    write_kernels(tmp_path, date, date)
    states = []
    for directory in (tmp_path, REAL_KERNELS):
        with furnish(directory):
            et = spice.str2et(date)
            states.append([et, *(spice.spkezr(planet, et, "J2000", "CN", "JWST") for planet in PLANETS)])
    assert states[0][0] == pytest.approx(states[1][0], abs=1e-5)
    for (ours, our_light_time), (real, real_light_time) in zip(states[0][1:], states[1][1:], strict=True):
        assert np.rad2deg(spice.vsep(ours[:3], real[:3])) * 60 < 1.0
        assert our_light_time == pytest.approx(real_light_time, rel=1e-3)
        assert np.linalg.norm(ours[3:] - real[3:]) < 0.3  # km/s


@pytest.mark.skipif(not REAL_KERNELS.is_dir(), reason=f"no real kernels in {REAL_KERNELS}")
def test_shapes_and_rotation_agree_with_naif_constants(kernels):
    # IAU 2009 and 2015 differ for Neptune's meridian alone, among these bodies
    results = []
    for directory in (kernels, REAL_KERNELS):
        with furnish(directory):
            et = spice.str2et(START)
            results.append(
                [(spice.bodvrd(b, "RADII", 3)[1], spice.sxform("J2000", f"IAU_{b.upper()}", et)) for b in BODIES]
            )
    for name, (radii, turn), (real_radii, real_turn) in zip(BODIES, *results, strict=True):
        np.testing.assert_allclose(radii, real_radii, rtol=1e-6)
        if name == "neptune":
            np.testing.assert_allclose(turn[2, :3], real_turn[2, :3], atol=1e-9)
        else:
            np.testing.assert_allclose(turn, real_turn, atol=1e-9)


def test_leap_seconds_agree_with_astropy(kernels):
    from astropy.time import Time

    dates = ["1998-06-01T00:00:00", "2016-12-31T23:59:00", "2022-11-13T10:00:00", "2023-07-01T12:00:00"]
    with furnish(kernels):
        ours = [spice.str2et(date) for date in dates]
    theirs = (Time(dates, scale="utc").tdb - Time("J2000", scale="tdb")).sec
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # SPICE keeps only the largest term of TDB - TT


def test_velocity_is_the_derivative_of_position(kernels):
    with furnish(kernels):
        et = spice.str2et(START)
        for name in ("JWST", "EARTH", "SUN", *BODIES):
            ahead, behind = (np.array(spice.spkezr(name, et + s, "J2000", "NONE", "SSB")[0][:3]) for s in (10.0, -10.0))
            velocity = np.array(spice.spkezr(name, et, "J2000", "NONE", "SSB")[0][3:])
            np.testing.assert_allclose((ahead - behind) / 20.0, velocity, atol=1e-5)


@pytest.mark.parametrize("name", MOONS)
def test_moons_keep_one_face_to_their_planet_on_kepler_orbits(kernels, name):
    moon, planet = get_body(name), planet_of(name)
    with furnish(kernels):
        for hours in (0.0, 31.0):
            et = spice.str2et(START) + hours * 3600
            to_planet = np.array(spice.spkpos(planet.name, et, f"IAU_{name.upper()}", "NONE", name)[0])
            assert np.linalg.norm(to_planet) == pytest.approx(moon.orbit_radius, rel=1e-9)
            np.testing.assert_allclose(to_planet / moon.orbit_radius, [1, 0, 0], atol=1e-8)
    mean_motion = np.deg2rad(abs(moon.meridian[1])) / 86400
    # oblateness of the planet (J2) hastens the inner moons by up to 0.2 %
    assert mean_motion**2 * moon.orbit_radius**3 == pytest.approx(planet.gm + moon.gm, rel=2e-3)


@pytest.mark.parametrize("name", PLANETS)
def test_barycentre_is_the_centre_of_mass(kernels, name):
    planet = get_body(name)
    with furnish(kernels):
        et = spice.str2et(END)
        moment = sum(
            body.gm * np.array(spice.spkpos(body.name, et, "J2000", "NONE", str(planet.barycentre))[0])
            for body in [planet, *moons_of(planet)]
        )
        offset = np.linalg.norm(spice.spkpos(name, et, "J2000", "NONE", str(planet.barycentre))[0])
    assert np.linalg.norm(moment) < 1e-3 * planet.gm  # 1 m
    assert 10 < offset < 400  # km


def test_furnish_unloads_what_it_loaded_and_nothing_else(kernels, tmp_path):
    before = spice.ktotal("ALL")
    own = tmp_path / "own.tls"
    own.write_text((kernels / "leapseconds.tls").read_text())
    spice.furnsh(str(own))
    try:
        with furnish(kernels) as loaded:
            assert loaded[0].name == "iau2015.tpc"
            assert spice.ktotal("ALL") == before + 6
        assert spice.ktotal("ALL") == before + 1
        spice.str2et(START)  # the other leap-seconds kernel still serves
        with pytest.raises(ZeroDivisionError), furnish(kernels):
            raise ZeroDivisionError
        assert spice.ktotal("ALL") == before + 1
    finally:
        spice.unload(str(own))
    with pytest.raises(FileNotFoundError, match="no SPICE kernels"), furnish(tmp_path / "nothing"):
        pass


def test_one_system_only(tmp_path):
    write_kernels(tmp_path, START, END, target="Saturn")
    with furnish(tmp_path):
        et = spice.str2et(START)
        spice.spkpos("TITAN", et, "J2000", "CN", "JWST")
        spice.spkpos("5", et, "J2000", "CN", "JWST")
        with pytest.raises(spice.exceptions.SpiceyError):
            spice.spkpos("IO", et, "J2000", "CN", "JWST")


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"unknown target 'vulcan'.*saturn"):
        write_kernels(tmp_path, START, END, target="vulcan")
    with pytest.raises(ValueError, match="before"):
        write_kernels(tmp_path, END, START)


def test_planetmapper_finds_and_uses_them(kernels):
    import planetmapper

    planetmapper.set_kernel_path(kernels)
    planetmapper.base.clear_kernels()
    try:
        for name in ("saturn", "jupiter", "uranus", "neptune", "titan", "io"):
            body = planetmapper.Body(name, "2022-11-13T10:00:00", observer="JWST")
            assert body.r_eq == get_body(name).radii[0]
            assert np.isfinite([body.target_ra, body.subpoint_lon, body.subsol_lat]).all()
            assert body.positive_longitude_direction == ("E" if name == "uranus" else "W")
            lon, lat = body.radec2lonlat(body.target_ra, body.target_dec)
            assert 0 <= body.local_solar_time_from_lon(lon) < 24
            assert np.isfinite(lat)
        saturn = planetmapper.Body("saturn", "2022-11-13T10:00:00", observer="JWST")
        # with DE440 and JWST's real trajectory: 16.893 arcsec across, sub-observer latitude 18.397 deg (planetographic)
        assert saturn.target_diameter_arcsec == pytest.approx(16.893, abs=0.01)
        assert saturn.subpoint_lat == pytest.approx(18.397, abs=0.02)
    finally:
        planetmapper.base.clear_kernels()
        planetmapper.set_kernel_path(None)
