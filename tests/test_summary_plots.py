"""The numbers in the pictures, and that making them leaves no trace in a notebook."""

import numpy as np
import pytest
from astropy.io import fits

from cubes import read_cube
from summary_plots import SkyFrame, main, mean_spectrum, plot_cube, range_images, summed_image, without_spikes

SHAPE = (40, 9, 8)


@pytest.fixture
def cube_file(tmp_path):
    """A disc on the sky, with an empty edge, around RA = 0."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    image = np.where(np.hypot(x - 4, y - 4) < 2.5, 1000.0, 0.0)
    sci = (image + rng.normal(0, 1, SHAPE)).astype("f4")
    dq = np.zeros(SHAPE, "u4")
    sci[:, 0] = np.nan
    dq[:, 0] = 513
    header = fits.Header(
        {
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "WAVE", "CUNIT1": "deg", "CUNIT2": "deg",
            "CUNIT3": "um", "CRVAL1": 0.0001, "CRVAL2": 60.0, "CRVAL3": 5.0, "CRPIX1": 4.5, "CRPIX2": 5.0,
            "CRPIX3": 1.0, "CDELT1": -0.2 / 3600, "CDELT2": 0.2 / 3600, "CDELT3": 0.01, "BUNIT": "MJy/sr",
        }
    )  # fmt: skip
    path = tmp_path / "Level3_ch1-short_s3d.fits"
    hdus = [fits.ImageHDU(data, header, name=name) for name, data in (("SCI", sci), ("ERR", sci), ("DQ", dq))]
    primary = fits.PrimaryHDU()
    primary.header["INSTRUME"] = "MIRI"
    fits.HDUList([primary, *hdus]).writeto(path)
    return path


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


def test_images_are_means_in_ranges_that_cover_all_planes():
    sci = np.arange(13.0)[:, None, None] * np.ones((1, 2, 2))
    images, ranges = range_images(sci, 5 + np.arange(13) * 0.1, 3)
    np.testing.assert_allclose(images[:, 0, 0], [2, 6.5, 10.5])
    assert ranges[0][0] == 5.0 and ranges[-1][1] == pytest.approx(6.2)


def test_offsets_on_the_sky_are_right_across_ra_zero(cube_file):
    frame = SkyFrame(read_cube(cube_file), None)
    # A spaxel is 0.2 arcsec wide on the sky whatever the declination and on whichever side of RA = 0.
    np.testing.assert_allclose(np.diff(frame.east, axis=1), -0.2, rtol=1e-3)
    np.testing.assert_allclose(np.diff(frame.north, axis=0), 0.2, rtol=1e-3)
    east, north = frame.directions()
    np.testing.assert_allclose([east, north], [[-1, 0], [0, 1]], atol=1e-3)


def test_a_cube_without_backplanes_is_plotted_and_pyplot_is_left_alone(cube_file, tmp_path):
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    figure = plot_cube(read_cube(cube_file))
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == before
    assert len(figure.axes) == 10
    assert main([str(cube_file), str(tmp_path / "plot.png")]) == 0
    assert (tmp_path / "plot.png").stat().st_size > 20_000


def test_a_cube_without_a_single_value_is_plotted(cube_file):
    cube = read_cube(cube_file)
    cube.mark_bad(np.ones(SHAPE, bool), 0)
    figure = plot_cube(cube)
    figure.canvas.draw()


def test_what_is_no_cube_gets_one_sentence(tmp_path, capsys):
    (tmp_path / "x.fits").write_text("no")
    assert main([str(tmp_path / "x.fits"), str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "x.fits" in error and error.count("\n") == 1
