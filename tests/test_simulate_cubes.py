"""Simulated cubes: the right values at the right places, and a file like those of `jwst`."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from simulate.cubes import FIELDS, simulate_cube
from simulate.kernels import write_kernels
from simulate.scene import Scene

UTC = "2022-11-13T10:00:00"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernels")
    write_kernels(directory, UTC, UTC, "neptune")
    return Scene("neptune", directory)


def read(path):
    with fits.open(path) as hdus:
        return {
            hdu.name or "PRIMARY": (hdu.header.copy(), None if hdu.data is None else hdu.data.copy()) for hdu in hdus
        }


def world(header, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)  # fills in DATE-AVG from MJD-AVG, as for real cubes
        return WCS(header).celestial.wcs_pix2world(x, y, 0)


def test_values_are_the_scene_at_the_places_the_header_says(scene, tmp_path):
    path = simulate_cube(scene, UTC, tmp_path / "a_s3d.fits", n_wave=40, offset=(0.3, -0.7), rotation_deg=37.0)
    hdus = read(path)
    header, data = hdus["SCI"]
    y, x = np.indices(data.shape[1:])
    ra, dec = world(header, x, y)
    wavelength = header["CRVAL3"] + np.arange(40) * header["CDELT3"]
    snapshot = scene.snapshot(UTC, wavelength_range=(4.9, 5.8))
    expected = snapshot.radiance(ra, dec, wavelength[:, None, None], frame="barycentric")
    good = np.isfinite(data)
    np.testing.assert_allclose(data[good], expected[good], atol=2e-3 * expected.max())
    centre = snapshot.view.offsets(*world(header, header["CRPIX1"] - 1, header["CRPIX2"] - 1))
    np.testing.assert_allclose(centre, [0.3, -0.7], atol=1e-6)
    # the y axis points to position angle 37 deg, x to the right of it as seen on the sky
    corner, *ends = (np.array(snapshot.view.offsets(*world(header, *place))) for place in ((0, 0), (0, 1), (1, 0)))
    steps = [end - corner for end in ends]
    np.testing.assert_allclose([np.rad2deg(np.arctan2(*step)) for step in steps], [37.0, -53.0], atol=1e-3)
    np.testing.assert_allclose([np.hypot(*step) for step in steps], 0.13, rtol=1e-6)
    assert header["VELOSYS"] == pytest.approx(snapshot.velosys, abs=1.0)
    assert header["SPECSYS"] == "BARYCENT"


def test_pointing_error_shifts_the_header_and_nothing_else(scene, tmp_path):
    options = {"n_wave": 5, "rotation_deg": 100.0}
    true = read(simulate_cube(scene, UTC, tmp_path / "a_s3d.fits", **options))
    wrong = read(simulate_cube(scene, UTC, tmp_path / "b_s3d.fits", pointing_error=(0.35, -0.2), **options))
    np.testing.assert_array_equal(true["SCI"][1], wrong["SCI"][1])
    dec = true["SCI"][0]["CRVAL2"]
    east = (wrong["SCI"][0]["CRVAL1"] - true["SCI"][0]["CRVAL1"]) * 3600 * np.cos(np.deg2rad(dec))
    assert east == pytest.approx(0.35, abs=1e-6)
    assert (wrong["SCI"][0]["CRVAL2"] - dec) * 3600 == pytest.approx(-0.2, abs=1e-6)
    for name in ("MT_RA", "MT_DEC"):
        assert wrong["SCI"][0][name] == true["SCI"][0][name]


@pytest.mark.parametrize("channel", list(FIELDS))
def test_field_and_footprint_are_the_instruments(scene, tmp_path, channel):
    hdus = read(simulate_cube(scene, UTC, tmp_path / "a_s3d.fits", channel=channel, band="LONG", n_wave=3))
    header, data = hdus["SCI"]
    along, across, spaxel, _ = FIELDS[channel]
    good = np.isfinite(data[0])
    assert good.any(axis=0).sum() * spaxel == pytest.approx(along, abs=1.01 * spaxel)
    assert good.any(axis=1).sum() * spaxel == pytest.approx(across, abs=1.01 * spaxel)
    assert not good[[0, -1]].any()
    assert not good[:, [0, -1]].any()
    dq = hdus["DQ"][1]
    assert np.issubdtype(dq.dtype, np.unsignedinteger)
    assert set(np.unique(dq)) == {0, 513}
    np.testing.assert_array_equal(dq == 0, np.isfinite(data))
    np.testing.assert_array_equal(dq == 0, np.isfinite(hdus["ERR"][1]))
    assert header["PIXAR_SR"] == pytest.approx((header["CDELT1"] * np.pi / 180) ** 2)


def test_full_size_and_native_wavelengths(scene, tmp_path):
    hdus = read(simulate_cube(scene, UTC, tmp_path / "a_s3d.fits", shape=(20, 12)))
    header, data = hdus["SCI"]
    assert data.shape == (1050, 20, 12)
    assert header["CDELT3"] == pytest.approx(0.0008)
    assert header["CRVAL3"] == pytest.approx(4.9004)
    np.testing.assert_allclose(
        hdus["WCS-TABLE"][1]["wavelength"].ravel(), header["CRVAL3"] + np.arange(1050) * 0.0008, rtol=1e-6
    )


def test_noise_is_what_err_says_and_repeatable(scene, tmp_path):
    options = {"n_wave": 60, "shape": (25, 25)}
    clean = read(simulate_cube(scene, UTC, tmp_path / "a_s3d.fits", **options))["SCI"][1]
    first, again, other = (
        read(simulate_cube(scene, UTC, tmp_path / f"{i}_s3d.fits", noise=100.0, seed=seed, **options))
        for i, seed in enumerate((7, 7, 8))
    )
    np.testing.assert_array_equal(first["SCI"][1], again["SCI"][1])
    pull = ((first["SCI"][1] - clean) / first["ERR"][1])[np.isfinite(clean)]
    assert pull.std() == pytest.approx(1.0, abs=0.02)
    assert abs(pull.mean()) < 0.02
    assert np.nanmax(np.abs(first["SCI"][1] - other["SCI"][1])) > 0
    bright = clean > 0.9 * scene.amplitude
    assert np.median(first["ERR"][1][bright] / clean[bright]) == pytest.approx(0.01, rel=0.1)


def test_file_is_an_ifu_cube_of_jwst(scene, tmp_path):
    from stdatamodels.jwst import datamodels

    path = simulate_cube(scene, UTC, tmp_path / "a_s3d.fits", n_wave=4, dither=2, dithers=4, rotation_deg=10.0)
    with datamodels.open(path, strict_validation=True) as model:
        assert isinstance(model, datamodels.IFUCubeModel)
        ra, dec, wavelength = model.meta.wcs(10.0, 12.0, 2.0)
    hdus = read(path)
    primary, header = hdus["PRIMARY"][0], hdus["SCI"][0]
    np.testing.assert_allclose([ra, dec], world(header, 10.0, 12.0), atol=1e-10)
    assert wavelength == pytest.approx(header["CRVAL3"] + 2 * header["CDELT3"])
    expected = {
        "TELESCOP": "JWST",
        "INSTRUME": "MIRI",
        "CHANNEL": "1",
        "BAND": "SHORT",
        "TARGNAME": "NEPTUNE",
        "TARGTYPE": "MOVING",
        "DATAMODL": "IFUCubeModel",
        "FILENAME": "a_s3d.fits",
        "PATT_NUM": 2,
        "NUMDTHPT": 4,
    }
    assert {name: primary[name] for name in expected} == expected
    assert primary["DATE-BEG"] < UTC < primary["DATE-END"]
    assert primary["EXPMID"] == pytest.approx(59896.41666666, abs=1e-7)
    assert header["BUNIT"] == "MJy/sr"
    distance = np.linalg.norm([header[f"JWST_{axis}"] for axis in "XYZ"])
    assert distance == pytest.approx(1.487e8, rel=0.01)  # km from the barycentre in November
    snapshot = scene.snapshot(UTC)
    np.testing.assert_allclose([header["MT_RA"], header["MT_DEC"]], [snapshot.ra, snapshot.dec], atol=1e-7)


def test_unknown_band(scene, tmp_path):
    with pytest.raises(ValueError, match=r"1-EXTRA"):
        simulate_cube(scene, UTC, tmp_path / "a_s3d.fits", band="EXTRA")
    assert list(tmp_path.iterdir()) == []
