"""Navigation from file to file: planes, headers, offsets, combined cubes, and what the command says."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spiceypy as spice
from astropy.io import fits

import navigate
from body_geometry import backplanes
from cubes import DQ, celestial_wcs, read_cube, sky_coordinates
from errors import FileFormatError, InputError, KernelError
from navigate import PLANES, cube_geometry, navigate_file
from observation_geometry import apparent_radec, observation_geometry, observer_state
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.scene import Scene
from spice_kernels import kernels_loaded

UTC = "2022-11-13T10:00:00"
MJD_MIDNIGHT = 59896.0  # 2022-11-13
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernels")
    write_kernels(directory, "2022-11-11", "2022-11-15", "saturn")
    return directory


@pytest.fixture(scope="module")
def scene(kernels):
    return Scene("saturn", kernels)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, scene):
    path = tmp_path_factory.mktemp("cubes") / "Level3_ch1-short_s3d.fits"
    return simulate_cube(scene, UTC, path, n_wave=5, offset=(0.0, 7.5), rotation_deg=25.0)


@pytest.fixture
def cube_path(pristine, tmp_path):
    """A copy of the cube: Saturn's northern limb."""
    return Path(shutil.copy(pristine, tmp_path / pristine.name))


def edit(path, changes, extension="PRIMARY"):
    with fits.open(path, mode="update") as hdul:
        for key, value in changes.items():
            if value is None:
                hdul[extension].header.remove(key, ignore_missing=True)
            else:
                hdul[extension].header[key] = value


def planes_of(path):
    with fits.open(path) as hdul:
        return {name: hdul[name].data.astype(float) for name in PLANES if name in hdul}


def test_planes_are_the_truth_of_the_scene(cube_path, kernels, scene, tmp_path):
    facts = navigate_file(cube_path, tmp_path / "nav.fits", kernel_path=kernels)
    planes = planes_of(tmp_path / "nav.fits")
    assert set(planes) == set(PLANES)
    truth = scene.snapshot(facts["utc"]).surface(planes["RA"], planes["DEC"])
    for name, expected in truth.items():
        limit = 1e-6 if name == "RADIAL_VELOCITY" else 1e-4
        inside = planes["EMISSION"] < 85
        error = np.abs((planes[name] - expected + 180) % 360 - 180)[inside]
        assert inside.sum() > 100 and error.max() < limit, name
    assert facts["notes"] == [] and facts["warnings"] == []


def test_the_rest_of_the_file_is_kept_bit_for_bit(cube_path, kernels, tmp_path):
    navigate_file(cube_path, tmp_path / "nav.fits", kernel_path=kernels)
    with fits.open(cube_path) as before, fits.open(tmp_path / "nav.fits") as after:
        for hdu in before[1:]:
            assert after[hdu.name].data.tobytes() == hdu.data.tobytes()
        for name in PLANES:
            header = after[name].header
            assert header["BUNIT"] == PLANES[name][0] and len(str(header["COMMENT"])) > 20
            assert after[name].data.shape == before["SCI"].shape[1:]
        assert "WEST" in str(after["LON"].header["COMMENT"]) and "WEST" in str(after["LON_GRAPHIC"].header["COMMENT"])
        primary = after[0].header
        assert primary["REDUCT1"] == "Navigated" and primary["NAVIGATE RA_OFFSET"] == 0
        assert primary["NAVKERN"] == "reconstructed" and primary["NAVTARG"] == "SATURN"
        assert "mid-exposure" in primary.comments["NAVTIME"]


def test_opens_as_a_jwst_cube(cube_path, kernels, tmp_path):
    from stdatamodels.jwst.datamodels import IFUCubeModel

    navigate_file(cube_path, tmp_path / "nav.fits", kernel_path=kernels, ra_offset=0.4, dec_offset=-0.3)
    with IFUCubeModel(tmp_path / "nav.fits") as model:
        model.validate()
        ra, dec = sky_coordinates(read_cube(tmp_path / "nav.fits").sci_header)
        y, x = 7, 11
        assert model.meta.wcs(x, y, 2)[:2] == pytest.approx((ra[y, x], dec[y, x]), abs=1e-10)
        assert model.meta.wcsinfo.crval1 == read_cube(tmp_path / "nav.fits").sci_header["CRVAL1"]


@pytest.mark.parametrize("ra", [321.44, 0.00001, 359.9999])
def test_offsets_are_arcsec_on_the_sky_and_subtracted(cube_path, tmp_path, ra):
    edit(cube_path, {"CRVAL1": ra}, "SCI")
    before = celestial_wcs(read_cube(cube_path).sci_header).pixel_to_world(10, 12)
    navigate_file(cube_path, tmp_path / "nav.fits", basic_navigation=True, ra_offset=0.35, dec_offset=-0.2)
    cube = read_cube(tmp_path / "nav.fits")
    after = celestial_wcs(cube.sci_header).pixel_to_world(10, 12)
    east, north = after.spherical_offsets_to(before)
    assert east.arcsec == pytest.approx(0.35, abs=1e-4)
    assert north.arcsec == pytest.approx(-0.2, abs=1e-4)
    assert 0 <= cube.sci_header["CRVAL1"] < 360
    assert (cube.sci_header["NAV_DRA"], cube.sci_header["NAV_DDEC"]) == (0.35, -0.2)
    planes = planes_of(tmp_path / "nav.fits")
    assert planes["RA"].min() >= 0 and planes["RA"].max() < 360


def test_offset_takes_out_a_pointing_error(scene, kernels, tmp_path):
    error = (0.35, -0.2)
    path = simulate_cube(scene, UTC, tmp_path / "a_s3d.fits", n_wave=1, offset=(0, 7.5), pointing_error=error)
    navigate_file(path, tmp_path / "nav.fits", kernel_path=kernels, ra_offset=error[0], dec_offset=error[1])
    right = simulate_cube(scene, UTC, tmp_path / "b_s3d.fits", n_wave=1, offset=(0, 7.5))
    navigate_file(right, tmp_path / "right.fits", kernel_path=kernels)
    for name, plane in planes_of(tmp_path / "nav.fits").items():
        expected = planes_of(tmp_path / "right.fits")[name]
        if name in ("RA", "DEC"):
            np.testing.assert_allclose(plane, expected, rtol=0, atol=0.001 / 3600)


def test_navigating_again_starts_from_the_original_pointing(cube_path, kernels, tmp_path):
    original = read_cube(cube_path).sci_header["CRVAL1"]
    first, again, back = (tmp_path / f"{name}.fits" for name in ("first", "again", "back"))
    navigate_file(cube_path, first, kernel_path=kernels, ra_offset=0.3, dec_offset=0.1)
    facts = navigate_file(first, again, kernel_path=kernels, ra_offset=0.3, dec_offset=0.1)
    assert any("undone first" in note and "+0.300" in note for note in facts["notes"])
    for name, plane in planes_of(first).items():
        np.testing.assert_array_equal(plane, planes_of(again)[name])
    facts = navigate_file(again, back, basic_navigation=True)
    with fits.open(back) as hdul:
        assert hdul["SCI"].header["CRVAL1"] == original and "NAV_DRA" not in hdul["SCI"].header
        names = [hdu.name for hdu in hdul]
        assert len(names) == len(set(names)) and "LAT" not in names and "NAVTARG" not in hdul[0].header
        assert [hdul[0].header[f"REDUCT{i}"] for i in (1, 2)] == ["Navigated"] * 2


def test_basic_navigation_needs_no_kernels(cube_path, tmp_path, monkeypatch):
    monkeypatch.setenv("PLANETMAPPER_KERNEL_PATH", str(tmp_path / "none"))
    edit(cube_path, {"TARGNAME": "NGC 6543", "TARGPROP": "NGC 6543"})
    navigate_file(cube_path, cube_path, basic_navigation=True)
    assert set(planes_of(cube_path)) == {"RA", "DEC"}
    with pytest.raises(KernelError, match=r"none does not exist.*naif0012.tls.*--basic_navigation"):
        navigate_file(cube_path, cube_path)
    with pytest.raises(InputError, match="--fit_pointing"):
        navigate_file(cube_path, cube_path, basic_navigation=True, fit_pointing=True)


def test_target_from_header_or_option(cube_path, kernels, tmp_path):
    edit(cube_path, {"TARGPROP": "FIELD-7", "TARGNAME": "FIELD-7"})
    with pytest.raises(InputError, match=r"Level3.*'FIELD-7'.*--target"):
        navigate_file(cube_path, tmp_path / "nav.fits", kernel_path=kernels)
    assert navigate_file(cube_path, tmp_path / "nav.fits", kernel_path=kernels, target="saturn")["target"] == "SATURN"
    assert cube_geometry(read_cube(tmp_path / "nav.fits"), kernel_path=kernels).naif_id == 699
    edit(cube_path, {"TARGPROP": "TITAN-1", "TARGNAME": "SATURN"})
    facts = navigate_file(cube_path, tmp_path / "nav.fits", kernel_path=kernels)
    assert facts["target"] == "TITAN"
    assert any("two bodies" in warning for warning in facts["warnings"])
    assert any("arcsec from TITAN" in warning for warning in facts["warnings"])


def test_times(cube_path, kernels, tmp_path):
    times = {
        "EXPMID": None,
        "DATE-AVG": None,
        "DATE-BEG": "2022-11-13T09:00:00.000",
        "DATE-END": "2022-11-13T10:00:00.000",
    }
    edit(cube_path, times)
    assert navigate_file(cube_path, tmp_path / "n.fits", kernel_path=kernels)["utc"] == "2022-11-13T09:30:00.000000"
    edit(cube_path, {"DATE-AVG": "2022-11-13T09:40:00.000"})
    assert navigate_file(cube_path, tmp_path / "n.fits", kernel_path=kernels)["utc"] == "2022-11-13T09:40:00.000000"
    edit(cube_path, {"EXPMID": MJD_MIDNIGHT + 0.25})
    assert navigate_file(cube_path, tmp_path / "n.fits", kernel_path=kernels)["utc"] == "2022-11-13T06:00:00.000000"
    edit(cube_path, dict.fromkeys(times))
    with pytest.raises(FileFormatError, match="when it was observed"):
        navigate_file(cube_path, tmp_path / "n.fits", kernel_path=kernels)


def combine(path, times, kernels, body="SATURN"):
    """Make a cube into a combined one, in jwst's way: EXPMID and MT_RA are means, HDRTAB has the exposures."""
    table = fits.BinTableHDU.from_columns([fits.Column("EXPMID", "D", array=np.array(times))], name="HDRTAB")
    with kernels_loaded(kernels):
        ets = [spice.str2et("2022-11-13T00:00:00") + (time - MJD_MIDNIGHT) * 86400 for time in times]
        number = spice.bodn2c(body)
        places = np.array([apparent_radec(number, et, observer_state("JWST", et)[0]) for et in ets])
    ra, dec = places.mean(axis=0)
    with fits.open(path, mode="update") as hdul:
        hdul.append(table)
        hdul[0].header["EXPMID"] = np.mean(times)
        hdul[0].header["TARGNAME"] = hdul[0].header["TARGPROP"] = body
        hdul["SCI"].header["MT_RA"], hdul["SCI"].header["MT_DEC"] = ra, dec
        hdul["SCI"].header["CRVAL1"], hdul["SCI"].header["CRVAL2"] = ra, dec
    return ra, dec


def test_a_combined_cube_is_navigated_where_jwst_put_the_target(cube_path, tmp_path):
    # Enceladus goes round in 33 h: over uneven exposures of some hours its mean place is not its place at the mean
    # time.
    kernels = tmp_path / "kernels"
    write_kernels(kernels, "2022-11-11", "2022-11-15", "enceladus")
    ra, dec = combine(cube_path, [59896.3, 59896.32, 59896.34, 59896.5], kernels, "ENCELADUS")
    facts = navigate_file(cube_path, tmp_path / "nav.fits", kernel_path=kernels)
    assert facts["target_ra"] == pytest.approx(ra, abs=1e-9) and facts["target_dec"] == pytest.approx(dec, abs=1e-9)
    planes = planes_of(tmp_path / "nav.fits")
    nearest = np.unravel_index(np.argmin(planes["DISTANCE_LIMB"]), planes["RA"].shape)
    separation = np.hypot((planes["RA"][nearest] - ra) * np.cos(np.radians(dec)), planes["DEC"][nearest] - dec) * 3600
    assert separation < 0.1
    with kernels_loaded(kernels):
        at_mean_time = observation_geometry("ENCELADUS", facts["utc"]).target_radec
    assert np.hypot((ra - at_mean_time[0]) * np.cos(np.radians(dec)), dec - at_mean_time[1]) * 3600 > 0.5
    assert "mean of 4 mid-exposures" in fits.getheader(tmp_path / "nav.fits").comments["NAVTIME"]


def test_exposures_that_were_not_aligned_are_a_warning(cube_path, kernels, tmp_path):
    combine(cube_path, [59896.41, 59896.42], kernels)
    edit(cube_path, {"MT_RA": None}, "SCI")
    facts = navigate_file(cube_path, tmp_path / "nav.fits", kernel_path=kernels)
    assert any("not aligned" in warning for warning in facts["warnings"])


def test_position_from_the_header_where_no_kernel_has_jwst(cube_path, kernels, tmp_path):
    without = tmp_path / "kernels"
    without.mkdir()
    for file in kernels.iterdir():
        if "jwst" not in file.name:
            shutil.copy(file, without)
    navigate_file(cube_path, tmp_path / "a.fits", kernel_path=kernels)
    # Half an hour from the time of the cube: the velocity carries the position there.
    sci = fits.getheader(cube_path, "SCI")
    moved = {key: sci[key] - sci[key.replace("_", "_D")] * 1800 for key in ("JWST_X", "JWST_Y", "JWST_Z")}
    edit(cube_path, moved | {"EPH_TIME": sci["EPH_TIME"] - 1800 / 86400}, "SCI")
    facts = navigate_file(cube_path, tmp_path / "b.fits", kernel_path=without)
    assert any("no kernel covers JWST" in warning for warning in facts["warnings"])
    assert fits.getheader(tmp_path / "b.fits")["NAVKERN"] == "header"
    named, given = planes_of(tmp_path / "a.fits"), planes_of(tmp_path / "b.fits")
    assert np.nanmax(np.abs(named["LAT"] - given["LAT"])) < 0.01
    assert np.nanmax(np.abs(named["RADIAL_VELOCITY"] - given["RADIAL_VELOCITY"])) < 0.02
    edit(cube_path, {"EPH_TIME": sci["EPH_TIME"] - 1}, "SCI")
    with pytest.raises(KernelError, match=r"observer JWST on 2022-11-13.*jwst_rec.bsp"):
        navigate_file(cube_path, tmp_path / "c.fits", kernel_path=without)


def test_a_predicted_trajectory_is_said(cube_path, kernels, tmp_path):
    predicted = tmp_path / "kernels"
    shutil.copytree(kernels, predicted)
    (predicted / "jwst.bsp").rename(predicted / "jwst_pred.bsp")
    facts = navigate_file(cube_path, tmp_path / "nav.fits", kernel_path=predicted)
    assert fits.getheader(tmp_path / "nav.fits")["NAVKERN"] == facts["kernels"] == "predicted"
    assert any("prediction" in warning for warning in facts["warnings"])


def test_doppler_bary_uses_the_cubes_velosys(cube_path, kernels, tmp_path):
    navigate_file(cube_path, tmp_path / "nav.fits", kernel_path=kernels)
    velosys = fits.getheader(cube_path, "SCI")["VELOSYS"]
    planes = planes_of(tmp_path / "nav.fits")
    ratio = planes["DOPPLER"] / planes["DOPPLER_BARY"]
    assert np.nanmax(np.abs(ratio - 1 - velosys / 299792458.0)) < 1e-14
    assert abs(velosys) > 100


def test_pixel_scale(cube_path, kernels, tmp_path):
    navigate_file(cube_path, tmp_path / "nav.fits", kernel_path=kernels)
    planes = planes_of(tmp_path / "nav.fits")
    expected = planes["DISTANCE"] * np.radians(0.13 / 3600)
    assert np.nanmax(np.abs(planes["PIXEL_SCALE"] / expected - 1)) < 1e-6


def test_planes_do_not_depend_on_what_is_in_the_cube(cube_path, kernels, tmp_path):
    navigate_file(cube_path, tmp_path / "a.fits", kernel_path=kernels)
    cube = read_cube(cube_path)
    cube.mark_bad(np.ones(cube.shape, bool), DQ.OUTLIER)
    cube.hdul.writeto(tmp_path / "empty.fits")
    navigate_file(tmp_path / "empty.fits", tmp_path / "b.fits", kernel_path=kernels)
    geometry = cube_geometry(cube, kernel_path=kernels)
    expected = backplanes(*sky_coordinates(cube.sci_header), geometry)
    for name in ("LAT", "EMISSION", "DISTANCE_RINGS"):
        np.testing.assert_array_equal(planes_of(tmp_path / "b.fits")[name], planes_of(tmp_path / "a.fits")[name])
        np.testing.assert_array_equal(planes_of(tmp_path / "b.fits")[name], expected[name])


def test_command(cube_path, kernels, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PLANETMAPPER_KERNEL_PATH", str(kernels))
    out = tmp_path / "nav.fits"
    assert navigate.main([str(cube_path), str(out), "--ra-offset", "0.1", "--dec_offset=-0.1"]) == 0
    assert fits.getheader(out, "SCI")["NAV_DRA"] == 0.1
    assert capsys.readouterr() == ("", "")
    assert navigate.main([str(tmp_path / "missing.fits"), str(out)]) == 2
    assert "missing.fits does not exist" in capsys.readouterr().err


def test_help_and_import_are_light():
    code = (
        "import sys, navigate; heavy = {'jwst', 'planetmapper', 'matplotlib', 'spiceypy', 'scipy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    result = subprocess.run(
        [sys.executable, ROOT / "navigate.py", "--help"], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0 and "--fit_pointing" in result.stdout
