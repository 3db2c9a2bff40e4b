"""The simulated MRS exposures: headers, ramps, reference files and the command, against what must come out."""

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.time import Time
from conftest import ROOT, SHARED_DATA, read_environment, run
from numpy.testing import assert_allclose
from truth import read_exposure_truth, read_raw_header

from command_line import run_command
from errors import InputError
from simulate import mrs_detector, nirspec_detector, pointing
from simulate.__main__ import main
from simulate.crds_cache import CONTEXTS, CrdsCache, jwst_reference_types
from simulate.exposure import simulate_exposure
from simulate.kernels import furnish
from simulate.mrs_calibration import build_calibration
from simulate.mrs_exposure import MRS, background_radiance
from simulate.mrs_optics import get_optics
from simulate.mrs_plan import MrsSettings
from simulate.observation import simulate_observation
from simulate.plan import make_settings, plan_exposures
from simulate.pointing import MRS_APERTURE
from simulate.scene import Scene

SPEED_OF_LIGHT = 299792458.0  # [m/s]
EAST, NORTH = 0.30, -0.20
NAME = "jw01247330001_02101_00001_miri"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Neptune in channels 1 and 2, one dither, two groups, no noise, a pointing error; a blank in the path."""
    root = tmp_path_factory.mktemp("simulated data") / "out"
    return simulate_observation(
        MRS, root, target="neptune", dithers=1, groups=2, jobs=1, noise=False, pointing_error=(EAST, NORTH)
    )


@pytest.fixture(scope="module")
def header(made) -> fits.Header:
    return read_raw_header(made, f"{NAME}fushort")


@pytest.fixture(scope="module")
def truth(made) -> dict:
    return read_exposure_truth(made, f"{NAME}fushort")


# --- headers


def test_file_opens_as_a_level_1b_model_without_complaint(made):
    from stdatamodels.jwst.datamodels import Level1bModel

    with Level1bModel(made / "stage0" / f"{NAME}fushort_uncal.fits", strict_validation=True) as model:
        assert model.data.shape == (1, 2, 1024, 1032)
        assert model.data.dtype == np.uint16
        assert list(model.group["group_number"]) == [1, 2]
        assert_allclose(model.int_times["int_mid_MJD_UTC"], model.meta.exposure.mid_time)


def test_header_has_what_a_real_moving_target_header_has(header):
    path = SHARED_DATA / "x1d" / "telesto_d1_prism-clear_x1d.fits"
    if not path.is_file():
        pytest.skip(f"no real header in {path}")
    real = fits.getheader(path)
    not_of_raw_mrs_files = re.compile(
        r"R_|S_|GWA_|NRS_|CAL_|CRDS_|ASN|FILTER|GRATING|FOCUSPOS|LAMP|OPMODE|COMMENT|HISTORY|$"
    )
    missing = [key for key in real if not not_of_raw_mrs_files.match(key) and key not in header]
    assert missing == []
    for key in ("TELESCOP", "TARGTYPE", "VISITYPE", "PCS_MODE", "PROGRAM", "SUBARRAY", "EXPRIPAR"):
        assert header[key] == real[key]


def test_times_are_consistent(header):
    start, middle, end = (header[key] for key in ("EXPSTART", "EXPMID", "EXPEND"))
    assert_allclose((end - start) * 86400, header["DURATION"], atol=1e-5)
    assert_allclose(middle, (start + end) / 2, atol=1e-9)
    assert_allclose(Time(header["DATE-BEG"]).mjd, start, atol=1e-8)
    assert header["DATE-OBS"] + "T" + header["TIME-OBS"] == header["DATE-BEG"]
    assert_allclose((header["TDB-MID"] - middle) * 86400, 69.18, atol=0.01)


def test_ephemeris_is_that_of_the_kernels_in_the_keywords_units(made, header):
    import spiceypy as spice

    with furnish(made / "kernels"):
        et = spice.str2et(Time(header["EPH_TIME"], format="mjd").isot)
        barycentric = spice.spkezr("JWST", et, "J2000", "NONE", "SSB")[0]
        geocentric = spice.spkezr("JWST", et, "J2000", "NONE", "EARTH")[0]
    assert_allclose([header[f"JWST_{axis}"] for axis in "XYZ"], barycentric[:3], atol=1.0)
    assert_allclose([header[f"JWST_D{axis}"] for axis in "XYZ"], barycentric[3:], atol=1e-6)
    assert_allclose([header[f"OBSGEO-{axis}"] for axis in "XYZ"], 1000 * geocentric[:3], atol=1.0)
    distance = np.linalg.norm([header[f"OBSGEO-{axis}"] for axis in "XYZ"])
    assert 1.0e9 < distance < 2.0e9


def test_velosys_is_the_recession_of_jwst_and_va_scale_follows_from_its_velocity(header):
    from stcal.velocity_aberration import compute_va_effects

    velocity = np.array([header[f"JWST_D{axis}"] for axis in "XYZ"])
    direction = SkyCoord(header["MT_RA"], header["MT_DEC"], unit="deg").cartesian.xyz.value
    assert_allclose(header["VELOSYS"], -1000 * velocity @ direction, atol=0.1)
    scale = compute_va_effects(*velocity, header["RA_REF"], header["DEC_REF"])[0]
    assert_allclose(header["VA_SCALE"], scale, atol=1e-8)


# --- pointing and optics, against the WCS that jwst itself makes


@pytest.fixture
def wcs(made, monkeypatch):
    """The WCS that jwst makes of the exposure and its reference files."""
    from jwst.assign_wcs import AssignWcsStep
    from stdatamodels.jwst import datamodels

    for name, value in read_environment(made / "environment.sh").items():
        monkeypatch.setenv(name, value)
    with datamodels.open(made / "stage0" / f"{NAME}fushort_uncal.fits") as raw:
        image = datamodels.IFUImageModel((1024, 1032))
        image.update(raw)
    return AssignWcsStep.call(image, configure_log=False).meta.wcs


# crds itself warns about one of its own functions
@pytest.mark.filterwarnings("ignore:.*get_cache_lock:DeprecationWarning")
def test_jwst_and_the_telescope_agree_where_each_pixel_looks(wcs, truth):
    reference = (MRS_APERTURE.v2_ref, MRS_APERTURE.v3_ref)
    where = (truth["header_ra_ref"], truth["header_dec_ref"], truth["roll_ref"])
    attitude = pointing.attitude_matrix(*reference, *where)
    aberration = pointing.Aberration(MRS_APERTURE, truth["velocity_aberration_scale"], 0.0, 0.0)
    optics = get_optics("MIRIFUSHORT", "SHORT")
    for number, y, x in optics.pixels(0.8):
        y, x = y[5::501], x[5::501]
        ra, dec, wavelength = wcs(x, y)
        model = optics.slices[number]
        alpha = model.alpha(y.astype(float), x.astype(float))
        v2, v3 = aberration.correct(*optics.to_v2v3[number // 100](alpha, np.full(alpha.shape, model.beta)))
        expected = SkyCoord(*pointing.v2v3_to_sky(v2, v3, attitude), unit="deg")
        assert SkyCoord(ra, dec, unit="deg").separation(expected).to_value("mas").max() < 0.01
        # The cubes' wavelengths are barycentric, the detector's are not.
        assert_allclose(wavelength * (1 + truth["velosys"] / SPEED_OF_LIGHT), truth["wavelength"][y, x], rtol=2e-7)


@pytest.mark.filterwarnings("ignore:.*get_cache_lock:DeprecationWarning")
def test_pixels_are_lit_by_what_lies_where_jwst_sees_them_less_the_pointing_error(wcs, made, truth):
    scene = Scene.from_description(json.loads((made / "truth" / "scene.json").read_text()), made / "kernels")
    view = scene.snapshot(truth["scene"]["et"])
    optics = get_optics("MIRIFUSHORT", "SHORT")
    roll = np.deg2rad(truth["roll_ref"])
    rms_radius = np.sqrt(1 / 12)  # two points at +- this have the mean and the variance of a pixel or slice
    for number, y, x in optics.pixels(0.8):
        y, x = y[5::501], x[5::501]
        to_v2v3, width = optics.to_v2v3[number // 100], optics.slice_width[number // 100]
        expected = background_radiance(truth["wavelength"][y, x])
        for along, across in product((-rms_radius, rms_radius), repeat=2):
            ra, dec, wavelength = wcs(x + along, y)
            v2, v3 = np.subtract(to_v2v3(0, across * width), to_v2v3(0, 0))
            east = v2 * np.cos(roll) + v3 * np.sin(roll) - EAST
            north = v3 * np.cos(roll) - v2 * np.sin(roll) - NORTH
            ra, dec = ra + east / 3600 / np.cos(np.deg2rad(dec)), dec + north / 3600
            expected += view.radiance(ra, dec, wavelength, frame="barycentric") / 4
        assert_allclose(truth["radiance"][y, x], expected, rtol=0.01, atol=0.004 * truth["radiance"].max())


def test_pointing_error_moves_the_telescope_and_not_the_header(truth, header):
    assert_allclose(truth["header_ra_ref"], header["RA_REF"], atol=1e-12)
    cosine = np.cos(np.deg2rad(truth["dec_ref"]))
    assert_allclose((truth["header_ra_ref"] - truth["ra_ref"]) * 3600 * cosine, EAST, atol=1e-6)
    assert_allclose((truth["header_dec_ref"] - truth["dec_ref"]) * 3600, NORTH, atol=1e-6)


# --- detector


def test_linearity_curve_and_its_inverse_agree():
    readings = np.linspace(0, 60000, 501)
    assert_allclose(mrs_detector.delinearise(mrs_detector.linearise(readings)), readings, atol=1e-3)


def test_undoing_the_detector_gives_the_rate_back(made, truth):
    ramp = fits.getdata(made / "stage0" / f"{NAME}fushort_uncal.fits", "SCI")[0].astype(float)
    linear = mrs_detector.linearise(ramp - mrs_detector.reset_transient(2)) - mrs_detector.dark_ramp(2)
    rate = np.diff(linear, axis=0)[0] / mrs_detector.FRAME_TIME
    defects = mrs_detector.get_defects("MIRIFUSHORT")
    good = np.ones(rate.shape, dtype=bool)
    for indices in (defects.dead, defects.hot, defects.warm):
        good.flat[indices] = False
    good &= (ramp[-1] < mrs_detector.SATURATION) & ~mrs_detector.is_reference()
    # Two readings, each rounded to 1 DN.
    assert np.abs(rate - truth["rate"])[good].max() < 1.2 / mrs_detector.FRAME_TIME
    lit = good & (truth["rate"] > 50)
    assert_allclose((rate - truth["rate"])[lit].mean(), 0, atol=2e-3)
    warm = np.zeros(rate.shape)
    warm.flat[defects.warm] = defects.extra_rate.flat[defects.warm]
    assert_allclose(rate.flat[defects.warm], (truth["rate"] + warm).flat[defects.warm], atol=0.5)
    assert_allclose(rate[:, mrs_detector.is_reference()], 0)


def test_noise_is_that_of_photons_and_reads():
    rate, groups = np.full(mrs_detector.SHAPE, 900.0), 3
    ramp = mrs_detector.make_ramp(rate, "MIRIFULONG", groups, np.random.default_rng(5), cosmic_rays=False).astype(float)
    linear = mrs_detector.linearise(ramp - mrs_detector.reset_transient(groups))
    steps = np.diff(linear, axis=0)[:, :, 4:-4]
    expected = (rate + mrs_detector.dark_rate())[:, 4:-4] * mrs_detector.FRAME_TIME
    photons = expected[512].mean() / mrs_detector.GAIN
    slope = 1 + 2 * mrs_detector.LINEARITY[2] * np.median(ramp)
    reads = 2 * (mrs_detector.READ_NOISE**2 + 1 / 12) * slope**2
    sigma = 1.4826 * np.median(np.abs(steps[0] - np.median(steps[0])))
    # The drift of the four amplifiers adds offsets that all pixels of one share.
    columns = [steps[0][row::2, column::4] for row in range(2) for column in range(4)]
    sigma = np.mean([1.4826 * np.median(np.abs(part - np.median(part))) for part in columns])
    assert_allclose(sigma**2, photons + reads, rtol=0.02)
    drift = ramp[1][:, :4].mean(axis=0) - ramp[0][:, :4].mean(axis=0)
    science = [np.median(steps[0][:, column::4]) - np.median(expected) for column in range(4)]
    # As well as the reads of a reference column tell the drift.
    assert_allclose(science, drift * slope, atol=3 * np.sqrt(2 / len(linear[0])) * mrs_detector.READ_NOISE)


def test_cosmic_rays_jump_and_stay():
    arguments = (np.zeros(mrs_detector.SHAPE), "MIRIFUSHORT", 3)
    clean = mrs_detector.make_ramp(*arguments, np.random.default_rng(1), noise=False, cosmic_rays=False).astype(float)
    struck = mrs_detector.make_ramp(*arguments, np.random.default_rng(1), noise=False, cosmic_rays=True).astype(float)
    hit = (struck - clean) > 50
    counts = hit.sum(axis=(1, 2))
    expected = mrs_detector.COSMIC_RAYS_PER_FRAME * np.array([1, 2, 3])
    assert np.all((counts > expected) & (counts < 3.2 * expected))
    assert np.all(hit[1][hit[0]]) and np.all(hit[2][hit[1]])


@pytest.mark.parametrize(("instrument", "detector"), [(mrs_detector, "MIRIFUSHORT"), (nirspec_detector, "NRS2")])
def test_noise_is_the_same_with_and_without_cosmic_rays(instrument, detector):
    arguments = (np.full(instrument.SHAPE, 100.0), detector, 2)
    struck, clean = (
        instrument.make_ramp(*arguments, np.random.default_rng(3), cosmic_rays=there).astype(int)
        for there in (True, False)
    )
    assert np.all(struck >= clean)
    assert 0 < np.mean(struck != clean) < 1e-3


def test_bright_light_saturates_in_late_groups_only():
    rate = np.full(mrs_detector.SHAPE, 4500.0)
    ramp = mrs_detector.make_ramp(rate, "MIRIFUSHORT", 5, np.random.default_rng(2), noise=False, cosmic_rays=False)
    saturated = np.median(ramp[:, :, 4:-4], axis=(1, 2)) >= mrs_detector.SATURATION
    assert list(saturated) == [False, False, False, False, True]
    assert ramp.max() <= mrs_detector.FULL_WELL


def test_stripes_have_the_strength_asked_for_and_vary_between_slices():
    optics = get_optics("MIRIFUSHORT", "SHORT")
    calibration = build_calibration(optics, 0.02, 0.0)
    lit = optics.regions[0] > 0
    assert_allclose(calibration.stripes[lit].std(), 0.02, rtol=0.1)
    assert_allclose(calibration.stripes[lit].mean(), 1, atol=0.002)
    assert np.all(calibration.residual_fringes == 1) and np.all(calibration.stripes[~lit] == 1)
    means = [calibration.stripes[y[np.abs(y - 500) < 9], x[np.abs(y - 500) < 9]].mean() for _, y, x in optics.pixels()]
    assert np.std(means) > 0.01


def test_background_rises_with_wavelength():
    assert np.all(np.diff(background_radiance(np.linspace(4.9, 28.5, 50))) > 0)
    assert 5 < background_radiance(np.array(10.0)) < 50
    assert 300 < background_radiance(np.array(27.5)) < 2000


def test_same_seed_same_data(made, tmp_path):
    settings = [make_settings(MrsSettings, target="neptune", groups=2, leakcal=True, seed=seed) for seed in (1, 1, 2)]
    exposure = next(exposure for exposure in plan_exposures(settings[0]) if exposure.role == "leakcal")
    data = []
    for number, setting in enumerate(settings):
        scene = Scene("neptune", made / "kernels", seed=setting.seed)
        path = simulate_exposure(tmp_path / str(number), MRS, setting, exposure, scene, 1)
        data.append(fits.getdata(path, "SCI"))
    assert np.array_equal(data[0], data[1])
    assert not np.array_equal(data[0], data[2])
    truths = [(tmp_path / str(number) / "truth" / f"{exposure.name}.npz").read_bytes() for number in (0, 1)]
    assert truths[0] == truths[1]


# --- CRDS cache


def test_crds_accepts_the_mappings_and_knows_every_type(made, monkeypatch):
    for name, value in read_environment(made / "environment.sh").items():
        monkeypatch.setenv(name, value)
    from crds.core import rmap

    mappings = sorted((made / "crds" / "mappings" / "jwst").iterdir())
    assert {path.suffix for path in mappings} == {".pmap", ".imap", ".rmap"}
    for path in mappings:
        rmap.Mapping.from_file(str(path))  # raises ChecksumError
    selector = rmap.Mapping.from_file(str(made / "crds/mappings/jwst/jwst_miri_0001.imap")).selector
    assert jwst_reference_types() <= set(selector)


def test_crds_finds_the_references_of_an_exposure(made, monkeypatch):
    for name, value in read_environment(made / "environment.sh").items():
        monkeypatch.setenv(name, value)
    from crds import getreferences
    from stdatamodels.jwst import datamodels

    with datamodels.open(made / "stage0" / f"{NAME}fushort_uncal.fits") as model:
        parameters = model.get_crds_parameters()
    types = ["distortion", "photom", "dark", "cubepar", "mask", "fringe", "wavelengthrange", "ipc"]
    found = getreferences(parameters, reftypes=types, observatory="jwst", context=CONTEXTS["MIRI"])
    assert found.pop("ipc").startswith("NOT FOUND")
    for reference_type, path in found.items():
        assert Path(path).is_file() and f"_{reference_type}_" in Path(path).name


def test_a_spoilt_mapping_is_noticed(tmp_path):
    from crds.core import rmap
    from crds.core.exceptions import ChecksumError

    cache = CrdsCache(tmp_path, "MIRI")
    cache.finish(["mask"])
    path = tmp_path / "mappings" / "jwst" / CONTEXTS["MIRI"]
    path.write_text(path.read_text().replace("'MIRI'", "'NIRI'"))
    with pytest.raises(ChecksumError):
        rmap.Mapping.from_file(str(path))


def test_environment_script_survives_blanks_in_the_path(made):
    script = f'. "{made / "environment.sh"}"; test -d "$CRDS_PATH" && test -d "$PLANETMAPPER_KERNEL_PATH"'
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 0


# --- plan and command


def test_plan_names_and_times():
    settings = make_settings(
        MrsSettings, bands="long,short", detectors=("short", "long"), dithers=3, background=True, leakcal=True
    )
    plan = plan_exposures(settings)
    names = [exposure.name for exposure in plan]
    assert len(set(names)) == len(names) == (3 + 1 + 2) * 4
    assert names[0] == "jw01247330001_02101_00001_mirifushort"
    assert plan[0].delay == plan[1].delay and {plan[0].detector, plan[1].detector} == {"MIRIFUSHORT", "MIRIFULONG"}
    delays = [exposure.delay for exposure in plan]
    assert delays == sorted(delays)
    assert plan[0].configuration == ("SHORT",)
    backgrounds = [exposure for exposure in plan if exposure.role == "background"]
    assert {exposure.observation for exposure in backgrounds} == {"331"}
    assert {exposure.dither for exposure in backgrounds} == {1, 2}


def test_backgrounds_and_leakcals_say_what_they_are(made, tmp_path):
    settings = make_settings(MrsSettings, target="neptune", groups=1, background=True, leakcal=True, dithers=1)
    scene = Scene("neptune", made / "kernels")
    headers = {}
    for exposure in plan_exposures(settings):
        if exposure.role == "science" or exposure.dither > 1:
            continue
        headers[exposure.role] = fits.getheader(simulate_exposure(tmp_path, MRS, settings, exposure, scene, 4))
        with np.load(tmp_path / "truth" / f"{exposure.name}.npz") as images:
            lit = images["regions"] > 0
            expected = background_radiance(images["wavelength"][lit])
            assert_allclose(images["radiance"][lit], expected, rtol=1e-3)
    assert headers["background"]["BKGDTARG"] is True and headers["background"]["IS_IMPRT"] is False
    assert headers["background"]["TARGPROP"] != "NEPTUNE" and headers["background"]["OBSERVTN"] == "331"
    assert headers["leakcal"]["IS_IMPRT"] is True and headers["leakcal"]["BKGDTARG"] is False


def test_a_complete_observation_is_not_made_again(made, capsys):
    settings = dict(target="neptune", dithers=1, groups=2, noise=False, pointing_error=(EAST, NORTH))
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    said = []
    simulate_observation(MRS, made, if_needed=True, report=said.append, **settings)
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert "complete" in said[0]


def test_an_earlier_simulation_does_not_mix_with_a_new_one(tmp_path, monkeypatch):
    def quickly(root, instrument, settings, exposure, *_):
        path = root / "stage0" / f"{exposure.name}_uncal.fits"
        path.touch()
        return path

    monkeypatch.setattr("simulate.observation._expose", quickly)
    monkeypatch.setattr("simulate.observation._write_cache", lambda root, *_: root / "truth")
    own = tmp_path / "stage0" / "jw00001001001_02101_00001_nrs1_uncal.fits"
    own.parent.mkdir()
    own.touch()
    simulate_observation(MRS, tmp_path, dithers=3, jobs=1)
    simulate_observation(MRS, tmp_path, dithers=2, jobs=1)
    names = {path.name for path in (tmp_path / "stage0").iterdir()}
    assert names == {
        own.name,
        f"{NAME}fushort_uncal.fits",
        f"{NAME}fushort_uncal.fits".replace("00001_miri", "00002_miri"),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "pluto"], "--target 'pluto' is not known: take one of jupiter"),
        (["--bands", "short,tall"], "--bands 'tall' is not known"),
        (["--detectors", ""], "--detectors is empty"),
        (["--detectors", "short,short"], "names one of them twice"),
        (["--dithers", "0"], "--dithers 0 must lie in 1-8"),
        (["--groups", "0"], "--groups 0 must lie in"),
        (["--scale", "0"], "--scale 0 must be above zero"),
        (["--seed", "-1"], "--seed -1 must not be negative"),
        (["--field", "moon"], "--field 'moon' is not known"),
        (["--target", "uranus", "--field", "rings"], "--field 'rings' needs --target saturn"),
        (["--start", "tomorrow"], "--start 'tomorrow' is not a date"),
        (["--start", "1066-10-14"], "must lie in 1990-2050"),
        (["--jobs", "0"], "--jobs 0 must be 1 or more"),
        (["--geometry", "/no/such"], "is not a directory"),
        (["--kernels", "/no/such"], "is not a directory"),
    ],
)
def test_bad_options_get_one_sentence_and_status_2(tmp_path, capsys, arguments, message):
    assert run_command(main, ["miri", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out" / "stage0").exists()


def test_geometry_and_kernels_that_lack_something_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no distortion file for MIRIFUSHORT SHORT"):
        simulate_observation(MRS, tmp_path / "out", geometry=tmp_path)
    with pytest.raises(InputError, match="do not give saturn and JWST"):
        simulate_observation(MRS, tmp_path / "out", kernels=tmp_path)
    with pytest.raises(InputError, match="not a setting"):
        make_settings(MrsSettings, ditherz=3)


def test_the_command_line_is_light_and_takes_both_spellings():
    program = "import sys, simulate.__main__; print([m for m in ('jwst', 'crds', 'matplotlib') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    shown = run("-m", "simulate", "miri", "--help").stdout
    assert "--pointing-error" in shown and "--pointing_error" in shown
