"""The closed loop: what the pipeline makes of simulated ramps is the scene that went in, in the right place."""

import json

import numpy as np
import pytest
from astropy.table import Table
from conftest import NIRSPEC_BAND, SHARED_DATA, reduce, simulate
from test_end_to_end import BANDS, PLACES, cube_path
from truth import Comparison, displacement, fit, flux_ratios, read_scene, turn

from cube_pointing import set_offset
from cubes import read_cube, write_cube

CUBES = [("miri", place, band) for place in PLACES for band in BANDS]
CUBES += [("nirspec", place, NIRSPEC_BAND) for place in ("d1", "d2", "combined")]
SINGLE = [key for key in CUBES if key[1] != "combined"]
INSTRUMENTS = ("miri", "nirspec")
LAST_DITHER = {"miri": "d4", "nirspec": "d2"}
POSITION_LIMIT = {"miri": 0.005, "nirspec": 0.003}  # arcsec
FLUX_LIMIT = {"miri": 0.02, "nirspec": 0.01}
HALF_FIELD = 1.6  # of NIRSpec and of MIRI's channel 1 [arcsec]: where a turn of the field moves most
LINE_LIMIT = {"miri": 0.05, "nirspec": 0.1}  # spectral steps


class Reduced:
    """What the tests compare, of the instruments that they ask for."""

    def __init__(self, request):
        self._request = request
        self._comparisons, self._displacements = {}, {}

    def root(self, instrument):
        name = {"miri": "observation", "nirspec": "nirspec_observation"}[instrument]
        return self._request.getfixturevalue(name).root

    def scene(self, instrument, **changes):
        return read_scene(self.root(instrument), **changes)

    def comparison(self, key):
        if key not in self._comparisons:
            self._comparisons[key] = Comparison.of(cube_path(self.root(key[0]), *key[1:]))
        return self._comparisons[key]

    def displacement(self, key):
        if key not in self._displacements:
            self._displacements[key] = displacement(self.comparison(key), self.scene(key[0]))
        return self._displacements[key]


@pytest.fixture(scope="module")
def reduced(request):
    return Reduced(request)


@pytest.mark.parametrize("key", CUBES, ids="-".join)
def test_the_limb_lies_where_navigation_puts_it(reduced, key):
    found, limit = reduced.displacement(key), POSITION_LIMIT[key[0]]
    assert abs(found.across) < limit
    # Along the limb the flat-field stripes, which are the same over whole slices, leave a multiple of the formal error.
    assert abs(found.along) < np.hypot(limit, 4 * found.along_error)


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_the_mean_of_all_dithers_is_in_place_along_the_limb_too(reduced, instrument):
    along = np.array([reduced.displacement(key).along for key in SINGLE if key[0] == instrument])
    noise = along.std(ddof=1) / np.sqrt(along.size)
    assert noise < POSITION_LIMIT[instrument]
    assert abs(along.mean()) < np.hypot(POSITION_LIMIT[instrument], 2 * noise)


@pytest.mark.parametrize("key", CUBES, ids="-".join)
def test_the_flux_of_the_disc_is_right(reduced, key):
    assert reduced.displacement(key).flux_ratio == pytest.approx(1, abs=FLUX_LIMIT[key[0]])


def test_the_flux_of_nirspec_is_right_at_all_wavelengths(reduced):
    key = ("nirspec", "d1", NIRSPEC_BAND)
    assert_right_at_all_wavelengths(reduced.comparison(key), reduced.scene("nirspec"), reduced.displacement(key))


def assert_right_at_all_wavelengths(comparison, scene, found):
    wavelength, ratios = flux_ratios(comparison, scene, found.background)
    assert wavelength.size > 40
    np.testing.assert_allclose(ratios, 1, atol=FLUX_LIMIT["nirspec"])


@pytest.mark.parametrize("key", CUBES, ids="-".join)
def test_every_spaxel_knows_its_longitude_latitude_and_angles(reduced, key):
    comparison = reduced.comparison(key)
    ra, dec = comparison.plane("RA"), comparison.plane("DEC")
    snapshot = reduced.scene(key[0]).snapshot(comparison.cube.header["NAVTIME"], wavelength_range=(5, 5.1))
    surface = snapshot.surface(ra, dec)
    near = comparison.plane("EMISSION") < 60
    assert near.sum() > 50
    for name in ("LAT", "LAT_GRAPHIC", "EMISSION", "INCIDENCE", "PHASE"):
        assert np.abs(comparison.plane(name) - surface[name])[near].max() < 0.01, name
    # A degree of longitude is short near the pole, which is in the field.
    shrink = np.cos(np.radians(surface["LAT"]))
    for name in ("LON", "LON_GRAPHIC"):
        difference = (comparison.plane(name) - surface[name] + 180) % 360 - 180
        assert np.abs(difference * shrink)[near].max() < 0.01, name
    velocity = np.abs(comparison.plane("RADIAL_VELOCITY") - surface["RADIAL_VELOCITY"])
    assert velocity[near].max() < 0.01


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_belts_and_spots_appear_where_they_are(reduced, instrument):
    """The belts and spots of the expected image are moved in latitude and longitude until they fit best: not at all."""
    found = []
    scene = reduced.scene(instrument)
    for key in (key for key in SINGLE if key[0] == instrument and key[1] in ("d1", LAST_DITHER[instrument])):
        comparison = reduced.comparison(key)
        expected, *_ = comparison.expected_image(scene)
        bare, *_ = comparison.expected_image(reduced.scene(instrument, belts=[], spots=[]))
        north, *_ = comparison.expected_image(reduced.scene(instrument, belts=shifted(scene.belts, 0, 1.0)))
        west, *_ = comparison.expected_image(reduced.scene(instrument, spots=shifted(scene.spots, 0, 2.0)))
        templates = [bare, expected - bare, north - expected, west - expected]
        disc = comparison.used & (comparison.plane("EMISSION") < 75)
        values, _ = fit(comparison.image, templates, disc)
        # A degree of longitude is short at the latitude of the spots in the field.
        change = np.abs(west - expected)[disc]
        shrink = np.cos(np.radians(np.average(comparison.plane("LAT_GRAPHIC")[disc], weights=change)))
        found.append([values[2] / values[1], values[3] / values[2], 2 * values[4] / values[2] * shrink])
    contrast, latitude, longitude = np.mean(found, axis=0)
    _, *noise = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    assert contrast == pytest.approx(1, abs=0.1)
    assert abs(latitude) < np.hypot(0.1, 3 * noise[0]) < 0.5
    assert abs(longitude) < np.hypot(0.1, 3 * noise[1]) < 1


def shifted(features, column, step):
    features = np.array(features)
    features[:, column] += step
    return features.tolist()


@pytest.mark.parametrize("key", CUBES, ids="-".join)
def test_the_field_is_turned_on_the_sky_as_the_header_says(reduced, key):
    angle, error = turn(reduced.comparison(key), reduced.scene(key[0]))
    limit = POSITION_LIMIT[key[0]] / HALF_FIELD
    assert error < limit
    assert abs(angle) < np.hypot(limit, 3 * error)


@pytest.mark.parametrize("key", [key for key in CUBES if key[1] == "d1"], ids="-".join)
def test_lines_are_at_their_barycentric_wavelengths(reduced, key):
    """The expected cube, shifted in wavelength until it fits best: a fraction of a spectral step at the most."""
    comparison = reduced.comparison(key)
    cube = comparison.cube
    wavelength = cube.wavelength
    disc = comparison.used & (cube.hdul["EMISSION"].data < 75)
    ra, dec = cube.hdul["RA"].data[disc], cube.hdul["DEC"].data[disc]
    snapshot = reduced.scene(key[0]).snapshot(
        cube.header["NAVTIME"],
        fwhm=comparison.fwhm,
        wavelength_range=(wavelength[0] - 0.01, wavelength[-1] + 0.01),
        field=(float(ra.mean()), float(dec.mean()), 4.0),
    )
    step = wavelength[1] - wavelength[0]

    def spectrum(shift):
        return snapshot.radiance(ra, dec, wavelength[:, None] + shift, frame="barycentric").mean(axis=1)

    expected, slope = spectrum(0), (spectrum(step / 2) - spectrum(-step / 2)) / step
    # Pixels and planes have a width: the lines are a little broader.
    curvature = spectrum(step) + spectrum(-step) - 2 * expected
    measured = np.nanmean(np.where(cube.good, cube.sci, np.nan)[:, disc], axis=1)
    inside = slice(20, -20)
    templates = [values[inside] for values in (expected, slope, curvature)]
    values, _ = fit(measured[inside], templates, np.ones(templates[0].size, bool))
    assert abs(values[2] / values[1]) < LINE_LIMIT[key[0]] * step


@pytest.fixture(scope="module")
def noiseless(tmp_path_factory):
    """The first dither of the same observation without noise."""
    data = simulate(tmp_path_factory.mktemp("noiseless") / "data", "--dithers", "1", "--no_noise")
    reduced = reduce(data, "--end_step", "despike", "--parallel")
    assert reduced.status == 0, reduced.output
    return reduced


@pytest.mark.parametrize("stage", ["stage3", "stage5_despike"])
@pytest.mark.parametrize("place", ["d1", "d1_fringe1d"])
@pytest.mark.parametrize("band", BANDS)
def test_errors_are_honest_through_the_whole_chain(observation, noiseless, stage, place, band):
    """What noise and cosmic rays did to the cubes is as large as ERR says, after every step."""
    cube, truth = (
        read_cube(data.root / stage / place / f"Level3_{band}_s3d_nav.fits") for data in (observation, noiseless)
    )
    pull = ((cube.sci - truth.sci) / cube.err)[cube.good & truth.good]
    low, middle, high = np.percentile(pull, [15.87, 50, 84.13])
    assert 0.9 < (high - low) / 2 < 1.15
    assert abs(middle) < 0.1
    assert np.mean(np.abs(pull) > 5) < 0.002


GEOMETRY = SHARED_DATA / "mrs_geometry"


@pytest.fixture(scope="module")
def neptune(tmp_path_factory):
    """Neptune inside the field, with background and leakcal exposures; through the real optics where they are here."""
    flags = ["--geometry", GEOMETRY] if GEOMETRY.is_dir() else []
    root = tmp_path_factory.mktemp("neptune") / "data"
    data = simulate(root, "--target", "neptune", "--dithers", "1", "--background", "--leakcal", *flags)
    reduced = reduce(data, "--end_step", "navigate", "--no_defringe_1d", "--parallel")
    assert reduced.status == 0, reduced.output
    return reduced


@pytest.mark.skipif(not GEOMETRY.is_dir(), reason=f"no real MRS geometry in {GEOMETRY}")
@pytest.mark.parametrize("band", BANDS)
def test_a_real_geometry_meets_the_same_bounds(neptune, band):
    """Real distortion and spectral calibration of the MRS, and a planet that lies inside the field."""
    found = displacement(Comparison.of(cube_path(neptune.root, "d1", band)), read_scene(neptune.root))
    assert np.hypot(found.across, found.along) < np.hypot(POSITION_LIMIT["miri"], 3 * found.along_error)
    assert found.flux_ratio == pytest.approx(1, abs=FLUX_LIMIT["miri"])


NIRSPEC_GEOMETRY = SHARED_DATA / "nirspec_geometry"


# Of the simulation and of the pipeline. A quarter of the pixels on the disc saturate in the second of two groups.
NIRSPEC_SETTINGS = {
    "prism": (["--grating", "prism", "--groups", "2", "--scale", "4.5"], ["--desaturate", "ramp"]),
    "leakcal": (["--leakcal"], []),
}


@pytest.mark.parametrize("setting", NIRSPEC_SETTINGS)
def test_other_settings_of_nirspec_meet_the_same_bounds(tmp_path, request, setting):
    """Another position angle, and the instrument model of the commissioning in 2022 where it is here."""
    if not request.config.getoption("--long"):
        pytest.skip("takes minutes: asked for with --long")
    what, how = NIRSPEC_SETTINGS[setting]
    flags = ["--dithers", "1", "--roll", "205", *what]
    flags += ["--geometry", NIRSPEC_GEOMETRY] if NIRSPEC_GEOMETRY.is_dir() else []
    data = reduce(simulate(tmp_path / "data", *flags, instrument="nirspec"), "--end_step", "navigate", *how)
    assert data.status == 0, data.output
    (path,) = data.root.glob("stage3/d1/*_s3d_nav.fits")
    comparison, scene = Comparison.of(path), read_scene(data.root)
    disc = comparison.used & (comparison.plane("EMISSION") < 60)
    assert comparison.cube.good[20:-20, disc].mean() > 0.99
    found = displacement(comparison, scene)
    assert np.hypot(found.across, found.along) < POSITION_LIMIT["nirspec"]
    assert found.flux_ratio == pytest.approx(1, abs=FLUX_LIMIT["nirspec"])
    assert_right_at_all_wavelengths(comparison, scene, found)
    angle, error = turn(comparison, scene)
    assert abs(angle) < POSITION_LIMIT["nirspec"] / HALF_FIELD
    assert error < 0.5 * POSITION_LIMIT["nirspec"] / HALF_FIELD


POINTING_ERROR = np.array([0.21, -0.28])  # 0.35 arcsec


def fitted_pointing(observation, destination):
    """What `--fit_pointing` finds and does in cubes of single dithers whose WCS reads too high by that error."""
    moved = observation.copy(destination)
    for path in moved.root.glob("stage3/d?/*_s3d.fits"):
        cube = read_cube(path)
        assert set_offset(cube, *-POINTING_ERROR)
        for key in [key for key in cube.sci_header if key.startswith("NAV_")]:
            del cube.sci_header[key]
        write_cube(cube, path)
    done = reduce(moved, "--start_step", "navigate", "--end_step", "navigate", "--fit_pointing")
    assert done.status == 0, done.output
    table = Table.read(next((moved.root / "stage3").glob("pointing_*.ecsv")))
    for path in moved.root.glob("stage3/d?/*_s3d_nav.fits"):
        header = read_cube(path).sci_header
        assert header["NAV_DRA"] == pytest.approx(table.meta["visit"]["ra_offset"], abs=1e-9)
        assert header["NAV_DDEC"] == pytest.approx(table.meta["visit"]["dec_offset"], abs=1e-9)
    return table


@pytest.mark.parametrize("observed", ["neptune", "nirspec_observation"])
def test_the_pointing_is_found_from_a_whole_disc(request, tmp_path, observed):
    table = fitted_pointing(request.getfixturevalue(observed), tmp_path / "data")
    visit = table.meta["visit"]
    assert np.hypot(visit["ra_offset"] - POINTING_ERROR[0], visit["dec_offset"] - POINTING_ERROR[1]) < 0.02
    assert max(visit["ra_error"], visit["dec_error"]) < 0.02
    assert len(table) == 2 and not any(table["reason"])


def test_the_pointing_is_found_from_an_arc_of_limb(observation, tmp_path):
    """The limb runs east and west: Dec is known better than RA; the visit's dithers together tell both."""
    visit = fitted_pointing(observation, tmp_path / "data").meta["visit"]
    error = np.array([visit["ra_offset"], visit["dec_offset"]]) - POINTING_ERROR
    assert np.hypot(*error) < 0.02
    assert abs(error[0]) < 3 * visit["ra_error"] < 0.12
    assert abs(error[1]) < 3 * visit["dec_error"] < 0.06


@pytest.mark.parametrize("band", BANDS)
def test_the_background_is_subtracted_and_the_planet_is_not(neptune, band):
    cubes = [Comparison.of(cube_path(neptune.root, place, band)) for place in ("d1", "d1_bg")]
    sky = cubes[0].used & (cubes[0].plane("DISTANCE_LIMB") > 15000)
    with_sky, without = (np.nanmedian(np.where(cube.cube.good, cube.cube.sci, np.nan)[:, sky]) for cube in cubes)
    assert with_sky > 1
    assert abs(without) < 0.05 * with_sky
    disc = cubes[0].used & (cubes[0].plane("EMISSION") < 60)
    difference = (cubes[0].image - cubes[1].image)[disc]
    assert np.median(difference) == pytest.approx(with_sky, rel=0.2)


def test_leakcal_exposures_are_calibrated_but_never_become_cubes(neptune):
    assert len(list((neptune.root / "stage0").glob("*_uncal.fits"))) == 4
    assert len(list((neptune.root / "stage1").glob("*_rate.fits"))) == 4
    assert len(list((neptune.root / "stage2").rglob("*_cal.fits"))) == 2
    association = json.loads(next((neptune.root / "stage2" / "bg").glob("*_spec2_asn.json")).read_text())
    (product,) = association["products"]
    kinds = sorted(member["exptype"] for member in product["members"])
    assert kinds == ["background", "background", "imprint", "science"]
    assert all(not member["expname"].startswith("/") for member in product["members"])


def test_the_log_names_versions_and_times(observation):
    log = json.loads((observation.root / "logs" / "run.json").read_text())
    assert all(task["seconds"] > 0 for task in log["tasks"])
