"""Exposures are told apart by their headers, grouped into dithers and tiles, and damaged files are named."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from errors import DataRootError, FileFormatError
from observations import Exposure, check_complete, find_exposures, read_exposure, sort_by_role, tile_labels

MRS = Exposure(
    path=Path("jw01247330001_02101_00001_mirifushort_uncal.fits"),
    instrument="MIRI",
    detector="MIRIFUSHORT",
    exposure_type="MIR_MRS",
    channel="12",
    band="SHORT",
    filter="N/A",
    grating="N/A",
    dither=1,
    observation="330",
    visit="001",
    activity="01",
    exposure_number="1",
    groups=5,
    is_imprint=False,
    is_background=False,
    target="SATURN",
)


def write_exposure(path: Path, **keywords) -> Path:
    header = fits.Header()
    values = {
        "TELESCOP": "JWST",
        "INSTRUME": "MIRI",
        "DETECTOR": "MIRIFUSHORT",
        "EXP_TYPE": "MIR_MRS",
        "CHANNEL": "12",
        "BAND": "SHORT",
        "NGROUPS": 5,
        "PATT_NUM": 3,
        "OBSERVTN": "330",
    }
    header.update(values | keywords)
    fits.HDUList([fits.PrimaryHDU(header=header), fits.ImageHDU(np.ones((5, 40, 30), "u2"), name="SCI")]).writeto(path)
    return path


def test_an_exposure_is_what_its_header_says(tmp_path):
    exposure = read_exposure(write_exposure(tmp_path / "jw1_x_mirifushort_uncal.fits", BKGDTARG=True))
    assert (exposure.dither, exposure.setting, exposure.groups) == (3, ("12", "SHORT"), 5)
    assert exposure.is_background and not exposure.is_imprint
    assert exposure.name == "jw1_x_mirifushort"
    nirspec = replace(exposure, instrument="NIRSPEC", filter="F290LP", grating="G395H", channel="N/A", band="N/A")
    assert nirspec.setting == ("F290LP", "G395H")


def test_roles_leave_target_acquisition_and_leakcal_out_of_science():
    acquisition = replace(MRS, exposure_type="MIR_TACQ")
    leakcal = replace(MRS, is_imprint=True)
    sky = replace(MRS, is_background=True)
    roles = sort_by_role([acquisition, leakcal, sky, MRS], "MIR_MRS")
    assert (roles.science, roles.background, roles.imprint, roles.left_out) == (
        [MRS],
        [sky],
        [leakcal],
        [acquisition],
    )


def test_dithers_of_one_pointing_are_one_tile():
    dithers = [replace(MRS, dither=n, exposure_number=str(n)) for n in range(1, 5)]
    assert set(tile_labels(dithers).values()) == {""}
    # The bands of one observation have activities of their own; that makes no tiles.
    bands = [replace(MRS, band=band, activity=f"0{n}") for n, band in enumerate(("SHORT", "MEDIUM", "LONG"), 1)]
    assert set(tile_labels(bands).values()) == {""}
    # So have, in some programmes, the dithers.
    assert set(tile_labels([replace(e, activity=f"0{e.dither}") for e in dithers]).values()) == {""}


@pytest.mark.parametrize(
    "change", [{"observation": "331"}, {"visit": "002"}, {"activity": "03"}], ids=["observation", "visit", "activity"]
)
def test_the_same_dither_taken_twice_makes_two_tiles(change):
    labels = tile_labels([MRS, replace(MRS, **change)])
    assert len(set(labels.values())) == 2
    assert "" not in labels.values()


def test_segments_of_one_exposure_stay_together():
    segments = [replace(MRS, path=Path(f"jw1-seg00{n}_mirifushort_uncal.fits")) for n in (1, 2)]
    assert set(tile_labels(segments).values()) == {""}


def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path):
    good = write_exposure(tmp_path / "a_uncal.fits")
    bad = tmp_path / "b_uncal.fits"
    bad.write_text("this is no FITS file")
    exposures, errors = find_exposures(tmp_path, "uncal")
    assert [exposure.path for exposure in exposures] == [good]
    assert len(errors) == 1 and str(bad) in str(errors[0]) and "not a FITS file" in str(errors[0])


def test_every_truncation_is_found(tmp_path):
    whole = write_exposure(tmp_path / "whole_uncal.fits")
    check_complete(whole)
    content = whole.read_bytes()
    cut = tmp_path / "cut_uncal.fits"
    for size in range(2880, len(content), 2880):
        cut.write_bytes(content[:size])
        with pytest.raises(FileFormatError, match="cut_uncal"):
            check_complete(cut)
    cut.write_bytes(content[:-7])
    with pytest.raises(FileFormatError, match="truncated"):
        check_complete(cut)


def test_missing_data_say_what_to_do(tmp_path):
    with pytest.raises(DataRootError, match="does not exist"):
        find_exposures(tmp_path / "stage0", "uncal")
    with pytest.raises(DataRootError, match="download"):
        find_exposures(tmp_path, "uncal")
    with pytest.raises(FileFormatError, match="lacks TELESCOP"):
        fits.PrimaryHDU().writeto(tmp_path / "empty_uncal.fits")
        read_exposure(tmp_path / "empty_uncal.fits")


BAD_VALUES = ["../../x", "/etc", "..", "a/b", "a\\b", "SHORT\n", "x" * 60, "~", "$HOME", "`id`", "<b>", 3.5]


@pytest.mark.parametrize("key", ["BAND", "CHANNEL", "DETECTOR", "FILTER", "GRATING", "OBSERVTN", "VISIT", "ACT_ID"])
@pytest.mark.parametrize("value", BAD_VALUES)
def test_values_that_could_lead_out_of_a_directory_are_refused(tmp_path, key, value):
    path = tmp_path / "a_uncal.fits"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            write_exposure(path, **{key: value})
        except ValueError:
            return  # not even FITS allows it
    with pytest.raises(FileFormatError, match=f"a_uncal.fits.*{key}"):
        read_exposure(path)


@pytest.mark.parametrize("key", ["PATT_NUM", "NGROUPS"])
@pytest.mark.parametrize("value", ["../x", -1, 10**9, 1.5, True])
def test_counts_are_small_numbers(tmp_path, key, value):
    with pytest.raises(FileFormatError, match=key):
        read_exposure(write_exposure(tmp_path / "a_uncal.fits", **{key: value}))


def test_no_name_comes_from_a_value_that_is_missing(tmp_path):
    with pytest.raises(FileFormatError, match="lacks CHANNEL or BAND"):
        read_exposure(write_exposure(tmp_path / "a_uncal.fits", BAND=None))
    tiles = [replace(MRS, observation=o, visit="N/A", activity="N/A") for o in ("330", "331")]
    assert list(tile_labels(tiles).values()) == ["o330v", "o331v"]
