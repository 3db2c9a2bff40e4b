"""The numbers in the pictures: spectra, images, units, brightness temperature, what the corrections did."""

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.modeling.physical_models import BlackBody

from cube_summary import (
    brightness_temperature,
    correction_notes,
    correction_summaries,
    dither_label,
    invalid_fractions,
    invalid_spaxels,
    mean_spectrum,
    range_images,
    robust_range,
    summed_image,
    surface_brightness_factor,
    with_gaps,
    without_spikes,
)
from cubes import Cube


def small_cube(path, shape=(6, 3, 4)):
    data = np.ones(shape, "f4")
    extensions = [fits.ImageHDU(data.copy(), name=name) for name in ("SCI", "ERR")]
    return Cube(path, fits.HDUList([fits.PrimaryHDU(), *extensions, fits.ImageHDU(np.zeros(shape, "u4"), name="DQ")]))


def test_the_mean_spectrum_is_that_of_the_field_and_of_its_brightest_tenth():
    wavelength = np.linspace(0, 1, 50)
    spectrum = 5 - 3 * np.exp(-(((wavelength - 0.5) / 0.05) ** 2))
    brightness = np.zeros((10, 10))
    brightness[4, :] = 100.0
    sci = spectrum[:, None, None] * brightness + 1.0
    field, brightest = mean_spectrum(sci)
    np.testing.assert_allclose(field, spectrum * 10 + 1)
    np.testing.assert_allclose(brightest, spectrum * 100 + 1)


def test_spikes_do_not_count_and_lines_do():
    rng = np.random.default_rng(2)
    line = 50 * np.exp(-(((np.arange(60) - 30) / 3.0) ** 2))
    sci = line[:, None, None] + rng.normal(0, 1, (60, 4, 4))
    sci[10, 1, 1] += 500
    cleaned = without_spikes(sci)
    assert np.isnan(cleaned[10, 1, 1])
    assert np.isnan(cleaned).sum() == 1


def test_a_line_one_plane_wide_keeps_its_depth_in_a_field_with_sky():
    rng = np.random.default_rng(3)
    brightness = np.where(np.arange(64).reshape(8, 8) < 40, 1000.0, 0.0)
    spectrum = np.ones(80)
    spectrum[40] = 0.4
    sci = spectrum[:, None, None] * brightness + rng.normal(0, 1, (80, 8, 8))
    sci[20, 2, 2] += 5000
    field, brightest = mean_spectrum(sci)
    np.testing.assert_allclose(field, spectrum * brightness.mean(), rtol=0.03)
    np.testing.assert_allclose(brightest, spectrum * 1000, rtol=0.01)


def test_empty_planes_are_gaps_without_warnings():
    sci = np.ones((12, 3, 3))
    sci[4:6] = np.nan
    field, _ = mean_spectrum(sci)
    assert np.isnan(field[4:6]).all() and np.isfinite(np.delete(field, [4, 5])).all()
    nothing = np.full((12, 3, 3), np.nan)
    assert np.isnan(mean_spectrum(nothing)[0]).all()
    assert np.isnan(summed_image(nothing)).all()
    assert (summed_image(np.zeros((3, 2, 2))) == 0).all()


def test_missing_wavelengths_are_gaps_too():
    wavelength = np.concatenate([np.arange(0, 20) * 0.1, 4 + np.arange(20) * 0.2])
    x, y = with_gaps(wavelength, np.arange(40.0))
    assert np.flatnonzero(np.isnan(y)).tolist() == [20]
    assert x[20] == pytest.approx((1.9 + 4) / 2)
    np.testing.assert_array_equal(np.delete(y, 20), np.arange(40))
    # A step that grows slowly, as in a table of wavelengths, is no gap.
    assert not np.isnan(with_gaps(np.geomspace(1, 5, 300), np.ones(300))[1]).any()


def test_images_are_means_in_ranges_that_cover_all_planes():
    sci = np.arange(13.0)[:, None, None] * np.ones((1, 2, 2))
    images, ranges = range_images(sci, 5 + np.arange(13) * 0.1, 3)
    np.testing.assert_allclose(images[:, 0, 0], [2, 6.5, 10.5])
    assert ranges[0][0] == 5.0 and ranges[-1][1] == pytest.approx(6.2)


def test_invalid_voxels_are_counted_in_the_field_only():
    sci = np.ones((10, 4, 5))
    sci[:, 0] = np.nan  # outside the field
    sci[7:, 1, :3] = np.nan
    invalid, total = invalid_spaxels(sci)
    assert total == 15 and invalid.tolist() == [0] * 7 + [3] * 3
    np.testing.assert_allclose(invalid_fractions(sci, 2), [0, 9 / 75])
    assert (invalid_fractions(np.full((4, 2, 2), np.nan), 2) == 1).all()


def test_the_stretch_is_robust():
    values = np.concatenate([np.linspace(100, 200, 1000), [1e6, -1e6, np.nan]])
    low, high = robust_range(values)
    assert 95 < low < 105 and 195 < high < 201
    assert robust_range(np.linspace(0.1, 100, 500))[0] == 0.0
    assert robust_range(np.full(3, np.nan)) == (0.0, 1.0)
    low, high = robust_range(np.full(3, 5.0))
    assert low < high


# --- units ----------------------------------------------------------------------------------------------------------


def test_brightness_temperature_inverts_plancks_law():
    wavelength = np.array([3.0, 5.0, 10.0, 28.0])
    for temperature in (40.0, 95.0, 300.0):
        expected = BlackBody(temperature * units.K)(wavelength * units.um).to_value(units.MJy / units.sr)
        np.testing.assert_allclose(brightness_temperature(expected, wavelength), temperature, rtol=1e-9)


def test_brightness_temperature_keeps_signs_and_gaps():
    kelvin = brightness_temperature(np.array([-3.0, 0.0, 3.0, np.nan]), 10.0)
    assert kelvin[0] == -kelvin[2] < 0 and kelvin[1] == 0 and np.isnan(kelvin[3])


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("MJy/sr", 1.0),
        ("Jy/sr", 1e-6),
        ("mJy/arcsec2", 1e-9 * (180 * 3600 / np.pi) ** 2),
        # B_nu = B_lambda lambda^2 / c
        ("W/(m2 um sr)", 1e6 * (10e-6) ** 2 / 299792458.0 / 1e-20),
    ],
)
def test_units_of_surface_brightness(unit, expected):
    np.testing.assert_allclose(surface_brightness_factor(unit, np.array([10.0])), expected, rtol=1e-9)


@pytest.mark.parametrize("unit", ["", "DN/s", "Jy", "nonsense"])
def test_what_is_no_surface_brightness_has_no_temperature(unit):
    assert surface_brightness_factor(unit, np.array([10.0])) is None


# --- corrections ----------------------------------------------------------------------------------------------------


def test_notes_say_what_was_done_in_order_with_the_parameters(tmp_path):
    cube = small_cube(tmp_path)
    cube.header["TARGNAME"] = "SATURN"
    cube.add_note("navigate", "Navigated", {"ra_offset": 0.25, "target": None})
    cube.add_note("despike", "Despiked", {"nsigma": 7.0, "psf_fwhm": "instrument"})
    assert correction_notes(cube.header) == ["Navigated: ra_offset 0.25", "Despiked: nsigma 7, psf_fwhm instrument"]
    assert correction_notes(fits.Header()) == []


def test_summaries_of_desaturation_flat_and_spikes(tmp_path):
    cube = small_cube(tmp_path)
    assert correction_summaries(cube) == []
    groups = np.full(cube.shape, 5, np.int16)
    groups[:3, 0, 0] = 2
    groups[:, 2] = 0
    flat = np.full(cube.shape, 1.02, "f4")
    flat[0] = np.nan
    spikes = np.zeros(cube.shape, np.uint8)
    spikes[2, 1, :2] = 1
    for name, data in (("NGROUPS", groups), ("FLAT", flat), ("SPIKES", spikes)):
        cube.set_extension(name, data, "", "")
    used, divided, removed = correction_summaries(cube)
    assert used.image[0, 0] == 3.5 and used.image[1, 1] == 5 and np.isnan(used.image[2, 0])
    np.testing.assert_allclose(used.spectrum, [(7 * 5 + 2) / 8] * 3 + [5] * 3)
    np.testing.assert_allclose(divided.image, 1.02, rtol=1e-6)
    assert np.isnan(divided.spectrum[0])
    np.testing.assert_allclose(divided.spectrum[1:], 2.0, rtol=1e-5)
    assert removed.image[1].tolist() == [1, 1, 0, 0] and removed.spectrum.tolist() == [0, 0, 2, 0, 0, 0]
    assert "2 spikes" in removed.title


def test_a_cube_of_several_dithers_is_combined(tmp_path):
    cube = small_cube(tmp_path)
    cube.header["PATT_NUM"] = 3
    assert dither_label(cube) == "dither 3"
    for positions, label in (([3, 3], "dither 3"), ([1, 2], "combined")):
        column = fits.Column(name="PATT_NUM", format="J", array=np.array(positions))
        cube.hdul = fits.HDUList([*cube.hdul[:4], fits.BinTableHDU.from_columns([column], name="HDRTAB")])
        assert dither_label(cube) == label
