"""1-D fringe correction: the library's numbers, ranges and options, files whole. See also `test_shared_lines`."""

import tracemalloc
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.timeseries import LombScargle
from fringes import UTC, fringes_like_the_simulator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import defringe
from benchmarks.bench_defringe import fringed_spectra
from benchmarks.reference_defringe import reference_defringe, reference_spectrum
from cubes import DQ, read_cube, write_cube
from defringe import defringe_1d_file, defringe_cube
from errors import FileFormatError, OptionError
from residual_fringes import drop_high_beats, envelopes, fringe_factors
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.mrs_optics import BAND_LIMITS
from simulate.scene import Scene

SAME = 1e-6


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernels")
    write_kernels(directory, UTC, UTC, "saturn")
    return directory


@pytest.fixture(scope="module")
def cube_path(kernels, tmp_path_factory):
    """A small cube of a planet with lines everywhere, with fringes and noise."""
    path = tmp_path_factory.mktemp("cube") / "Level3_ch1-short_s3d.fits"
    simulate_cube(Scene("saturn", kernels), UTC, path, "1", "SHORT", shape=(8, 8), noise=300)
    cube = read_cube(path)
    cube.sci[...] *= fringes_like_the_simulator(cube.wavelength, cube.shape[1:])
    write_cube(cube, path)
    return path


def smooth_spectra(channel, count):
    wavelength, spectra = fringed_spectra(channel, 1)
    return wavelength, np.tile(1 + 0.25 * np.sin(2 * np.pi * np.log(wavelength) / 0.4), (count, 1)) * np.median(spectra)


def self_consistent(flux, wavelength, channel):
    """Whether the library gives the same when its input changes by a rounding error."""
    plain = reference_spectrum(flux, wavelength, channel)
    for k in (1, 2):
        shaken = flux * (1 + 2e-16 * np.sign(np.sin(k * np.arange(flux.size) ** 2 + 1)))
        if np.nanmax(np.abs(reference_spectrum(shaken, wavelength, channel) / plain - 1)) > 1e-8:
            return False
    return True


@pytest.fixture
def first_sine_always_stays(monkeypatch):
    """As in the library, whose evidence for the first sine is held against nothing sensible."""
    monkeypatch.setattr("residual_fringes.evidence_without_sines", lambda data, weights: -np.inf)


@pytest.mark.parametrize("channel", [1, 2, 3, 4])
def test_gives_the_numbers_of_the_library(channel, first_sine_always_stays):
    wavelength, spectra = fringed_spectra(channel, 6)
    factors, corrected = fringe_factors(spectra, wavelength, channel)
    assert corrected.all()
    same = 0
    for flux, factor in zip(spectra, factors, strict=True):
        difference = np.abs(flux * factor / reference_spectrum(flux, wavelength, channel) - 1).max()
        # The last of many sines may hang on rounding errors, in the library too: nothing can be compared there.
        assert difference < SAME or not self_consistent(flux, wavelength, channel)
        same += difference < 1e-10
    assert same >= 4


@given(
    n_wave=st.sampled_from([1, 2, 5, 90, 160]),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    channel=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**31),
    bad=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    flagged=st.sampled_from([0.0, 0.1, 1.0]),
    negative=st.sampled_from([0.0, 0.03]),
)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@pytest.mark.usefixtures("first_sine_always_stays")
def test_agrees_with_a_loop_of_library_calls(n_wave, shape, channel, seed, bad, flagged, negative):
    random = np.random.default_rng(seed)
    low, high = BAND_LIMITS[channel, "SHORT"]
    wavelength = np.linspace(low, low + (high - low) * 0.3, n_wave)
    sci = fringes_like_the_simulator(wavelength, shape) * random.uniform(1, 1e4)
    sci = (sci * (1 + 0.005 * random.standard_normal(sci.shape))).astype(np.float32)
    sci[random.random(sci.shape) < negative] *= -1
    sci[random.random(sci.shape) < bad / 2] = np.nan
    sci[:, random.random(shape) < bad] = np.nan
    sci[random.random(n_wave) < bad / 4] = np.nan
    good = random.random(sci.shape) >= flagged
    err = np.abs(sci) / 200
    before = sci.copy(), err.copy(), good.copy()

    out, out_err, corrected = defringe_cube(sci, err, wavelength, channel, good=good)
    for array, copy in zip((sci, err, good), before, strict=True):
        np.testing.assert_array_equal(array, copy)
    expected, failed = reference_defringe(sci, wavelength, channel, good)
    for y, x in np.ndindex(shape):
        used = good[:, y, x] & (sci[:, y, x] > 0)
        np.testing.assert_array_equal(out[~used, y, x], sci[~used, y, x])
        np.testing.assert_array_equal(out_err[~used, y, x], err[~used, y, x])
        if failed[y, x] or not corrected[y, x]:
            np.testing.assert_array_equal(out[:, y, x], sci[:, y, x])
            np.testing.assert_array_equal(out_err[:, y, x], err[:, y, x])
        if failed[y, x]:
            assert not corrected[y, x]
            continue
        ours, plain = out[used, y, x].astype(float), expected[used, y, x]
        if not np.allclose(ours, plain, rtol=SAME, atol=0):
            assert not self_consistent(np.where(used, sci[:, y, x], np.nan).astype(float), wavelength, channel)
        np.testing.assert_allclose(out_err[used, y, x] / err[used, y, x], ours / sci[used, y, x], rtol=1e-6)


@pytest.mark.parametrize("channel", [1, 2, 3, 4])
def test_noise_is_left_alone_and_fringes_in_it_are_found(channel):
    """Spectra of S/N 5 to 50 without fringes stay as they are; of fringes of 2 % at S/N 100 little is left."""
    wavelength, clean = smooth_spectra(channel, 12)
    random = np.random.default_rng(60 + channel)
    noise = random.standard_normal(clean.shape)
    factors, corrected = fringe_factors(clean * (1 + noise / np.geomspace(5, 50, 12)[:, None]), wavelength, channel)
    assert not corrected.any()
    np.testing.assert_array_equal(factors, 1)
    path = 0.349 * (1 + 2e-3 * random.uniform(-1, 1, (12, 1)))
    fringes = 1 + 0.02 * np.cos(2e4 * np.pi * path / wavelength + random.uniform(0, 2 * np.pi, (12, 1)))
    factors, corrected = fringe_factors(clean * fringes * (1 + noise / 100), wavelength, channel)
    assert corrected.all()
    assert (fringes * factors - 1).std(axis=1).max() < 0.004


def test_periodogram_is_that_of_astropy_with_gaps():
    from sine_fit import Periodogram

    random = np.random.default_rng(0)
    wavenumber = np.linspace(2000, 1800, 300)
    masks = (random.random((3, 300)) < 0.8).astype(float)
    values = random.standard_normal((3, 300)) + np.cos(2 * np.pi * wavenumber / 2.7)
    periodogram = Periodogram(wavenumber, 2.9, 1.5)
    power = periodogram.power(values, masks, periodogram.mask_sums(masks))
    for mask, series, found in zip(masks > 0, values, power, strict=True):
        plain = LombScargle(wavenumber[mask], series[mask]).power(1 / periodogram.periods)
        np.testing.assert_allclose(found, plain, atol=1e-10)
    assert abs(periodogram.periods[power[0].argmax()] - 2.7) < 0.01


def test_envelopes_and_beats_are_those_of_the_library():
    from jwst.residual_fringe.utils import check_res_fringes, fit_envelope

    random = np.random.default_rng(1)
    place = np.arange(400)
    signal = np.cos(place / 2) * np.cos(place / 60) * 0.3 + 0.01 * random.standard_normal(400)
    for neighbours in (1, 2):
        lower, _, _, upper, _, _ = fit_envelope(place, signal, check_extra_neighbors=neighbours == 2)
        np.testing.assert_allclose(envelopes(signal, neighbours), (lower, upper), atol=1e-14)
    expected, flags = check_res_fringes(signal.copy(), np.full(400, 0.4))
    np.testing.assert_array_equal(drop_high_beats(signal, 0.4), expected)
    assert 0 < flags.sum() < 400


def test_ranges_are_corrected_each_by_itself_and_nothing_else():
    wavelength, spectra = fringed_spectra(1, 2)
    cube = spectra.T[:, None, :]
    ranges = [(5.0, 5.2), (5.4, 5.7)]
    out, _, corrected = defringe_cube(cube, cube, wavelength, 1, wavelength_ranges=ranges)
    assert corrected.all()
    outside = np.ones(wavelength.size, dtype=bool)
    for low, high in ranges:
        within = (wavelength >= low) & (wavelength <= high)
        outside &= ~within
        alone, _ = fringe_factors(spectra[:, within], wavelength[within], 1)
        np.testing.assert_allclose(out[within, 0] / cube[within, 0], alone.T, rtol=1e-12)
    np.testing.assert_array_equal(out[outside], cube[outside])
    assert np.all(out[~outside] != cube[~outside])


def test_options_have_the_meaning_they_have_in_the_library(first_sine_always_stays):
    wavelength, spectra = fringed_spectra(4, 1)
    for ours, theirs in (
        ({"dichroic_only": True}, {"dichroic_only": True}),
        ({"max_amplitude": 0.03}, {"max_amp": 0.03}),
        ({"clip_sigma": 3.0}, {"clip_sigma": 3.0}),
        ({"ignore_regions": [(18.0, 18.5)]}, {"ignore_regions": [[18.0, 18.5]]}),
    ):
        factors, _ = fringe_factors(spectra, wavelength, 4, **ours)
        np.testing.assert_allclose(
            spectra[0] * factors[0], reference_spectrum(spectra[0], wavelength, 4, **theirs), rtol=SAME
        )
    with pytest.raises(ValueError, match="no dichroic fringe"):
        fringe_factors(spectra, wavelength, 2, dichroic_only=True)


def test_memory_stays_below_four_cubes(cube_path, tmp_path):
    """A full field, in which a few spectra are bright enough to be fitted: the others cost memory, but no time."""
    cube = read_cube(cube_path)
    for name in ("SCI", "ERR", "DQ", "WMAP"):
        cube.hdul[name].data = np.tile(cube.hdul[name].data, (1, 6, 6))[:, :45, :41]
    cube.sci[:, np.arange(45 * 41).reshape(45, 41) % 50 > 0] = np.nan
    write_cube(cube, tmp_path / "in_s3d.fits")
    defringe_1d_file(cube_path, tmp_path / "first_s3d.fits", wavelength_ranges=[(5.0, 5.1)], shared_lines=True)
    tracemalloc.start()
    try:
        facts = defringe_1d_file(tmp_path / "in_s3d.fits", tmp_path / "out_s3d.fits", shared_lines=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert facts["corrected"] > 20
    assert peak < 4 * (tmp_path / "in_s3d.fits").stat().st_size


def test_file_is_the_input_and_the_correction(cube_path, tmp_path):
    cube = read_cube(cube_path)
    cube.mark_bad(np.s_[100:110, 3, 3], DQ.OUTLIER)
    cube.mark_bad(np.s_[:, 5, 5], DQ.OUTLIER)
    cube.sci[200, 4, 4] = -cube.sci[200, 4, 4]
    cube.dq[300, 4, 4] |= np.uint32(DQ.DO_NOT_USE)  # a value is there, but must not be used
    cube.set_extension("LAT", np.full(cube.shape[1:], 12.0), "deg", "An extension of an earlier step.")
    write_cube(cube, tmp_path / "in_s3d.fits")
    facts = defringe_1d_file(tmp_path / "in_s3d.fits", tmp_path / "out_s3d.fits", shared_lines=True)

    before, after = read_cube(tmp_path / "in_s3d.fits"), read_cube(tmp_path / "out_s3d.fits")
    corrected = after.hdul["FRINGE1D_CORRECTED"].data
    inside = before.good.mean(axis=0) > 0.5
    np.testing.assert_array_equal(corrected, inside)
    assert corrected.dtype == np.uint8 and "corrected" in str(after.hdul["FRINGE1D_CORRECTED"].header["COMMENT"])
    assert facts["corrected"] == inside.sum() == after.header["DEFRINGE_1D CORRECTED"] and facts["not_fitted"] == 0
    assert after.header["REDUCT1"] == "Defringed (1-D)" and after.header["DEFRINGE_1D SHARED_LINES"] is True
    used = before.good & (before.sci > 0)
    for old, new in ((before.sci, after.sci), (before.err, after.err)):
        assert old[~used].tobytes() == new[~used].tobytes()
        assert np.mean(old[used] != new[used]) > 0.9
    assert before.dq.tobytes() == after.dq.tobytes()
    np.testing.assert_allclose(after.err[used] / before.err[used], after.sci[used] / before.sci[used], rtol=1e-6)
    assert {hdu.name for hdu in after.hdul} == {hdu.name for hdu in before.hdul} | {"FRINGE1D_CORRECTED"}
    np.testing.assert_array_equal(after.hdul["LAT"].data, 12.0)
    assert before.hdul["ASDF"].data.tobytes() == after.hdul["ASDF"].data.tobytes()
    assert "FRINGE1D_CORRECTED" not in before.hdul


def test_file_opens_as_a_jwst_cube_without_a_warning(cube_path, tmp_path):
    from stdatamodels.jwst import datamodels

    defringe_1d_file(cube_path, tmp_path / "out_s3d.fits", wavelength_ranges=[(5.0, 5.2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with datamodels.open(tmp_path / "out_s3d.fits") as model:
            assert isinstance(model, datamodels.IFUCubeModel)
            model.validate()


def test_lines_taken_for_fringes_are_warned_about(kernels, tmp_path):
    path = simulate_cube(Scene("saturn", kernels), UTC, tmp_path / "in_s3d.fits", "4", "SHORT", shape=(7, 7), noise=300)
    facts = defringe_1d_file(path, tmp_path / "out_s3d.fits")
    assert (
        facts["common_rms"] > 0.8 * facts["rms"] > 0.01
        and "lines were probably taken for fringes" in facts["warnings"][0]
    )
    assert read_cube(tmp_path / "out_s3d.fits").header["DEFRINGE_1D COMMON_RMS"] == facts["common_rms"]
    facts = defringe_1d_file(path, tmp_path / "out_s3d.fits", shared_lines=True)
    assert facts["rms"] < 0.005 and facts["warnings"] == []


def test_too_few_spectra_for_shared_lines_are_warned_about(kernels, tmp_path):
    path = simulate_cube(Scene("saturn", kernels), UTC, tmp_path / "in_s3d.fits", "4", "SHORT", shape=(4, 4), noise=300)
    facts = defringe_1d_file(path, tmp_path / "out_s3d.fits", shared_lines=True)
    assert "too few bright spectra" in facts["warnings"][0] and facts["corrected"] == 4


@pytest.mark.parametrize(("key", "value"), [("CHANNEL", "12"), ("EXP_TYPE", "NRS_IFU")])
def test_refuses_cubes_without_fringes(cube_path, tmp_path, key, value):
    with fits.open(cube_path) as hdul:
        hdul[0].header[key] = value
        hdul.writeto(tmp_path / "in_s3d.fits")
    with pytest.raises(FileFormatError, match=value):
        defringe_1d_file(tmp_path / "in_s3d.fits", tmp_path / "out_s3d.fits")
    assert not (tmp_path / "out_s3d.fits").exists()


def test_refuses_senseless_options(cube_path, tmp_path):
    with pytest.raises(OptionError, match="is empty"):
        defringe_1d_file(cube_path, tmp_path / "out_s3d.fits", wavelength_ranges=[(5.3, 5.2)])
    with pytest.raises(OptionError, match="dichroic"):
        defringe_1d_file(cube_path, tmp_path / "out_s3d.fits", dichroic_only=True)


def test_command_corrects_a_cube(cube_path, tmp_path, capsys):
    out = tmp_path / "out_s3d.fits"
    assert defringe.main([str(cube_path), str(out), "--wavelength-ranges", "5.0", "5.1", "--clip_sigma", "4"]) == 0
    header = read_cube(out).header
    assert 20 < header["DEFRINGE_1D CORRECTED"] <= 36
    assert f"fringes taken off {header['DEFRINGE_1D CORRECTED']} of 64 spectra" in capsys.readouterr().out
    assert header["DEFRINGE_1D CLIP_SIGMA"] == 4.0 and "5.1" in header["DEFRINGE_1D WAVELENGTH_RANGES"]
    assert defringe.main([str(tmp_path / "none.fits"), str(out)]) == 2
    assert "none.fits does not exist" in capsys.readouterr().err


def test_command_refuses_options_for_cubes_on_other_files(tmp_path, capsys):
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((4, 4)), name="SCI")]).writeto(tmp_path / "a_cal.fits")
    out = str(tmp_path / "out.fits")
    assert defringe.main([str(tmp_path / "a_cal.fits"), out, "--shared-lines"]) == 2
    assert "--shared_lines is for cubes" in capsys.readouterr().err
    assert defringe.main([str(tmp_path / "a_cal.fits"), out]) == 2
    assert "no calibrated MIRI/MRS exposure" in capsys.readouterr().err
