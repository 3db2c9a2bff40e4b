"""Bad FITS files: every step makes something sound of them or says in one sentence what is wrong with which file."""

import shutil

import numpy as np
import pytest
from astropy.io import fits
from bad_fits import drive, fault
from bad_fits_cases import all_cases

from cubes import DQ
from errors import FileFormatError, InputError

# Quick steps meet more files; `python tests/bad_fits.py --files 1000` drives all of them for an hour.
SLOW = {"plot": 6, "animate": 4, "construct_flat_field": 6, "psf_correct": 12, "navigate with a fit": 12}
SLOW |= {"visit_pointing": 12}
FILES = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="module")
def cases(place):
    return all_cases(place)


NAMES = [
    *("navigate", "navigate with a fit", "psf_correct", "desaturate", "desaturate, the short one bad"),
    "defringe_1d, the short one bad",
    *("construct_flat_field", "flat_field", "flat_field, combined", "flat_field, a dither bad", "visit_pointing"),
    *("report", "compare", "despike", "defringe_1d", "plot", "animate", "merge flats", "flat_field, the flat bad"),
    *("cosmic_rays", "cosmic_rays, another bad", "check", "remove_groups"),
]


@pytest.mark.parametrize("name", NAMES)
def test_bad_files_end_in_something_sound_or_in_one_sentence(cases, place, name):
    assert sorted(cases) == sorted(NAMES)
    case = cases[name]
    out = place / "out" / f"product_{case.suffix}.fits"
    if name == "check":
        with pytest.raises(FileFormatError, match="taken for good"):
            case.step(case.good, out)
    else:
        # Else nothing could be wrong with a bad one.
        (place / "good").mkdir(exist_ok=True)
        case.step(case.good, place / "good" / out.name)
        assert fault(case.step, case.good, out, case.source) is None
    faults, counts = drive({name: case}, place, seed=6, number=SLOW.get(name, FILES))
    assert faults == []
    assert counts[name] >= 4


@pytest.mark.parametrize("name", ["EMISSION", "LAT", "DISTANCE_RINGS", "DOPPLER_BARY"])
def test_backplanes_of_another_shape_make_no_flat(cases, place, name):
    case = cases["construct_flat_field"]
    bad = place / "axis_s3d_nav.fits"
    for change in (lambda plane: plane[None], lambda plane: plane[:-1]):
        with fits.open(case.good) as hdul:
            hdul[name].data = change(hdul[name].data)
            hdul.writeto(bad, overwrite=True)
        with pytest.raises(FileFormatError, match=f"{bad.name} has backplanes of another shape.*{name}"):
            case.step(bad, place / "out" / "flat.fits")


def test_weights_of_another_shape_make_no_flat_of_combined_cubes(cases, place):
    case = cases["flat_field, a dither bad"]
    bad = place / "weights_s3d_nav.fits"
    with fits.open(case.good) as hdul:
        hdul["WMAP"].data = hdul["WMAP"].data[None]
        hdul.writeto(bad)
    with pytest.raises(FileFormatError, match=f"{bad.name}.*has a WMAP of shape"):
        case.step(bad, place / "out" / "combined.fits")


@pytest.mark.parametrize(
    ("step", "name", "kind"),
    [
        *(("despike", "SCI", "i2"), ("flat_field", "ERR", "i4"), ("despike", "DQ", "f4"), ("despike", "DQ", "u1")),
        *(("cosmic_rays", "DQ", "f8"), ("cosmic_rays, another bad", "VAR_RNOISE", "u1")),
    ],
)
def test_data_of_another_type_are_refused(cases, place, step, name, kind):
    case = cases[step]
    bad = place / f"type_{case.suffix}.fits"
    with fits.open(case.good) as hdul:
        hdul[name].data = np.ones(hdul[name].shape, kind)
        hdul.writeto(bad, overwrite=True)
    with pytest.raises(FileFormatError, match=f"{bad.name} has data of another type.*{name} "):
        case.step(bad, place / "out" / "product.fits")


@pytest.mark.parametrize("damage", [lambda asdf: asdf[:90], lambda asdf: asdf.replace(b"crval", b"\xff\xfe\xfdal")])
def test_a_damaged_wcs_object_costs_itself(cases, place, damage):
    """The header's WCS is what every step reads."""
    from navigate import navigate_file

    good = cases["navigate"].good
    bad, out = place / "wcs_s3d.fits", place / "out" / "product.fits"
    asdf = np.frombuffer(damage(b"#ASDF 1.0.0\n--- crval1: 1.0\n" + b"crval2: 2.0\n" * 10 + b"\n...\n"), np.uint8)
    with fits.open(good) as hdul:
        column = fits.Column(name="ASDF_METADATA", format=f"{asdf.size}B", array=asdf[None])
        table = fits.BinTableHDU.from_columns([column], name="ASDF")
        fits.HDUList([hdu for hdu in hdul if hdu.name != "ASDF"] + [table]).writeto(bad, overwrite=True)
    facts = navigate_file(bad, out, kernel_path=place / "kernels", ra_offset=0.1)
    assert any("could not be shifted" in text for text in facts["warnings"])
    assert fits.getheader(out, "SCI")["CRVAL1"] != fits.getheader(bad, "SCI")["CRVAL1"]
    out.unlink()


@pytest.mark.parametrize(
    ("key", "value", "what"), [("PC1_3", 0.1, "PC1_3"), ("CDELT1", 1e-300, "spaxels of"), ("PC1_1", 99.0, "spaxels of")]
)
def test_coordinates_that_no_cube_has_are_refused(cases, place, key, value, what):
    case = cases["navigate"]
    bad = place / "mixed_s3d_nav.fits"
    shutil.copy(case.good, bad)
    fits.setval(bad, key, value=value, extname="SCI")
    with pytest.raises(FileFormatError, match=f"{bad.name} has wrong coordinates.*{what}"):
        case.step(bad, place / "out" / "product.fits")


def test_values_without_bounds_are_flagged_where_the_psf_correction_takes_them(cases, place):
    case = cases["psf_correct"]
    bad = place / "bounds_s3d_nav.fits"
    shutil.copy(case.good, bad)
    with fits.open(bad, mode="update") as hdul:
        hdul["SCI"].data[:] = -np.inf
    assert fault(case.step, bad, place / "out" / "product_s3d_nav.fits", bad) is None


@pytest.mark.parametrize(("name", "value"), [("LON", 1e10), ("EMISSION", -np.inf), ("DOPPLER_BARY", 2e-193)])
def test_backplanes_that_can_not_be_true_make_no_flat(cases, place, name, value):
    case = cases["construct_flat_field"]
    bad = place / "angle_s3d_nav.fits"
    shutil.copy(case.good, bad)
    with fits.open(bad, mode="update") as hdul:
        hdul[name].data[3, 3] = value
    with pytest.raises(FileFormatError, match=f"{bad.name} has backplanes with values that can not be true.*{name}"):
        case.step(bad, place / "out" / "flat.fits")


@pytest.mark.parametrize("step", ["despike", "psf_correct"])
def test_an_instrument_that_is_none_has_no_psf(cases, place, step):
    bad = place / "instrument_s3d_nav.fits"
    shutil.copy(cases[step].good, bad)
    fits.setval(bad, "INSTRUME", value=-1)
    with pytest.raises(InputError, match="the PSF of '-1' is not known: give its FWHM"):
        cases[step].step(bad, place / "out" / "product.fits")


def test_a_card_that_is_none_is_said_before_the_run(cases, place):
    case = cases["check"]
    bad = place / "card_uncal.fits"
    content = case.good.read_bytes()
    start = content.index(b"EXPEND  =")
    bad.write_bytes(content[: start + 10] + b"'" + content[start + 11 :])
    with pytest.raises(FileFormatError, match=f"{bad.name} has a wrong time in its header"):
        case.step(bad, place / "out" / "product_uncal.fits")


@pytest.mark.parametrize("value", [1e-40, 1e-9, 1e30, np.inf, -1.0])
def test_what_no_flat_can_be_leaves_its_voxel_alone(cases, place, value):
    case = cases["flat_field, the flat bad"]
    bad, out = place / "implausible_flat.fits", place / "out" / "product.fits"
    shutil.copy(case.good, bad)
    with fits.open(bad, mode="update") as hdul:
        hdul[0].data[5, 7, 6] = value
    assert fault(case.step, bad, out.with_name("other.fits"), case.source) is None
    case.step(bad, out)
    with fits.open(out) as made, fits.open(case.source) as given:
        assert made["SCI"].data[5, 7, 6] == given["SCI"].data[5, 7, 6]
        assert made["DQ"].data[5, 7, 6] == given["DQ"].data[5, 7, 6] | DQ.NO_FLAT_FIELD
    out.unlink()


@pytest.mark.filterwarnings("ignore:Keyword name")
@pytest.mark.parametrize(("card", "broken"), [(b"PATT_NUM", b"P\x01TT_NUM"), (b"EXTEND  ", b"NAXIS(  ")])
def test_a_header_that_can_not_be_written_again_is_refused(cases, place, card, broken):
    case = cases["remove_groups"]
    bad, out = place / "card_uncal.fits", place / "out" / "cut_uncal.fits"
    bad.write_bytes(case.good.read_bytes().replace(card, broken, 1))
    with pytest.raises(FileFormatError, match=f"{bad.name} has a header that can't be written again"):
        case.step(bad, out)
    assert not out.exists()
