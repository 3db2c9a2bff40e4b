"""Cutting ramps: what is left is what an exposure of fewer groups would have been."""

import asdf
import numpy as np
import pytest
from astropy.io import fits
from conftest import run
from stdatamodels.jwst import datamodels

from errors import FileFormatError, OptionError
from remove_groups import group_counts, grouped_path, remove_groups_file
from simulate.headers import Ephemeris, ExposurePointing, exposure_metadata
from simulate.kernels import furnish, write_kernels
from simulate.mrs_plan import MrsSettings
from simulate.plan import plan_exposures
from simulate.pointing import MRS_APERTURE, velocity_aberration
from simulate.uncal import write_uncal

START = "2022-11-13T10:00:00"
GROUPS = 6
SHAPE = (16, 32)
NAME = "jw01247330001_02101_00001_mirifushort_uncal.fits"


@pytest.fixture(scope="module")
def ramp():
    random = np.random.default_rng(4)
    return (8000 + 900 * np.arange(1, GROUPS + 1)[:, None, None] * random.uniform(0, 8, SHAPE)).astype(np.uint16)


@pytest.fixture(scope="module")
def make(tmp_path_factory, ramp):
    """Writes a raw exposure of the first n groups, as the simulator does, to a path."""
    import spiceypy as spice

    kernels = tmp_path_factory.mktemp("kernels")
    write_kernels(kernels, START, START)
    with furnish(kernels):
        ephemeris = Ephemeris.at(spice.str2et(START))
    aberration = velocity_aberration(MRS_APERTURE, 321.4, -16.5, ephemeris.velocity)
    where = ExposurePointing(321.4, -16.5, 72.0, 321.4, -16.5, 0.1, 0.2, aberration, 3e4)

    def write(path, groups):
        settings = MrsSettings(start=START, groups=groups, dithers=1)
        exposure = plan_exposures(settings)[0]
        write_uncal(path, ramp[:groups], exposure_metadata(settings, exposure, where, ephemeris, 1))
        return path

    return write


@pytest.fixture(scope="module")
def uncal(make, tmp_path_factory):
    return make(tmp_path_factory.mktemp("stage0") / NAME, GROUPS)


@pytest.mark.parametrize("groups", [1, 2, 5, 6])
def test_a_cut_exposure_equals_one_that_was_taken_so(uncal, make, tmp_path, groups):
    facts = remove_groups_file(uncal, tmp_path / NAME, groups=groups)
    assert (facts["groups_before"], facts["groups"]) == (GROUPS, groups)
    expected = make(tmp_path / "short" / NAME, groups)
    with fits.open(tmp_path / NAME) as cut, fits.open(expected) as short:
        assert [hdu.name for hdu in cut] == [hdu.name for hdu in short]
        for one, other in zip(cut, short, strict=True):
            # What the observatory did stays: ends of visit and guiding, groups as commanded, time of its position.
            ignored = ["DATE", "NAXIS1", "TFORM1", "GF_END", "VISITEND", "MIRNGRPS", "EPH_TIME"]
            difference = fits.HeaderDiff(one.header, other.header, ignore_keywords=ignored, rtol=1e-12)
            assert difference.identical or one.name == "ASDF", difference.report()
            if one.name in ("SCI", "GROUP"):
                np.testing.assert_array_equal(one.data, other.data)
        for name in cut["INT_TIMES"].data.names:
            np.testing.assert_allclose(cut["INT_TIMES"].data[name], short["INT_TIMES"].data[name], rtol=0, atol=1e-9)


def test_first_groups_are_kept_bit_for_bit(uncal, tmp_path, ramp):
    remove_groups_file(uncal, tmp_path / NAME, groups=3)
    with fits.open(tmp_path / NAME) as hdul:
        np.testing.assert_array_equal(hdul["SCI"].data[0], ramp[:3])
        assert hdul["SCI"].data.dtype == np.uint16


def test_the_file_is_consistent_in_itself(uncal, tmp_path):
    remove_groups_file(uncal, tmp_path / NAME, groups=2)
    with datamodels.open(tmp_path / NAME) as model:
        assert isinstance(model, datamodels.Level1bModel)
        assert model.data.shape == (1, 2, *SHAPE)
        assert model.meta.exposure.ngroups == 2
        assert len(model.group) == 2
    with fits.open(tmp_path / NAME) as hdul:
        tree = asdf.util.load_yaml(_asdf_bytes(hdul, tmp_path))
    assert tree["meta"]["exposure"]["ngroups"] == 2
    assert tree["meta"]["exposure"]["exposure_time"] == pytest.approx(2 * 2.77504)
    assert list(tree["data"]["shape"]) == [1, 2, *SHAPE]


def _asdf_bytes(hdul, directory):
    path = directory / "metadata.asdf"
    path.write_bytes(hdul["ASDF"].data["ASDF_METADATA"].tobytes())
    return path


def test_every_integration_is_cut(uncal, tmp_path, ramp):
    with datamodels.open(uncal) as model:
        model.data = np.stack([ramp, ramp + 100]).astype(np.uint16)
        model.meta.exposure.nints = 2
        model.meta.exposure.exposure_time *= 2
        model.group = np.concatenate([model.group, model.group])
        model.refout = np.zeros((2, GROUPS, SHAPE[0], SHAPE[1] // 4), np.uint16)
        end = model.meta.exposure.end_time
        model.save(str(tmp_path / NAME))
    remove_groups_file(tmp_path / NAME, tmp_path / "cut" / NAME, groups=4)
    with datamodels.open(tmp_path / "cut" / NAME) as cut:
        np.testing.assert_array_equal(cut.data[1], (ramp + 100)[:4])
        assert cut.refout.shape[:2] == (2, 4)
        assert list(cut.group["group_number"]) == [1, 2, 3, 4] * 2
        assert cut.meta.exposure.integration_time == pytest.approx(4 * 2.77504)
        assert cut.meta.exposure.exposure_time == pytest.approx(8 * 2.77504)
        # The second integration starts when it did: the exposure ends earlier by the groups it has lost.
        assert (end - cut.meta.exposure.end_time) * 86400 == pytest.approx(2 * 2.77504, abs=1e-4)


def test_wrong_numbers_and_files_are_refused(uncal, tmp_path):
    for groups in (0, 7):
        with pytest.raises(OptionError, match="has 6 groups"):
            remove_groups_file(uncal, tmp_path / NAME, groups=groups)
    with pytest.raises(FileFormatError, match="does not exist"):
        remove_groups_file(tmp_path / "none_uncal.fits", tmp_path / NAME, groups=1)
    broken = tmp_path / "broken_uncal.fits"
    broken.write_bytes(uncal.read_bytes()[:6000])
    with pytest.raises(FileFormatError):
        remove_groups_file(broken, tmp_path / NAME, groups=1)
    rate = tmp_path / "a_rate.fits"
    with fits.open(uncal) as hdul:
        hdul["SCI"].data = hdul["SCI"].data[0, 0]
        hdul.writeto(rate)
    with pytest.raises(FileFormatError, match="no raw exposure"):
        remove_groups_file(rate, tmp_path / NAME, groups=1)
    assert not (tmp_path / NAME).exists()


def test_counts_of_groups_to_make(tmp_path):
    assert group_counts(5) == [4, 3, 2, 1]
    assert group_counts(20, [1, 2, 30, 20]) == [2, 1]
    assert group_counts(1) == []
    with pytest.raises(OptionError):
        group_counts(5, [0])
    assert grouped_path(tmp_path, 3, NAME) == tmp_path / "groups" / "3_groups" / "stage0" / NAME


def test_command(uncal, tmp_path):
    done = run("remove_groups.py", uncal, tmp_path / NAME, "--groups", 2)
    assert done.returncode == 0, done.stderr
    assert fits.getheader(tmp_path / NAME)["NGROUPS"] == 2
    assert run("remove_groups.py", uncal, tmp_path / NAME, "--groups", 9).returncode == 2
