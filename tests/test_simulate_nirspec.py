"""The simulated NIRSpec exposures: headers, ramps, 1/f noise, leaks, reference files and the command."""

import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from conftest import SHARED_DATA, read_environment
from numpy.testing import assert_allclose
from truth import read_exposure_truth, read_raw_header

from command_line import run_command
from errors import InputError
from simulate import nirspec_detector
from simulate.__main__ import main
from simulate.crds_cache import CONTEXTS, jwst_reference_types
from simulate.nirspec_exposure import NIRSPEC, background_radiance
from simulate.nirspec_optics import get_optics
from simulate.nirspec_plan import NirspecSettings
from simulate.nirspec_shutters import FAILED_OPEN, GLOW_RATE, LEAK_RADIANCE, leaked_radiance
from simulate.observation import simulate_observation
from simulate.plan import make_settings, plan_exposures

NAME = "jw01247330001_02101_00001_nrs1"
LEAKCAL = NAME.replace("02101", "02102")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Neptune with the prism, one dither and its leakcal, two groups, no noise."""
    root = tmp_path_factory.mktemp("nirspec") / "out"
    settings = {"grating": "prism", "dithers": 1, "groups": 2, "noise": False, "leakcal": True}
    return simulate_observation(NIRSPEC, root, jobs=1, **settings)


@pytest.fixture(scope="module")
def header(made) -> fits.Header:
    return read_raw_header(made, NAME)


@pytest.fixture(scope="module")
def truth(made) -> dict:
    return read_exposure_truth(made, NAME)


# --- headers


def test_file_opens_as_a_level_1b_model_without_complaint(made):
    from stdatamodels.jwst.datamodels import Level1bModel

    with Level1bModel(made / "stage0" / f"{NAME}_uncal.fits", strict_validation=True) as model:
        assert model.data.shape == (1, 2, 2048, 2048)
        assert model.data.dtype == np.uint16


def test_header_has_what_the_real_header_of_a_moving_target_has(header):
    path = SHARED_DATA / "x1d" / "telesto_d1_prism-clear_x1d.fits"
    if not path.is_file():
        pytest.skip(f"no real header in {path}")
    real = fits.getheader(path)
    not_of_raw_files = re.compile(r"R_|S_|CAL_|CRDS_|ASN|COMMENT|HISTORY|$")
    assert [key for key in real if not not_of_raw_files.match(key) and key not in header] == []
    same = (
        "TELESCOP",
        "INSTRUME",
        "DETECTOR",
        "FILTER",
        "GRATING",
        "FOCUSPOS",
        "LAMP",
        "OPMODE",
        "EXP_TYPE",
        "SCA_NUM",
    )
    for key in (*same, "TEMPLATE", "APERNAME", "TARGTYPE", "FASTAXIS", "SLOWAXIS", "SUBSIZE2", "NRESETS"):
        assert header[key] == real[key], key
    # The wheel stands where it does within the repeatability of its stops.
    assert_allclose(header["GWA_TILT"], real["GWA_TILT"], atol=2)


def test_header_tells_how_the_detector_is_read(header):
    assert header["READPATT"] == "NRSRAPID"
    # Four outputs read 512 pixels of each of 2048 lines every 10 us, with 12 pixels' time between lines.
    lines = nirspec_detector.OUTPUT_ROWS + nirspec_detector.LINE_OVERHEAD
    assert_allclose(header["TFRAME"], 2048 * lines * header["TSAMPLE"] * 1e-6, atol=0.01)
    assert_allclose((header["V2_REF"], header["V3_REF"], header["V3I_YANG"]), (300.3, -497.9, 138.57), atol=0.01)
    assert header["VPARITY"] == -1


# --- light


def test_scene_lies_in_the_field_with_sky_around_it(truth):
    scene = truth["scene"]
    assert 2.0 < scene["equatorial_diameter_arcsec"] < 2.5
    lit, radiance = truth["slices"] > 0, truth["radiance"]
    # The disc of 2.3 arcsec covers 4.2 of the field's 9.9 arcsec2.
    assert_allclose((radiance[lit] > 0.5 * np.percentile(radiance[lit], 90)).mean(), 0.42, atol=0.1)
    sky = background_radiance(truth["wavelength"][lit])
    assert 0.2 < np.mean(radiance[lit] < sky + 5) < 0.6


def test_pixels_at_the_edge_see_the_light_on_their_share(truth):
    optics = get_optics("NRS1", "PRISM", "CLEAR")
    for number in (0, 29):
        pixels = optics.pixels_of_slice(number)
        place = pixels.rows, pixels.columns
        # Far from the planet there is zodiacal light alone, and nowhere less.
        share = truth["radiance"][place] / (pixels.coverage * background_radiance(pixels.wavelength))
        assert share.min() > 0.97
        part = pixels.coverage < 0.9
        assert_allclose(np.percentile(share[part], 10), 1, atol=0.03)


def test_leakcal_has_the_light_of_the_shutters_and_nothing_else(made, truth):
    leak = truth["leak"]
    with np.load(made / "truth" / f"{LEAKCAL}.npz") as images:
        assert_allclose(images["rate"], leak)
    header = fits.getheader(made / "stage0" / f"{LEAKCAL}_uncal.fits")
    assert header["IS_IMPRT"] is True and header["BKGDTARG"] is False and header["PATT_NUM"] == 1
    science, imprint = (
        fits.getdata(made / "stage0" / f"{name}_uncal.fits", "SCI")[0].astype(float) for name in (NAME, LEAKCAL)
    )
    # Beside the slices both are alike.
    beside = (truth["slices"] == 0) & ~nirspec_detector.is_reference()
    assert np.abs(science - imprint)[:, beside].max() <= 1


def test_a_failed_shutter_makes_one_narrow_spectrum(truth):
    rate = truth["leak"]
    bright = rate > 2 * GLOW_RATE
    # Along the dispersion the light of a shutter fills a band, across it four to six pixels of 0.1 arcsec.
    rows = np.flatnonzero(bright.any(axis=1))
    bands = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    assert 2 <= len(bands) <= len(FAILED_OPEN)
    assert 3 <= np.median([band.size for band in bands]) <= 14
    assert 0.0005 < bright.mean() < 0.02
    assert_allclose(np.median(rate[~bright & ~nirspec_detector.is_reference()]), 0.9 * GLOW_RATE, rtol=0.1)
    assert not rate[nirspec_detector.is_reference()].any()


def test_jwst_flags_the_spectra_of_failed_shutters_where_they_are(made):
    from jwst.msaflagopen import msaflag_open
    from stdatamodels.jwst import datamodels

    references = made / "crds" / "references" / "jwst" / "nirspec"
    files = {path.name.split("_")[2]: str(path) for path in references.iterdir()}
    optics = get_optics("NRS1", "PRISM", "CLEAR")
    with datamodels.open(made / "stage0" / f"{NAME}_uncal.fits") as raw:
        model = datamodels.IFUImageModel((2048, 2048))
        model.update(raw)
    wcsinfo = model.meta.wcsinfo
    wcsinfo.waverange_start, wcsinfo.waverange_end = optics.model_range
    wcsinfo.spectral_order = optics.order
    with np.errstate(all="ignore"):
        model = msaflag_open.do_correction(model, files["msaoper"], files)
    flagged = (model.dq & datamodels.dqflags.pixel["MSA_FAILED_OPEN"]) > 0
    rows, columns, _, radiance = leaked_radiance(optics)
    lit = np.zeros(flagged.shape)
    np.add.at(lit, (rows, columns), radiance / LEAK_RADIANCE)
    assert (lit > 0.6).sum() > 1000
    assert flagged[lit > 0.6].mean() > 0.99
    # A little beyond the filter's limits there is a place, but no light.
    assert np.mean(lit[flagged] > 0.4) > 0.9


def test_background_is_lowest_at_three_micrometres():
    wavelength = np.linspace(0.7, 5.2, 100)
    level = background_radiance(wavelength)
    assert 2 < wavelength[level.argmin()] < 4 and 0.03 < level.min() < level.max() < 1


def test_psf_widens_with_wavelength_and_is_never_sharper_than_diffraction():
    wavelength = np.array([0.6, 2.0, 5.3])
    fwhm = NIRSPEC.fwhm(wavelength)
    assert np.all(np.diff(fwhm) > 0)
    assert np.all(fwhm > 1.03 * wavelength * 1e-6 / 6.5 * 206265)
    assert 0.15 < fwhm[2] < 0.25


# --- detector


def test_undoing_the_detector_gives_the_rate_back(made, truth):
    ramp = fits.getdata(made / "stage0" / f"{NAME}_uncal.fits", "SCI")[0].astype(float)
    signal = ramp - nirspec_detector.get_bias("NRS1")
    linear = nirspec_detector.linearise(signal) - nirspec_detector.dark_ramp(2)
    rate = np.diff(linear, axis=0)[0] / nirspec_detector.FRAME_TIME
    defects = nirspec_detector.get_defects("NRS1")
    good = (ramp[-1] < nirspec_detector.SATURATION) & ~nirspec_detector.is_reference()
    for indices in (defects.dead, defects.hot, defects.warm):
        good.flat[indices] = False
    # Two readings, each rounded to 1 DN.
    assert np.abs(rate - truth["rate"])[good].max() < 1.2 / nirspec_detector.FRAME_TIME
    assert_allclose(np.diff(ramp, axis=0)[0][nirspec_detector.is_reference()], 0)


def test_linearity_curve_and_its_inverse_agree():
    signal = np.linspace(0, 60000, 301)
    assert_allclose(nirspec_detector.delinearise(nirspec_detector.linearise(signal)), signal, atol=1e-6)


def test_flicker_noise_has_the_spectrum_of_one_over_f_in_the_time_of_reading():
    random = np.random.default_rng(8)
    line = nirspec_detector.OUTPUT_ROWS + nirspec_detector.LINE_OVERHEAD
    power = 0
    for _ in range(2):
        noise = nirspec_detector.flicker_noise("NRS1", random)[: nirspec_detector.OUTPUT_ROWS]
        lines = noise.mean(axis=0)
        power = power + np.abs(np.fft.rfft(lines - lines.mean())) ** 2
    frequency = np.fft.rfftfreq(2048) / line
    # From line to line the means of lines follow 1/f, until averaging over a line takes the rest away.
    slow = slice(3, 300)
    slope = np.polyfit(np.log(frequency[slow]), np.log(power[slow]), 1)[0]
    assert_allclose(slope, -1.0, atol=0.15)
    assert_allclose(noise.std(), np.hypot(3, 1), rtol=0.25)


def test_flicker_noise_makes_stripes_along_the_fast_axis_that_outputs_share():
    noise = nirspec_detector.flicker_noise("NRS1", np.random.default_rng(3), scale=2.0)
    noise = noise - noise.mean()
    lines = noise.reshape(4, 512, 2048).mean(axis=1)
    # Stripes: means along the fast axis vary far more than means along the slow one.
    assert lines.std() > 4 * noise.mean(axis=1).std()
    common = np.corrcoef(lines)[np.triu_indices(4, 1)]
    assert np.all(common > 0.7) and np.all(common < 0.999)
    # White noise alone would leave a twentieth of it.
    assert lines.std() > 4 * nirspec_detector.READ_NOISE / np.sqrt(512)


def test_every_other_output_is_read_in_the_opposite_direction():
    noise = nirspec_detector.flicker_noise("NRS1", np.random.default_rng(5)).reshape(4, 512, 2048)
    first, second, third, _ = noise - noise.mean(axis=1, keepdims=True)
    assert np.corrcoef(first.ravel(), third.ravel())[0, 1] > 0.8
    assert np.corrcoef(first.ravel(), second[::-1].ravel())[0, 1] > 0.8
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.4


def test_second_detector_is_read_the_other_way_round():
    one, two = (nirspec_detector.flicker_noise(name, np.random.default_rng(1)) for name in ("NRS1", "NRS2"))
    assert np.array_equal(two, one[::-1, ::-1])


def test_noise_is_that_of_photons_reads_and_flicker():
    rate, groups = np.full(nirspec_detector.SHAPE, 300.0), 2
    arguments = (rate, "NRS2", groups, np.random.default_rng(4))
    ramp = nirspec_detector.make_ramp(*arguments, cosmic_rays=False, flicker=0.0).astype(float)
    signal = nirspec_detector.linearise(ramp - nirspec_detector.get_bias("NRS2"))
    step = np.diff(signal, axis=0)[0].reshape(4, 512, 2048)
    inside = ~nirspec_detector.is_reference().reshape(step.shape)
    spread = np.mean([1.4826 * np.median(np.abs(s[i] - np.median(s[i]))) for s, i in zip(step, inside, strict=True)])
    photons = 300 * nirspec_detector.FRAME_TIME / nirspec_detector.GAIN
    slope = 1 + 2 * nirspec_detector.NONLINEARITY * 1.5 * photons
    expected = photons + 2 * slope**2 * (nirspec_detector.READ_NOISE**2 + 1 / 12)
    assert_allclose(spread**2, expected, rtol=0.02)
    # What drifts from group to group is read in the reference pixels, too.
    drift = [np.median(s[i]) - np.median(s[~i]) for s, i in zip(step, inside, strict=True)]
    assert_allclose(drift, photons, rtol=2e-3)


# --- reference files


def test_crds_finds_the_references_of_an_exposure(made, monkeypatch):
    for name, value in read_environment(made / "environment.sh").items():
        monkeypatch.setenv(name, value)
    from crds import getreferences
    from crds.core import rmap
    from stdatamodels.jwst import datamodels

    selector = rmap.Mapping.from_file(str(made / "crds/mappings/jwst/jwst_nirspec_0001.imap")).selector
    assert jwst_reference_types() <= set(selector)
    with datamodels.open(made / "stage0" / f"{NAME}_uncal.fits") as model:
        parameters = model.get_crds_parameters()
    types = [name for name, mapping in selector.items() if mapping != "N/A"]
    assert len(types) > 25
    found = getreferences(parameters, reftypes=types, observatory="jwst", context=CONTEXTS["NIRSPEC"])
    for reference_type, path in found.items():
        assert Path(path).is_file() and f"_{reference_type}_" in Path(path).name


def test_partly_covered_pixels_have_no_flat(made):
    (path,) = (made / "crds/references/jwst/nirspec").glob("*sflat*")
    flagged = fits.getdata(path, "DQ") > 0
    optics = get_optics("NRS1", "PRISM", "CLEAR")
    for number in (3, 20):
        pixels = optics.pixels_of_slice(number)
        part = pixels.coverage < 1 - 1e-9
        assert np.array_equal(flagged[pixels.rows, pixels.columns], part)


# --- plan and command


def test_plan_has_each_grating_with_its_filter_and_a_leakcal_for_each_dither():
    settings = make_settings(NirspecSettings, grating="g140h,prism", detectors="nrs1,nrs2", dithers=3, leakcal=True)
    plan = plan_exposures(settings)
    assert len({exposure.name for exposure in plan}) == len(plan) == 2 * 2 * (3 + 3)
    assert {exposure.configuration for exposure in plan} == {("G140H", "F100LP"), ("PRISM", "CLEAR")}
    leakcals = [(e.configuration, e.detector, e.dither) for e in plan if e.role == "leakcal"]
    assert len(set(leakcals)) == 12
    delays = [exposure.delay for exposure in plan]
    assert delays == sorted(delays)


def test_a_grating_can_be_used_with_two_filters():
    settings = make_settings(NirspecSettings, grating="g140m,g140m", filter="f070lp,f100lp")
    assert settings.configurations() == [("G140M", "F070LP"), ("G140M", "F100LP")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grating", "g999h"], "--grating 'g999h' is not known: take prism, g140m"),
        (["--grating", ""], "--grating is empty"),
        (["--grating", "prism,prism"], "names one of them twice"),
        (["--grating", "g395h", "--filter", "clear"], "--filter 'clear' is not used with g395h: take f290lp"),
        (["--grating", "g395h,prism", "--filter", "f290lp"], "differ in number"),
        (["--detectors", "nrs3"], "--detectors 'nrs3' is not known"),
        (["--flicker", "-1"], "--flicker -1 must lie in 0-10"),
        (["--groups", "0"], "--groups 0 must lie in"),
    ],
)
def test_bad_options_get_one_sentence_and_status_2(tmp_path, capsys, arguments, message):
    assert run_command(main, ["nirspec", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out" / "stage0").exists()


def test_geometry_that_lacks_something_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no camera file for G395M F290LP"):
        simulate_observation(NIRSPEC, tmp_path / "out", geometry=tmp_path)
