"""Reading and writing cubes: nothing is lost, wavelengths are right, flags are bits, files appear whole."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from cubes import DQ, Cube, read_cube, read_fits, sky_coordinates, spaxel_scale, wavelengths, write_cube
from errors import FileFormatError

ROOT = Path(__file__).parents[1]
SHAPE = (6, 5, 4)


def make_cube(path, **sci_keys):
    rng = np.random.default_rng(1)
    sci = rng.normal(100, 5, SHAPE).astype(np.float32)
    sci[0, 0, 0] = np.nan
    dq = np.zeros(SHAPE, np.uint32)
    dq[0, 0, 0] = 513
    hdul = fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(sci, name="SCI"),
            fits.ImageHDU(np.full(SHAPE, 2, np.float32), name="ERR"),
            fits.ImageHDU(dq, name="DQ"),
            fits.ImageHDU(np.ones(SHAPE, np.float32), name="WMAP"),
            fits.BinTableHDU.from_columns(
                [fits.Column("wavelength", f"{SHAPE[0]}E", array=np.arange(5.0, 5.6, 0.1)[None, :])], name="WCS-TABLE"
            ),
            fits.BinTableHDU.from_columns(
                [fits.Column("ASDF_METADATA", "7B", array=np.frombuffer(b"#ASDF 1", np.uint8)[None, :])], name="ASDF"
            ),
        ]
    )
    keys = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "WAVE", "CUNIT1": "deg", "CUNIT2": "deg", "CUNIT3": "um",
        "CRPIX1": 2.5, "CRPIX2": 3.0, "CRPIX3": 1.0, "CRVAL1": 0.0, "CRVAL2": 60.0, "CRVAL3": 4.9,
        "CDELT1": 0.13 / 3600, "CDELT2": 0.13 / 3600, "CDELT3": 0.0008,
        "PC1_1": -np.cos(0.4), "PC1_2": np.sin(0.4), "PC2_1": np.sin(0.4), "PC2_2": np.cos(0.4), "BUNIT": "MJy/sr",
    }  # fmt: skip
    for key, value in (keys | sci_keys).items():
        if value is not None:
            hdul["SCI"].header[key] = value
    hdul.writeto(path)
    return path


def test_round_trip_keeps_every_extension_and_byte(tmp_path):
    path = make_cube(tmp_path / "a.fits")
    cube = read_cube(path)
    assert cube.sci.dtype.isnative and cube.dq.dtype == np.uint32
    write_cube(cube, tmp_path / "b.fits")
    with fits.open(path) as before, fits.open(tmp_path / "b.fits") as after:
        assert [hdu.name for hdu in before] == [hdu.name for hdu in after]
        for old, new in zip(before[1:], after[1:], strict=True):
            assert old.data.dtype == new.data.dtype or old.data.dtype.newbyteorder("=") == new.data.dtype.newbyteorder(
                "="
            )
            assert old.data.tobytes() == new.data.tobytes(), old.name
            assert list(old.header.items()) == list(new.header.items())
        assert after[0].header["FILENAME"] == "b.fits"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, 4.9 + 0.0008 * np.arange(6)),
        ({"CRPIX3": 3.0}, 4.9 + 0.0008 * (np.arange(6) - 2)),
        ({"CUNIT3": "m", "CRVAL3": 4.9e-6, "CDELT3": 8e-10}, 4.9 + 0.0008 * np.arange(6)),
        ({"PC3_3": 2.0}, 4.9 + 0.0016 * np.arange(6)),
        ({"CDELT3": None, "CD3_3": 0.002}, 4.9 + 0.002 * np.arange(6)),
        ({"CTYPE3": "WAVE-TAB", "PS3_0": "WCS-TABLE", "PS3_1": "wavelength"}, 5 + 0.1 * np.arange(6)),
    ],
)
def test_wavelengths(tmp_path, keys, expected):
    hdul = read_fits(make_cube(tmp_path / "a.fits", **keys))
    np.testing.assert_allclose(wavelengths(hdul), expected, rtol=1e-7 if "PS3_0" in keys else 1e-13)


def test_a_wavelength_table_of_another_length_is_an_error(tmp_path):
    path = make_cube(tmp_path / "a.fits", CTYPE3="WAVE-TAB")
    table = fits.BinTableHDU.from_columns([fits.Column("wavelength", "3E", array=np.ones((1, 3)))], name="WCS-TABLE")
    with fits.open(path, mode="update") as hdul:
        hdul["WCS-TABLE"] = table
    with pytest.raises(FileFormatError, match="3 entries for 6 planes"):
        _ = read_cube(path).wavelength


@pytest.mark.parametrize("matrix", ["PC", "CD"])
def test_sky_coordinates_are_those_of_the_whole_wcs(tmp_path, matrix):
    scale = 0.13 / 3600
    keys = {}
    if matrix == "CD":
        keys = {f"PC{i}_{j}": None for i in (1, 2) for j in (1, 2)} | {"CDELT1": None, "CDELT2": None, "CDELT3": None}
        keys |= {"CD1_1": -scale, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": scale, "CD3_3": 0.0008}
    header = read_cube(make_cube(tmp_path / "a.fits", **keys)).sci_header
    ra, dec = sky_coordinates(header)
    y, x = np.indices(SHAPE[1:])
    whole = WCS(header).all_pix2world(x, y, 0, 0)
    np.testing.assert_allclose((ra - whole[0] + 180) % 360 - 180, 0, atol=1e-12)
    np.testing.assert_allclose(dec, whole[1], rtol=0, atol=1e-12)
    # The field lies on RA = 0.
    assert ra.min() >= 0 and ra.max() < 360 and np.ptp(ra) > 359
    assert spaxel_scale(header) == pytest.approx(0.13, rel=1e-12)


def test_flags_have_the_values_of_jwst():
    from stdatamodels.jwst.datamodels import dqflags

    assert {flag.name: flag.value for flag in DQ} == {flag.name: dqflags.pixel[flag.name] for flag in DQ}


def test_mark_bad_sets_bits_and_touches_nothing_else(tmp_path):
    cube = read_cube(make_cube(tmp_path / "a.fits"))
    before = cube.sci.copy(), cube.err.copy(), cube.dq.copy()
    mask = np.zeros(SHAPE, bool)
    mask[0, 0, 0] = mask[3, 2, 1] = True
    cube.mark_bad(mask, DQ.OUTLIER)
    cube.mark_bad(mask, DQ.OUTLIER)
    assert cube.dq[3, 2, 1] == DQ.DO_NOT_USE | DQ.OUTLIER == 17
    assert cube.dq[0, 0, 0] == 513 | 17
    assert np.isnan(cube.sci[mask]).all() and np.isnan(cube.err[mask]).all()
    for old, new in zip(before, (cube.sci, cube.err, cube.dq), strict=True):
        assert old[~mask].tobytes() == new[~mask].tobytes()
    np.testing.assert_array_equal(cube.good, ~mask)


def test_notes_are_numbered_and_parameters_kept(tmp_path):
    cube = read_cube(make_cube(tmp_path / "a.fits"))
    parameters = {
        "limit": np.float32(0.5),
        "number": np.int64(3),
        "nothing": None,
        "switch": True,
        "sizes": [1, 2, 3],
        "path": tmp_path / "flat.fits",
        "long": "x" * 200,
        "infinite": np.inf,
    }
    cube.add_note("despike", "Despiked", parameters)
    cube.add_note("flat", "Flat-fielded", {})
    write_cube(cube, tmp_path / "b.fits")
    header = fits.getheader(tmp_path / "b.fits")
    assert (header["REDUCT1"], header["REDUCT2"]) == ("Despiked", "Flat-fielded")
    assert header.comments["REDUCT1"].endswith("UTC")
    assert header["DESPIKE LIMIT"] == 0.5 and header["DESPIKE NUMBER"] == 3 and header["DESPIKE SWITCH"] is True
    assert header["DESPIKE NOTHING"] == "None" and header["DESPIKE SIZES"] == "[1, 2, 3]"
    assert header["DESPIKE PATH"] == "flat.fits" and header["DESPIKE INFINITE"] == "inf"
    assert header["DESPIKE LONG"].startswith("xxx") and header["DESPIKE LONG"].endswith("...")
    assert header["DESPIKE VERSION"] and header["FLAT VERSION"]


def test_an_extension_is_replaced_and_not_doubled(tmp_path):
    cube = read_cube(make_cube(tmp_path / "a.fits"))
    for value in (1.0, 2.0):
        cube.set_extension("FLAT", np.full(SHAPE, value), "", "The flat by which the cube was divided.")
    names = [hdu.name for hdu in cube.hdul]
    assert names.count("FLAT") == 1 and names[:2] == ["PRIMARY", "SCI"]
    assert cube.hdul["FLAT"].data.max() == 2 and "divided" in str(cube.hdul["FLAT"].header["COMMENT"])


def test_bad_files_are_one_sentence(tmp_path):
    with pytest.raises(FileFormatError, match="does not exist"):
        read_cube(tmp_path / "missing.fits")
    (tmp_path / "text.fits").write_text("this is no FITS file")
    with pytest.raises(FileFormatError, match="not a readable FITS file"):
        read_cube(tmp_path / "text.fits")
    (tmp_path / "empty.fits").write_bytes(b"")
    with pytest.raises(FileFormatError, match="not a readable FITS file"):
        read_cube(tmp_path / "empty.fits")
    whole = make_cube(tmp_path / "a.fits").read_bytes()
    for length in (2880 * 2, 2880 * 3 + 100, len(whole) // 2, len(whole) - 2880):
        (tmp_path / "short.fits").write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            read_cube(tmp_path / "short.fits")
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "image.fits")
    with pytest.raises(FileFormatError, match="no IFU cube"):
        read_cube(tmp_path / "image.fits")


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = make_cube(tmp_path / "a.fits")
    old = path.read_bytes()
    code = (
        "import sys, time; from astropy.io import fits; from cubes import read_cube, write_cube; import cubes\n"
        f"cube = read_cube({str(path)!r})\n"
        "def slow(hdul, name, **kwargs):\n"
        "    open(name, 'wb').write(b'SIMPLE  =')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "fits.HDUList.writeto = slow\n"
        f"write_cube(cube, {str(path)!r})\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert path.read_bytes() == old
    assert read_cube(path).shape == SHAPE


def test_a_failing_write_leaves_nothing_behind(tmp_path):
    path = make_cube(tmp_path / "a.fits")
    cube = read_cube(path)
    cube.header["FILENAME"] = "a.fits"
    broken = Cube(path, fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(name="SCI")]))
    broken.hdul.writeto = None
    with pytest.raises(TypeError):
        write_cube(broken, tmp_path / "new.fits")
    assert os.listdir(tmp_path) == ["a.fits"]


def test_writing_a_cube_over_its_own_input(tmp_path):
    path = make_cube(tmp_path / "a.fits")
    cube = read_cube(path)
    cube.sci[1] = 7
    before = time.time_ns()
    write_cube(cube, path)
    assert read_cube(path).sci[1].max() == 7
    assert path.stat().st_mtime_ns >= before - 10**9
