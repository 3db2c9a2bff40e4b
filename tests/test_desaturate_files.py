"""Desaturated cubes as files: what they keep, what they tell, which are refused."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from conftest import run
from saturating import make_ramps, merge

from cubes import read_cube
from desaturate import desaturate_files
from errors import InputError, OptionError
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.scene import Scene

UTC = "2022-11-13T10:00:00"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernels")
    write_kernels(directory, UTC, UTC, "neptune")
    return Scene("neptune", directory)


@pytest.fixture(scope="module")
def files(scene, tmp_path_factory):
    """Five cubes of channel 3 with the simulated ramps in them, and the ramps."""
    directory = tmp_path_factory.mktemp("cubes")
    ramps = make_ramps(shape=(60, 24, 26))
    base = simulate_cube(scene, UTC, directory / "base_s3d.fits", "3", n_wave=60, shape=(24, 26))
    paths = [write_ramp(base, directory / f"{n}_s3d.fits", ramps, i) for i, n in enumerate(ramps.groups)]
    return paths, ramps


def write_ramp(base, path, ramps, number, **header):
    with fits.open(base) as hdul:
        hdul["SCI"].data[:], hdul["ERR"].data[:] = ramps.sci[number], ramps.err[number]
        hdul["DQ"].data[:], hdul["WMAP"].data[:] = ramps.dq[number], ramps.coverage[number]
        hdul.append(fits.ImageHDU(np.full((24, 26), float(number)), name="LAT"))
        for key, value in {"NGROUPS": ramps.groups[number], **header}.items():
            hdul[0].header[key] = value
        hdul.writeto(path)
    return path


def test_file_has_the_merged_cube_and_all_that_the_longest_had(files, tmp_path):
    paths, ramps = files
    facts = desaturate_files([paths[i] for i in (2, 0, 4, 1, 3)], tmp_path / "out_s3d.fits")
    assert facts["groups"] == ramps.groups
    assert facts["warnings"] == []
    sci, err, merged = merge(ramps)
    cube, longest = read_cube(tmp_path / "out_s3d.fits"), read_cube(paths[0])
    np.testing.assert_array_equal(cube.sci, sci)
    np.testing.assert_array_equal(cube.err, err)
    np.testing.assert_array_equal(cube.hdul["DESAT_TYPE"].data, merged.desat_type)
    used = cube.hdul["NGROUPS"].data
    np.testing.assert_array_equal(used, np.where(merged.has_data, np.array(ramps.groups)[merged.ramp], 0))
    assert not cube.good[used == 0].any()
    assert [hdu.name for hdu in cube.hdul] == [hdu.name for hdu in longest.hdul] + ["NGROUPS", "DESAT_TYPE"]
    np.testing.assert_array_equal(cube.hdul["LAT"].data, longest.hdul["LAT"].data)
    np.testing.assert_array_equal(cube.hdul["WMAP"].data, merged.pick(ramps.coverage))
    untouched = merged.desat_type == 0
    for name in ("SCI", "ERR", "DQ"):
        np.testing.assert_array_equal(cube.hdul[name].data[untouched], longest.hdul[name].data[untouched])
    header = cube.header
    assert header["REDUCT1"] == "Desaturated"
    assert header["NGROUPS"] == 5
    assert header["DESATURATE METHOD"] == "onset"
    assert header["DESATURATE FLUX_RATIO_5_4"] == pytest.approx(1, abs=0.01)
    assert facts["replaced"] == {k: int((merged.desat_type == k).sum()) for k in (1, 2, 3)}


def test_file_opens_in_jwst_without_a_warning(files, tmp_path):
    from stdatamodels.jwst import datamodels

    desaturate_files(files[0], tmp_path / "out_s3d.fits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with datamodels.open(tmp_path / "out_s3d.fits") as model:
            assert isinstance(model, datamodels.IFUCubeModel)
            assert model.data.shape == (60, 24, 26)


def test_ratio_is_applied_on_request(files, tmp_path, scene):
    paths, ramps = files
    bright = write_ramp(paths[3], tmp_path / "bright.fits", ramps, 3)
    with fits.open(bright, mode="update") as hdul:
        hdul["SCI"].data *= np.float32(1.02)
        hdul["ERR"].data *= np.float32(1.02)
    for apply_ratio, excess in ((False, 0.02), (True, 0.0)):
        desaturate_files([paths[0], bright], tmp_path / "out_s3d.fits", apply_ratio=apply_ratio)
        cube = read_cube(tmp_path / "out_s3d.fits")
        taken = (cube.hdul["NGROUPS"].data == 2) & ~ramps.lost[3] & (ramps.bent[3] == 0)
        assert np.median(cube.sci[taken] / ramps.truth[taken]) == pytest.approx(1 + excess, abs=1e-3)
        pull = (cube.sci - ramps.truth * (1 + excess))[taken] / cube.err[taken]
        assert 0.8 < 1.4826 * np.median(np.abs(pull)) < 1.2


def test_one_group_is_the_last_resort_in_channels_1_and_2(files, tmp_path):
    paths, ramps = files
    cubes = [write_ramp(path, tmp_path / path.name, ramps, i, CHANNEL="2") for i, path in enumerate(paths)]
    facts = desaturate_files(cubes, tmp_path / "out_s3d.fits")
    assert facts["groups"] == [5, 4, 3, 2, 1]
    cube = read_cube(tmp_path / "out_s3d.fits")
    # In two groups they have lost pixels, or all of them: the first group is all there is.
    nowhere_else = ramps.lost[3] & (ramps.coverage[4] > ramps.coverage[3])
    assert nowhere_else.sum() > 20
    assert any(f"{nowhere_else.sum()} voxels from ramps of fewer than 2" in note for note in facts["notes"])
    np.testing.assert_array_equal(cube.hdul["NGROUPS"].data == 1, nowhere_else)
    missing = cube.hdul["DESAT_TYPE"].data[nowhere_else] == 1
    np.testing.assert_array_equal(missing, (ramps.coverage[0] == 0)[nowhere_else])
    assert cube.good[nowhere_else].all()
    np.testing.assert_array_equal(cube.sci[nowhere_else], ramps.sci[4][nowhere_else])
    assert desaturate_files(cubes[:4], tmp_path / "out_s3d.fits")["groups"] == [5, 4, 3, 2]
    # The other channels use it wherever it is best.
    plain = desaturate_files(paths, tmp_path / "out_s3d.fits")
    assert not plain["notes"]
    assert (read_cube(tmp_path / "out_s3d.fits").hdul["NGROUPS"].data == 1).sum() > nowhere_else.sum()


def test_ramps_that_disagree_are_told(files, tmp_path):
    paths, ramps = files
    bright = write_ramp(paths[4], tmp_path / "bright.fits", ramps, 4, CHANNEL="3")
    with fits.open(bright, mode="update") as hdul:
        hdul["SCI"].data *= np.float32(1.05)
        hdul["ERR"].data *= np.float32(1.05)
    (warning,) = desaturate_files([paths[0], paths[1], bright], tmp_path / "out_s3d.fits")["warnings"]
    assert warning.startswith("the flux of 4 groups is 0.95")


def test_cubes_that_do_not_belong_together_are_refused(files, tmp_path, scene):
    paths, ramps = files
    out = tmp_path / "out_s3d.fits"
    with pytest.raises(InputError, match="both have 5 groups"):
        desaturate_files([paths[0], paths[0]], out)
    with pytest.raises(InputError, match="only cube"):
        desaturate_files([paths[0]], out)
    other = write_ramp(paths[1], tmp_path / "other.fits", ramps, 1, **{"TIME-OBS": "23:00:00.000"})
    with pytest.raises(InputError, match=r"another exposure or band.*TIME-OBS"):
        desaturate_files([paths[0], other], out)
    shifted = write_ramp(paths[1], tmp_path / "shifted.fits", ramps, 1)
    with fits.open(shifted, mode="update") as hdul:
        hdul["SCI"].header["CRVAL2"] += 1 / 3600
    with pytest.raises(InputError, match="different spaxels"):
        desaturate_files([paths[0], shifted], out)
    unknown = write_ramp(paths[1], tmp_path / "unknown.fits", ramps, 1, NGROUPS="many")
    with pytest.raises(InputError, match="NGROUPS"):
        desaturate_files([paths[0], unknown], out)
    with pytest.raises(OptionError, match="no threshold"):
        desaturate_files(paths, out, partial=3.0)
    with pytest.raises(OptionError, match="method"):
        desaturate_files(paths, out, method="magic")
    with pytest.raises(OptionError, match="maximum_step"):
        desaturate_files(paths, out, maximum_step=0)
    assert not out.exists()


def test_command(files, tmp_path):
    paths, _ = files
    out = tmp_path / "out_s3d.fits"
    done = run("desaturate.py", *reversed(paths), out, "--maximum-step", 2, "--outlier_sigma", 8)
    assert done.returncode == 0, done.stderr
    assert "replaced" in done.stdout
    header = fits.getheader(out)
    assert header["DESATURATE MAXIMUM_STEP"] == 2
    assert header["DESATURATE OUTLIER_SIGMA"] == 8
    failed = run("desaturate.py", paths[0], tmp_path / "none.fits", out)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
