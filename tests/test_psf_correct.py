"""The PSF correction: discs come out flat to the limb, errors with them, and nothing else is touched."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.reference_psf import reference_blurred_disc
from cubes import DQ, celestial_wcs, read_cube, spaxel_scale, write_cube
from errors import InputError, OptionError
from navigate import cube_geometry, navigate_file
from psf_correct import correct_cube, main, psf_correct_file
from psf_model import ForwardModel, blurred_disc, disc_brightness, psf_fwhm, sharp_disc
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.scene import Scene

UTC = "2022-11-13T10:00:00"
ROOT = Path(__file__).parents[1]
FLAT = {
    "limb_darkening": 0.0,
    "belt_contrast": 0.0,
    "spot_contrast": 0.0,
    "emission_strength": 0.0,
    "ring_brightness": 0.0,
    "absorption_lines": (),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    directories = {}
    for target in ("neptune", "saturn", "titan"):
        directories[target] = tmp_path_factory.mktemp(target)
        write_kernels(directories[target], UTC, UTC, target)
    return directories


def navigated(kernels, target, path, *arguments, pointing_error=(0.0, 0.0), scene_options=None, **options):
    scene = Scene(target, kernels[target], **(FLAT if scene_options is None else scene_options))
    simulate_cube(scene, UTC, path, *arguments, pointing_error=pointing_error, **options)
    navigate_file(path, path, kernel_path=kernels[target], ra_offset=pointing_error[0], dec_offset=pointing_error[1])
    return path


def flatness(path, before):
    """Greatest deviation from the mean of the disc's middle, out to 75 deg of emission."""
    cube = read_cube(path)
    emission = read_cube(before).hdul["EMISSION"].data
    inner = emission < 75
    middle = np.nanmean(cube.sci[:, emission < 50], axis=1)
    return np.nanmax(np.abs(cube.sci[:, inner] / middle[:, None] - 1))


# Neptune is 2.3 arcsec wide; a PSF of 0.27 to 1.05 arcsec leaves 60 to 46 % of the light at 75 deg.
@pytest.mark.parametrize(
    ("channel", "band", "shape"),
    [("1", "SHORT", None), ("2", "MEDIUM", None), ("3", "LONG", None), ("4", "LONG", (25, 23))],
)
def test_disc_is_flat_to_one_per_cent(kernels, tmp_path, channel, band, shape):
    options = {"n_wave": 5, "rotation_deg": 20.0, "shape": shape, "offset": (0.1, -0.2)}
    path = navigated(kernels, "neptune", tmp_path / "a_s3d.fits", channel, band, **options)
    facts = psf_correct_file(path, tmp_path / "b_s3d.fits", kernel_path=kernels["neptune"])
    assert facts["corrected"]
    assert flatness(path, path) > 0.3
    assert flatness(tmp_path / "b_s3d.fits", path) < 0.01


def test_limb_of_a_planet_wider_than_the_field(kernels, tmp_path):
    path = navigated(kernels, "saturn", tmp_path / "a_s3d.fits", "3", "LONG", n_wave=4, offset=(0.9, 7.6))
    psf_correct_file(path, tmp_path / "b_s3d.fits", kernel_path=kernels["saturn"])
    emission = read_cube(path).hdul["EMISSION"].data
    sci = read_cube(tmp_path / "b_s3d.fits").sci
    reference = np.nanmean(sci[:, emission < 65], axis=1)
    assert np.nanmax(np.abs(sci[:, emission < 75] / reference[:, None] - 1)) < 0.01
    assert np.isnan(sci[:, np.isnan(emission)]).all()


def test_offsets_of_the_navigation_are_honoured(kernels, tmp_path):
    error = (0.35, -0.25)
    path = navigated(kernels, "neptune", tmp_path / "a_s3d.fits", n_wave=3, pointing_error=error)
    psf_correct_file(path, tmp_path / "b_s3d.fits", kernel_path=kernels["neptune"])
    assert flatness(tmp_path / "b_s3d.fits", path) < 0.01
    # The same cube, navigated without: the model lies elsewhere, and the disc comes out lopsided.
    navigate_file(path, tmp_path / "c_s3d.fits", kernel_path=kernels["neptune"])
    psf_correct_file(tmp_path / "c_s3d.fits", tmp_path / "d_s3d.fits", kernel_path=kernels["neptune"])
    assert flatness(tmp_path / "d_s3d.fits", tmp_path / "c_s3d.fits") > 0.2


def test_minnaert_law_keeps_the_planets_own_limb_darkening(kernels, tmp_path):
    """Of a disc as bright as mu0, the PSF's share alone is taken off."""
    wavelength = read_cube(navigated(kernels, "neptune", tmp_path / "a_s3d.fits", n_wave=1)).wavelength[0]
    # The scene's coefficient u = limb_darkening * this (simulate.spectra) is to be 1.
    darkened = FLAT | {"limb_darkening": 1 / (1 + 0.3 * np.sin(2 * np.pi * np.log(wavelength) / 0.9))}
    path = navigated(kernels, "neptune", tmp_path / "a_s3d.fits", n_wave=1, scene_options=darkened)
    cube = read_cube(path)
    ra, dec, emission = (cube.hdul[name].data for name in ("RA", "DEC", "EMISSION"))
    view = Scene("neptune", kernels["neptune"], **darkened).snapshot(UTC)
    sharp = view.radiance_sharp(ra, dec, wavelength, frame="barycentric")
    psf_correct_file(path, tmp_path / "b_s3d.fits", kernel_path=kernels["neptune"], minnaert_exponent=1.0)
    corrected = read_cube(tmp_path / "b_s3d.fits").sci[0]
    inner = emission < 75
    assert np.ptp(sharp[inner]) > 0.5 * sharp[inner].max()
    # The scene goes as sqrt(mu mu0), which differs from mu0 near the limb by the phase angle, a degree or two.
    np.testing.assert_allclose(corrected[inner], sharp[inner], rtol=0.025)


def test_model_is_fine_enough(kernels, tmp_path):
    """At least 5 pixels a spaxel and 150 pixels across the disc."""
    for channel, shape, offset in (("1", None, (0.0, 0.0)), ("4", (21, 21), (0.0, 0.0))):
        path = navigated(kernels, "neptune", tmp_path / "a_s3d.fits", channel, n_wave=2, shape=shape, offset=offset)
        facts = psf_correct_file(path, tmp_path / "b_s3d.fits", kernel_path=kernels["neptune"])
        image = fits.getdata(tmp_path / "b_s3d.fits", "PSF_FORWARD_MODEL")
        assert facts["oversampling"] >= 5
        assert (image > 0.5).any(axis=0).sum() >= 145  # the ellipse's axes are tilted
        header = fits.getheader(tmp_path / "b_s3d.fits", "PSF_FORWARD_MODEL")
        assert header["OVERSAMP"] == facts["oversampling"]
        # Its WCS puts the disc's centre where the geometry has it.
        geometry = cube_geometry(read_cube(path), kernel_path=kernels["neptune"])
        x, y = celestial_wcs(header).all_world2pix(*geometry.target_radec, 0)
        rows, columns = np.indices(image.shape)
        weight = image / image.sum()
        assert abs((weight * columns).sum() - x) < 0.3
        assert abs((weight * rows).sum() - y) < 0.3


def test_border_beyond_the_field_counts():
    """A disc that ends just outside the field darkens its edge; the light within the border is the model's."""
    brightness = lambda x, y: (np.hypot(x - 25, y - 5) < 20).astype(float)  # noqa: E731
    model = sharp_disc(brightness, (25.0, 5.0), 20.0, (11, 11))
    assert model.x.min() > 4
    assert model.x.max() == pytest.approx(20.5, abs=0.2)
    assert model.y.min() == pytest.approx(-10.5, abs=0.2)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_wave=st.integers(1, 40),
    ny=st.integers(1, 7),
    nx=st.integers(1, 7),
    same=st.booleans(),
)
def test_blurred_disc_agrees_with_the_plain_sum(seed, n_wave, ny, nx, same):
    rng = np.random.default_rng(seed)
    oversampling = int(rng.integers(1, 5))
    x, y = ((np.arange(n * oversampling + 6) + 0.5) / oversampling - 1.5 for n in (nx, ny))
    model = ForwardModel(rng.random((y.size, x.size)), x, y, oversampling)
    fwhm = np.full(n_wave, 2.0) if same else np.sort(rng.uniform(1.5, 3.5, n_wave))
    expected = reference_blurred_disc(model, fwhm, (ny, nx))
    np.testing.assert_allclose(blurred_disc(model, fwhm, (ny, nx)), expected, rtol=2e-6, atol=1e-6)


def test_blurred_disc_keeps_the_flux_and_a_wide_disc_its_brightness():
    x = y = (np.arange(400) + 0.5) / 8 - 0.5
    columns, rows = np.meshgrid(x, y)
    small = ForwardModel((np.hypot(columns - 24.7, rows - 25.2) < 3).astype(float), x, y, 8)
    blurred = blurred_disc(small, np.linspace(2, 6, 30), (50, 50))
    np.testing.assert_allclose(blurred.sum(axis=(1, 2)), small.image.sum() / 64, rtol=1e-4)
    wide = ForwardModel((np.hypot(columns - 24.7, rows - 25.2) < 20).astype(float), x, y, 8)
    np.testing.assert_allclose(blurred_disc(wide, np.array([2.0, 3.0]), (50, 50))[:, 20:30, 20:30], 1, atol=1e-6)


def test_fwhm_of_the_instruments():
    assert psf_fwhm(10.0) == pytest.approx(0.436)
    assert 0.08 < psf_fwhm(1.0, "NIRSPEC") < psf_fwhm(5.0, "NIRSPEC") < 0.25
    with pytest.raises(OptionError, match="psf_fwhm"):
        psf_fwhm(1.0, "NIRCAM")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), floor=st.floats(0.05, 0.9), shape=st.tuples(*[st.integers(1, 5)] * 3))
def test_division_agrees_with_the_plain_loop(seed, floor, shape):
    rng = np.random.default_rng(seed)
    sci, err, divisor = rng.standard_normal(shape), rng.random(shape), rng.random(shape)
    for array in (sci, err, divisor):
        array[rng.random(shape) < 0.2] = np.nan
    corrected, error, below = correct_cube(sci, err, divisor, floor)
    for voxel in np.ndindex(shape):
        d = divisor[voxel]
        assert below[voxel] == (d < floor)
        if np.isnan(d) or d < floor:
            assert np.isnan(corrected[voxel])
            assert np.isnan(error[voxel])
        else:
            np.testing.assert_equal([corrected[voxel], error[voxel]], [sci[voxel] / d, err[voxel] / d])


@pytest.fixture(scope="module")
def corrected(kernels, tmp_path_factory):
    directory = tmp_path_factory.mktemp("corrected")
    path = navigated(kernels, "neptune", directory / "in_s3d.fits", n_wave=30, noise=100.0)
    cube = read_cube(path)
    cube.hdul["DQ"].data[3, 16, 14] |= np.uint32(DQ.FLUX_ESTIMATED)
    cube.hdul["SCI"].data[4, 16, 14] = np.nan
    cube.hdul["ERR"].data[4, 16, 14] = np.nan
    cube.hdul["DQ"].data[4, 16, 14] |= np.uint32(DQ.DO_NOT_USE | DQ.SATURATED)
    write_cube(cube, path)
    facts = psf_correct_file(path, directory / "out_s3d.fits", kernel_path=kernels["neptune"], floor=0.6)
    return path, directory / "out_s3d.fits", facts


def test_file_divides_and_flags(corrected):
    before, after = (read_cube(path) for path in corrected[:2])
    divisor = after.hdul["PSF_MODEL_CUBE"].data
    on_disc = np.isfinite(divisor) & before.good
    kept = on_disc & (divisor >= 0.6)
    np.testing.assert_allclose(after.sci[kept], before.sci[kept] / divisor[kept], rtol=1e-6)
    np.testing.assert_allclose(after.err[kept], before.err[kept] / divisor[kept], rtol=1e-6)
    np.testing.assert_array_equal(after.dq[kept], before.dq[kept])
    below = on_disc & (divisor < 0.6)
    assert below.sum() == corrected[2]["below_floor"] > 0
    assert not after.good[below].any()
    assert np.isnan(after.sci[~kept]).all()
    assert np.isnan(after.err[~kept]).all()
    off = before.good & ~np.isfinite(divisor)
    np.testing.assert_array_equal(after.dq[off], before.dq[off] | DQ.DO_NOT_USE | DQ.NON_SCIENCE)
    np.testing.assert_array_equal(after.dq[~before.good], before.dq[~before.good])
    emission = before.hdul["EMISSION"].data
    np.testing.assert_array_equal(np.isfinite(divisor[0]), np.isfinite(emission))


def test_file_carries_everything_else(corrected):
    with fits.open(corrected[0]) as before, fits.open(corrected[1]) as after:
        added = ["PSF_FORWARD_MODEL", "PSF_MODEL_CUBE", "PSF_FWHM_ARCSEC"]
        assert [hdu.name for hdu in after] == [hdu.name for hdu in before] + added
        for name in ("WMAP", "LAT", "EMISSION"):
            np.testing.assert_array_equal(before[name].data, after[name].data)
        assert before["ASDF"].data.tobytes() == after["ASDF"].data.tobytes()
        assert after[0].header["REDUCT2"] == "PSF corrected"
        assert after[0].header["PSF FLOOR"] == 0.6
        assert after["PSF_FWHM_ARCSEC"].header["BUNIT"] == "arcsec"
        assert all("COMMENT" in after[name].header for name in added)
        wavelength = read_cube(corrected[0]).wavelength
        np.testing.assert_allclose(after["PSF_FWHM_ARCSEC"].data, 0.033 * wavelength + 0.106)


def test_file_opens_as_an_ifu_cube(corrected):
    from stdatamodels.jwst import datamodels

    with datamodels.open(corrected[1]) as model:
        assert isinstance(model, datamodels.IFUCubeModel)
        assert model.meta.wcs is not None


def test_errors_stay_honest(kernels, corrected):
    """(value - truth) / ERR after the correction, the truth being the flat disc."""
    before, after = (read_cube(path) for path in corrected[:2])
    scene = Scene("neptune", kernels["neptune"], **FLAT)
    emission = before.hdul["EMISSION"].data
    centre = np.nanargmin(np.where(np.isfinite(emission), emission, np.nan))
    ra, dec = (before.hdul[name].data.ravel()[centre] for name in ("RA", "DEC"))
    truth = scene.snapshot(UTC).radiance_sharp(ra, dec, after.wavelength, frame="barycentric")
    pull = ((after.sci - truth[:, None, None]) / after.err)[:, emission < 75]
    pull = pull[np.isfinite(pull)]
    assert 0.9 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.1
    assert abs(np.median(pull)) < 0.2


def test_small_or_absent_bodies_pass_through(kernels, tmp_path):
    scene = Scene("titan", kernels["titan"], radius_scale=0.1, **FLAT)
    path = simulate_cube(scene, UTC, tmp_path / "a_s3d.fits", n_wave=3)
    # A tenth of Titan: kernels that say so.
    small = tmp_path / "kernels"
    small.mkdir()
    for kernel in kernels["titan"].iterdir():
        (small / kernel.name).write_bytes(kernel.read_bytes())
    (small / "zz_small.tpc").write_text("KPL/PCK\n\\begindata\nBODY606_RADII = ( 257.5 257.5 257.5 )\n\\begintext\n")
    elsewhere = simulate_cube(
        Scene("titan", kernels["titan"], **FLAT), UTC, tmp_path / "b_s3d.fits", n_wave=3, offset=(9.0, 9.0)
    )
    for name, source, directory in (("small", path, small), ("absent", elsewhere, kernels["titan"])):
        facts = psf_correct_file(source, tmp_path / f"{name}_s3d.fits", kernel_path=directory)
        assert not facts["corrected"]
        assert ("smaller than a spaxel" if name == "small" else "no spaxel") in facts["notes"][0]
        before, after = read_cube(source), read_cube(tmp_path / f"{name}_s3d.fits")
        for part in ("sci", "err", "dq"):
            assert getattr(before, part).tobytes() == getattr(after, part).tobytes()
        assert "PSF_MODEL_CUBE" not in after.hdul
        assert after.header["REDUCT1"] == "PSF correction passed over"
        assert any("not navigated" in warning for warning in facts["warnings"])


def test_night_side_is_dark(kernels, tmp_path):
    """Brightness is that of the lit disc: zero where the Sun is below the horizon."""
    path = navigated(kernels, "neptune", tmp_path / "a_s3d.fits", n_wave=2)
    cube = read_cube(path)
    geometry = cube_geometry(cube, kernel_path=kernels["neptune"])
    from dataclasses import replace

    # The Sun off to one side, as far away as before.
    sun = geometry.sun_position - geometry.target_position
    side = np.cross(sun, [0.0, 0.0, 1.0])
    turned = geometry.target_position + side / np.linalg.norm(side) * np.linalg.norm(sun)
    brightness = disc_brightness(replace(geometry, sun_position=turned), cube.sci_header)
    rows, columns = np.indices(cube.shape[1:])
    lit, whole = (f(columns, rows).sum() for f in (brightness, disc_brightness(geometry, cube.sci_header)))
    assert lit == pytest.approx(whole / 2, rel=0.1)
    x, y = celestial_wcs(cube.sci_header).all_world2pix(*geometry.target_radec, 0)
    radius = geometry.angular_radius / spaxel_scale(cube.sci_header)
    model = sharp_disc(brightness, (float(x), float(y)), radius, cube.shape[1:])
    assert model.image.mean() == pytest.approx(np.pi / 8, rel=0.1)


def test_twice_is_refused(corrected, kernels, tmp_path):
    with pytest.raises(InputError, match="already"):
        psf_correct_file(corrected[1], tmp_path / "o_s3d.fits", kernel_path=kernels["neptune"])


def test_options_are_checked(corrected, tmp_path):
    for options in ({"floor": 0.0}, {"psf_fwhm": -1.0}, {"border": -1.0}, {"least_oversampling": 0}):
        with pytest.raises(OptionError, match=next(iter(options))):
            psf_correct_file(corrected[0], tmp_path / "o_s3d.fits", **options)


def test_command(corrected, kernels, tmp_path, capsys):
    out = tmp_path / "o_s3d.fits"
    arguments = [str(corrected[0]), str(out), "--kernel-path", str(kernels["neptune"]), "--psf_fwhm", "0.3"]
    assert main(arguments) == 0
    assert "spaxels on the disc" in capsys.readouterr().out
    assert (fits.getdata(out, "PSF_FWHM_ARCSEC") == 0.3).all()
    assert main([str(out), str(tmp_path / "p_s3d.fits"), "--kernel_path", str(kernels["neptune"])]) == 2
    assert "already" in capsys.readouterr().err


def test_help_is_light():
    heavy = "{'jwst', 'crds', 'matplotlib', 'spiceypy'}"
    code = f"import sys, psf_correct; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
