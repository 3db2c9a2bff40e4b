"""Pictures show the numbers of the cube, and making them leaves no trace in a notebook."""

import gc

import numpy as np
import psutil
import pytest
from astropy.io import fits

from cube_summary import brightness_temperature, mean_spectrum
from cubes import read_cube
from sky_frame import SkyFrame, frame_of, sky_directions
from summary_plots import main, plot_cube, plot_file

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


def test_offsets_on_the_sky_are_right_across_ra_zero(cube_file):
    header = read_cube(cube_file).sci_header
    corners = frame_of(header, None).corners(header)
    # A spaxel is 0.2 arcsec wide on the sky whatever the declination and on whichever side of RA = 0.
    np.testing.assert_allclose(np.diff(corners[0], axis=1), -0.2, rtol=1e-3)
    np.testing.assert_allclose(np.diff(corners[1], axis=0), 0.2, rtol=1e-3)
    east, north = sky_directions(corners)
    np.testing.assert_allclose([east, north], [[-1, 0], [0, 1]], atol=1e-3)


def test_a_turned_frame_has_its_pole_up_and_can_be_undone():
    frame = SkyFrame(359.9999, 50.0, angle=30.0)
    # 1 arcsec from the centre towards position angle 30 deg, north through east, is up.
    ra = 359.9999 + np.sin(np.radians(30)) / 3600 / np.cos(np.radians(50))
    x, y = frame.offsets(ra, 50 + np.cos(np.radians(30)) / 3600)
    assert (x, y) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    np.testing.assert_allclose(frame.offsets(*frame.positions(2.0, -3.0)), (2.0, -3.0), atol=1e-7)


def test_the_lines_drawn_are_the_spectra_of_the_cube(cube_file):
    cube = read_cube(cube_file)
    figure = plot_cube(cube)
    field, brightest = mean_spectrum(np.where(cube.good, cube.sci, np.nan))
    spectrum, kelvin = figure.axes[1], figure.axes[3]
    for axes, function in ((spectrum, np.array), (kelvin, lambda v: brightness_temperature(v, cube.wavelength))):
        drawn = [line.get_ydata() for line in axes.lines]
        np.testing.assert_array_equal(drawn, [function(brightest), function(field)])
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), cube.wavelength)
    assert "MJy/sr" in spectrum.get_ylabel() and "[K]" in kelvin.get_ylabel()


def test_the_temperature_is_only_for_the_mid_infrared(cube_file):
    cube = read_cube(cube_file)
    cube.header["INSTRUME"] = "NIRSPEC"
    assert not any("[K]" in axes.get_ylabel() for axes in plot_cube(cube).axes)


def test_a_spectrum_over_decades_is_drawn_in_the_logarithm(cube_file):
    cube = read_cube(cube_file)
    cube.hdul["SCI"].data[:] = np.geomspace(1, 1000, SHAPE[0])[:, None, None]
    figure = plot_cube(cube)
    assert figure.axes[1].get_yscale() == "log"
    cube.hdul["SCI"].data[:] = 1.0
    assert plot_cube(cube).axes[1].get_yscale() == "linear"


def test_what_the_corrections_did_is_shown_where_they_left_it(cube_file):
    cube = read_cube(cube_file)
    plain = len(plot_cube(cube).axes)
    cube.add_note("despike", "Despiked", {"nsigma": 7.0})
    cube.set_extension("SPIKES", np.zeros(SHAPE, np.uint8), "", "")
    figure = plot_cube(cube)
    assert len(figure.axes) == plain + 3
    assert any("Despiked: nsigma 7" in text.get_text() for text in figure.texts)


def test_a_cube_without_backplanes_is_plotted_and_pyplot_is_left_alone(cube_file, tmp_path):
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    figure = plot_cube(read_cube(cube_file))
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == before
    assert len(figure.axes) == 11
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


def test_memory_is_given_back_after_each_picture(cube_file, tmp_path):
    process = psutil.Process()

    def plot(times):
        for _ in range(times):
            plot_file(cube_file, tmp_path / "plot.png", dpi=60)
        gc.collect()
        return process.memory_info().rss

    first = plot(2)
    # One figure's pixels and lines come to some 10 MB.
    assert plot(6) - first < 15e6
