"""2-D fringe correction of calibrated exposures by the real `jwst` with the simulated observation's reference files.

`jwst` takes minutes for a whole detector, so that only a few columns have data, of a planet without lines.
"""

import os
import warnings

import numpy as np
import pytest
from astropy.io import fits
from conftest import run

from cubes import DQ, read_fits
from defringe import defringe_file
from errors import CrdsError, FileFormatError

COLUMNS = (60, 200, 380, 600, 750, 900)
BRIGHTNESS = 3000.0
SIGNAL_TO_NOISE = 300
VARIANCES = ("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")


def write_exposure(observation, path):
    """Write a calibrated exposure with residual fringes in a few columns; return the fringes, NaN where no data are."""
    cal = sorted((observation.root / "stage2").glob("*_cal.fits"))[0]
    truth = np.load(observation.root / "truth" / cal.name.replace("_cal.fits", ".npz"))
    fringes = np.full(truth["regions"].shape, np.nan)
    columns = np.isin(np.arange(fringes.shape[1]), COLUMNS)[None, :] & (truth["regions"] > 0)
    fringes[columns] = truth["residual_fringes"][columns]
    with fits.open(cal) as hdul:
        noise = np.random.default_rng(0).standard_normal(fringes.shape) / SIGNAL_TO_NOISE
        hdul["SCI"].data = (BRIGHTNESS * fringes * (1 + noise)).astype(np.float32)
        hdul["ERR"].data = np.full(fringes.shape, BRIGHTNESS / SIGNAL_TO_NOISE, np.float32)
        hdul["DQ"].data[columns] = 0
        hdul["DQ"].data[500:510, COLUMNS[1]] = DQ.DO_NOT_USE
        hdul["SCI"].data[520, COLUMNS[1]] *= -1
        hdul.writeto(path)
    return fringes


def test_exposure_loses_its_fringes_and_keeps_the_rest(observation, tmp_path):
    from stdatamodels.jwst import datamodels

    fringes = write_exposure(observation, tmp_path / "in_cal.fits")
    files = tmp_path / "in_cal.fits", tmp_path / "out_cal.fits"
    result = run("defringe.py", *files, environment=observation.environment)
    assert result.returncode == 0, result.stderr
    before, after = read_fits(tmp_path / "in_cal.fits"), read_fits(tmp_path / "out_cal.fits")
    old, new = before["SCI"].data, after["SCI"].data
    touched = (old != new) & np.isfinite(old)
    assert touched.sum() > 0.9 * np.isfinite(fringes).sum()
    factor = new[touched].astype(float) / old[touched]
    left = factor * fringes[touched] - 1
    assert (fringes[touched] - 1).std() > 0.012
    assert left.std() < 0.004
    assert abs(left.mean()) < 1e-3
    np.testing.assert_allclose(after["ERR"].data[touched] / before["ERR"].data[touched], factor, rtol=1e-5)
    for name in VARIANCES:
        ratio = after[name].data[touched] / np.where(before[name].data[touched] > 0, before[name].data[touched], np.nan)
        np.testing.assert_allclose(ratio[np.isfinite(ratio)], factor[np.isfinite(ratio)] ** 2, rtol=1e-5)
    for name in ("SCI", "ERR", *VARIANCES):
        assert before[name].data[~touched].tobytes() == after[name].data[~touched].tobytes()
    assert before["DQ"].data.tobytes() == after["DQ"].data.tobytes()
    assert not touched[500:510, COLUMNS[1]].any() and not touched[520, COLUMNS[1]]
    assert [hdu.name for hdu in after] == [hdu.name for hdu in before]

    header = after[0].header
    assert header["S_RESFRI"] == "COMPLETE" and header["FILENAME"] == "out_cal.fits"
    assert header["REDUCT1"] == "Defringed (2-D)" and header["DEFRINGE CORRECTED"] == touched.sum()
    assert f"fringes taken off {touched.sum()} pixels" in result.stdout
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with datamodels.open(tmp_path / "out_cal.fits") as model:
            assert isinstance(model, datamodels.IFUImageModel)
            model.validate()


def test_refuses_what_it_cannot_correct(observation, tmp_path, monkeypatch):
    write_exposure(observation, tmp_path / "in_cal.fits")
    with fits.open(tmp_path / "in_cal.fits") as hdul:
        hdul[0].header["S_FRINGE"] = "SKIPPED"
        hdul.writeto(tmp_path / "unflattened_cal.fits")
    with pytest.raises(FileFormatError, match="fringe flat"):
        defringe_file(tmp_path / "unflattened_cal.fits", tmp_path / "out_cal.fits")
    monkeypatch.delenv("CRDS_PATH", raising=False)
    with pytest.raises(CrdsError, match="CRDS_PATH"):
        defringe_file(tmp_path / "in_cal.fits", tmp_path / "out_cal.fits")
    assert sorted(os.listdir(tmp_path)) == ["in_cal.fits", "unflattened_cal.fits"]
