"""Dividing by a flat: the arithmetic of a plain loop, nothing touched that has no flat, files that stay whole."""

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from flat_scenes import crop, stripes
from hypothesis import given, settings
from hypothesis import strategies as st

import flat_field
from benchmarks.reference_flat import plain_flat_field
from cubes import DQ, read_cube, write_cube
from errors import FileFormatError, InputError
from flat_field import apply_flat, flat_field_file
from flat_files import (
    Flat,
    IfuGrid,
    exposure_of,
    flat_name,
    flat_path_of,
    fringe_label,
    identity_of,
    nearest_planes,
    read_flat,
    regrid,
    write_flat,
)
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.scene import Scene

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
UTC = "2022-11-13T10:00:00"
NAME = "ch1-short_constructed_flat.fits"


@pytest.fixture(scope="module")
def cube_path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cube")
    write_kernels(directory, UTC, UTC, "saturn")
    path = directory / "Level3_ch1-short_s3d.fits"
    return simulate_cube(
        Scene("saturn", directory), UTC, path, n_wave=5, offset=(0.0, 5.0), rotation_deg=80.0, noise=200
    )


@pytest.fixture
def flat(cube_path):
    cube = read_cube(cube_path)
    values = np.broadcast_to(stripes(cube.shape[1:], 0.03, "slices"), cube.shape).copy()
    error = np.full(cube.shape, 0.002)
    values[:, 12, 7:11], error[:, 12, 7:11] = np.nan, np.nan
    values[3], error[3] = 1.0, 0.0
    corrected = np.array([True, True, True, False, True])
    return Flat(values, error, corrected, cube.wavelength, IfuGrid.of_cube(cube), identity=identity_of(cube.header))


@pytest.fixture
def flat_path(flat, tmp_path):
    write_flat(flat, tmp_path / "flats" / NAME, "Flat constructed", {"bin_aspect": 4.0})
    return tmp_path / "flats" / NAME


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*(st.integers(1, 6),) * 3), st.sampled_from(["some", "none", "all"]))
def test_division_is_that_of_a_plain_loop(seed, shape, unknown):
    random = np.random.default_rng(seed)
    sci = random.normal(100, 50, shape).astype(np.float32)
    err = random.uniform(0.1, 5, shape).astype(np.float32)
    dq = random.choice([0, 1, 2, 513, 128], shape).astype(np.uint32)
    lost = random.uniform(size=shape) < 0.2
    sci[lost], err[lost] = np.nan, np.nan
    if seed % 5 == 0:
        sci[random.integers(shape[0])] = np.nan
    flat = random.uniform(0.7, 1.4, shape).astype(np.float32)
    error = random.uniform(0, 0.01, shape).astype(np.float32)
    share = {"some": 0.3, "none": 0.0, "all": 1.0}[unknown]
    bad = random.uniform(size=shape) < share
    flat[bad] = random.choice([np.nan, 0.0, -1.0], bad.sum())
    one = random.uniform(size=shape) < 0.2
    flat[one & ~bad], error[one & ~bad] = 1.0, 0.0
    inputs = [a.copy() for a in (sci, err, dq, flat, error)]
    own_share = random.choice([0, 0.25, 0.1], shape[1:])
    result = apply_flat(sci, err, dq, flat, error, own_share if own_share.any() else None)
    expected = plain_flat_field(sci, err, dq, flat, error, own_share)
    for got, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    for got, given_ in zip((sci, err, dq, flat, error), inputs, strict=True):
        np.testing.assert_array_equal(got, given_)
    untouched = one | bad
    assert result[0][untouched].tobytes() == sci[untouched].tobytes()
    assert result[1][untouched].tobytes() == err[untouched].tobytes()
    np.testing.assert_array_equal(result[2][~bad], dq[~bad])
    assert result[2].dtype == np.uint32


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*(st.integers(1, 5),) * 2), st.tuples(*(st.integers(1, 5),) * 2), st.tuples(*(st.integers(-6, 6),) * 2)
)
def test_regridding_moves_whole_spaxels(old, new, steps):
    values = np.arange(2.0 * old[0] * old[1]).reshape(2, *old)
    result = regrid(values, steps, new)
    for y in range(new[0]):
        for x in range(new[1]):
            from_y, from_x = y - steps[0], x - steps[1]
            inside = 0 <= from_y < old[0] and 0 <= from_x < old[1]
            np.testing.assert_array_equal(result[:, y, x], values[:, from_y, from_x] if inside else np.nan)


def test_noise_after_division_is_what_err_says():
    """Over the truth, (value - truth) / ERR has width 1 with the flat's error in it."""
    random = np.random.default_rng(1)
    truth, snr, flat_error = 500.0, 300.0, 0.003
    true_flat = 1 + 0.03 * random.standard_normal((20, 30, 30))
    known_flat = true_flat * (1 + flat_error * random.standard_normal(true_flat.shape))
    sci = truth * true_flat * (1 + random.standard_normal(true_flat.shape) / snr)
    err = truth * true_flat / snr
    sci, err, _ = apply_flat(sci, err, np.zeros(sci.shape, np.uint32), known_flat, flat_error * known_flat)
    assert 0.97 < np.std((sci - truth) / err) < 1.03


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_noise_of_a_dither_that_is_in_the_flat_counts_once(weight):
    """The flat is the mean of four dithers' ratios to a known scene, or less than that where a prior holds it."""
    random = np.random.default_rng(2)
    truth, snr, prior = 500.0, 300.0, 1 / 300 * np.sqrt(weight / (1 - weight) / 4) if weight < 1 else 0.03
    true_flat = 1 + prior * random.standard_normal((20, 30, 30))
    sci = truth * true_flat * (1 + random.standard_normal((4, *true_flat.shape)) / snr)
    err = truth * true_flat / snr
    made = 1 + weight * (sci.mean(axis=0) / truth - 1)
    error = np.full(made.shape, np.sqrt(weight / 4) / snr)
    dq = np.zeros(made.shape, np.uint32)
    for own_share, width in ((np.full((30, 30), 0.25), 1.0), (None, np.sqrt((4 - weight) / (4 + weight)))):
        corrected, its_error, _ = apply_flat(sci[0], err, dq, made, error, own_share)
        assert np.std((corrected - truth) / its_error) == pytest.approx(width, rel=0.03)


def test_spaxels_that_the_flat_did_not_use_have_their_whole_error(cube_path, flat, tmp_path):
    """Rings and the far limb take no part in the fit, so the noise of their dither is not in the flat."""
    cube = read_cube(cube_path)
    shape = cube.shape[1:]
    columns = np.broadcast_to(np.arange(shape[1]), shape)
    cube.header["NAVTARG"] = "SATURN"
    cube.set_extension("EMISSION", np.where(columns < 5, 80.0, 30.0), "deg", "")
    cube.set_extension("DISTANCE_RINGS", np.where(columns > shape[1] - 5, 100000.0, np.nan), "km", "")
    write_cube(cube, tmp_path / "used_s3d.fits")
    made = replace(flat, exposures=(exposure_of(cube.header), "b", "c", "d"), emission_cutoff=75.0)
    write_flat(made, tmp_path / NAME, "Flat constructed", {})
    flat_field_file(tmp_path / "used_s3d.fits", tmp_path / "out_s3d.fits", flat_path=tmp_path / NAME)
    out, values = read_cube(tmp_path / "out_s3d.fits"), (flat.flat.astype(np.float32), flat.error.astype(np.float32))
    margin = 3  # how far the rings' light is taken to reach
    share = np.where((columns >= 5) & (columns < shape[1] - 4 - margin), 0.25, 0.0)
    assert (share > 0).any()
    _, expected, _ = plain_flat_field(cube.sci, cube.err, cube.dq, *values, share)
    np.testing.assert_allclose(out.err[flat.corrected], expected[flat.corrected], rtol=1e-5)


def test_file_is_divided_and_the_rest_survives(cube_path, flat, flat_path, tmp_path):
    out = tmp_path / "out_s3d.fits"
    before_flat = hashlib.sha256(flat_path.read_bytes()).hexdigest()
    facts = flat_field_file(cube_path, out, flat_path=flat_path)
    assert facts["applied"]
    assert facts["flat"] == flat_path
    before, after = read_cube(cube_path), read_cube(out)
    used = flat.flat.astype(np.float32)
    sci, err, dq = plain_flat_field(before.sci, before.err, before.dq, used, flat.error.astype(np.float32))
    np.testing.assert_allclose(after.sci, sci, rtol=1e-6)
    np.testing.assert_allclose(after.err, err, rtol=1e-6)
    np.testing.assert_array_equal(after.dq, dq)
    np.testing.assert_array_equal(after.hdul["FLAT"].data, used)
    np.testing.assert_allclose(after.hdul["FLAT_ERR"].data, flat.error, rtol=1e-6)
    # Not known, or a wavelength without flat: bit for bit.
    for index in (np.s_[:, 12, 7:11], np.s_[3]):
        assert after.sci[index].tobytes() == before.sci[index].tobytes()
        assert after.err[index].tobytes() == before.err[index].tobytes()
    with_flat = np.array([0, 1, 2, 4])
    unknown = np.ix_(with_flat, [12], [7, 8, 9, 10])
    assert (after.dq[unknown] == before.dq[unknown] | DQ.NO_FLAT_FIELD).all()
    assert (after.good == before.good).all()
    assert [hdu.name for hdu in before.hdul if hdu.name not in after.hdul] == []
    assert after.hdul["ASDF"].data.tobytes() == before.hdul["ASDF"].data.tobytes()
    assert after.header["REDUCT1"] == "Flat-fielded"
    assert after.header["FLAT FLAT"] == NAME
    assert hashlib.sha256(flat_path.read_bytes()).hexdigest() == before_flat
    assert list(tmp_path.glob(".partial*")) == []


def test_result_opens_as_a_jwst_cube_without_a_warning(cube_path, flat_path, tmp_path):
    from stdatamodels.jwst.datamodels import IFUCubeModel

    out = tmp_path / "out_s3d.fits"
    flat_field_file(cube_path, out, flat_path=flat_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with IFUCubeModel(str(out), strict_validation=True) as model:
            assert model.data.shape == read_cube(cube_path).shape
            assert model.meta.wcs is not None


@pytest.mark.parametrize(("bottom", "left"), [(2, 0), (0, 3), (1, 1)])
def test_a_cube_of_another_size_gets_the_flat_of_its_places(cube_path, flat, flat_path, tmp_path, bottom, left):
    cube = read_cube(cube_path)
    crop(cube, bottom, left)
    write_cube(cube, tmp_path / "small_s3d.fits")
    flat_field_file(tmp_path / "small_s3d.fits", tmp_path / "out.fits", flat_path=flat_path)
    applied = fits.getdata(tmp_path / "out.fits", "FLAT")
    np.testing.assert_array_equal(applied, flat.flat[:, bottom:, left:].astype(np.float32))
    # The other way round: a small flat leaves the rest of a large cube without.
    small = Flat(
        flat.flat[:, bottom:, left:],
        flat.error[:, bottom:, left:],
        flat.corrected,
        flat.wavelength,
        IfuGrid.of_cube(cube),
        identity=flat.identity,
    )
    write_flat(small, tmp_path / "small_flat.fits", "Flat constructed", {})
    flat_field_file(cube_path, tmp_path / "out.fits", flat_path=tmp_path / "small_flat.fits")
    applied, dq = fits.getdata(tmp_path / "out.fits", "FLAT"), fits.getdata(tmp_path / "out.fits", "DQ")
    np.testing.assert_array_equal(applied[:3, bottom:, left:], flat.flat[:3, bottom:, left:].astype(np.float32))
    outside = np.ones(applied.shape[1:], bool)
    outside[bottom:, left:] = False
    assert (dq[0][outside] & DQ.NO_FLAT_FIELD > 0).all()


def test_a_pointing_offset_does_not_move_the_flat(cube_path, flat, flat_path, tmp_path):
    from cube_pointing import set_offset

    cube = read_cube(cube_path)
    set_offset(cube, 0.7, -0.4)
    write_cube(cube, tmp_path / "moved.fits")
    flat_field_file(tmp_path / "moved.fits", tmp_path / "out.fits", flat_path=flat_path)
    np.testing.assert_array_equal(fits.getdata(tmp_path / "out.fits", "FLAT"), flat.flat.astype(np.float32))


def test_a_flat_of_part_of_the_wavelengths_leaves_the_others(cube_path, flat, tmp_path):
    part = Flat(
        flat.flat[1:4], flat.error[1:4], flat.corrected[1:4], flat.wavelength[1:4], flat.grid, identity=flat.identity
    )
    write_flat(part, tmp_path / "part.fits", "Flat constructed", {})
    flat_field_file(cube_path, tmp_path / "out.fits", flat_path=tmp_path / "part.fits")
    before, after = read_cube(cube_path), read_cube(tmp_path / "out.fits")
    for k in (0, 4):
        assert after.sci[k].tobytes() == before.sci[k].tobytes()
        assert (after.dq[k] & DQ.NO_FLAT_FIELD > 0).all()
    np.testing.assert_array_equal(after.hdul["FLAT"].data[1:4], flat.flat[1:4].astype(np.float32))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 8))
def test_nearest_planes_are_those_of_a_search(seed, have, want):
    random = np.random.default_rng(seed)
    of = 5 + 0.001 * np.arange(have)
    wanted = 5 + 0.001 * (np.arange(want) + random.integers(-4, 4)) + random.choice([0, 5e-5, 4e-4])
    plane, near = nearest_planes(of, wanted)
    for i, wavelength in enumerate(wanted):
        nearest = min(range(have), key=lambda k: abs(of[k] - wavelength))
        assert abs(of[plane[i]] - wavelength) == pytest.approx(abs(of[nearest] - wavelength), abs=1e-12)
        if have > 1:
            assert near[i] == (abs(of[nearest] - wavelength) <= 1.0e-4)


def test_what_cannot_be_matched_is_an_error_with_both_shapes(cube_path, flat, flat_path, tmp_path):
    cube = read_cube(cube_path)
    cube.sci_header["CDELT1"] *= 1.3
    cube.sci_header["CDELT2"] *= 1.3
    write_cube(cube, tmp_path / "coarse.fits")
    with pytest.raises(InputError) as caught:
        flat_field_file(tmp_path / "coarse.fits", tmp_path / "out.fits", flat_path=flat_path)
    assert str(flat.flat.shape) in str(caught.value)
    assert str(cube.shape) in str(caught.value)
    # Built on the sky instead of along the slices.
    cube = read_cube(cube_path)
    for i, j, value in ((1, 1, -1.0), (1, 2, 0.0), (2, 1, 0.0), (2, 2, 1.0)):
        cube.sci_header[f"PC{i}_{j}"] = value
    write_cube(cube, tmp_path / "sky.fits")
    with pytest.raises(InputError, match="can't be matched"):
        flat_field_file(tmp_path / "sky.fits", tmp_path / "out.fits", flat_path=flat_path)
    bare = Flat(flat.flat[:, 1:], flat.error[:, 1:], flat.corrected)
    write_flat(bare, tmp_path / "bare.fits", "Flat constructed", {})
    with pytest.raises(InputError, match="can't be matched"):
        flat_field_file(cube_path, tmp_path / "out.fits", flat_path=tmp_path / "bare.fits")
    assert not (tmp_path / "out.fits").exists()


def test_the_flat_of_another_band_is_refused(cube_path, flat, tmp_path):
    flat.identity["BAND"] = "LONG"
    write_flat(flat, tmp_path / "long.fits", "Flat constructed", {})
    with pytest.raises(InputError, match="BAND LONG"):
        flat_field_file(cube_path, tmp_path / "out.fits", flat_path=tmp_path / "long.fits")


def test_no_flat_for_a_band_is_a_note_and_the_cube_goes_on_unchanged(cube_path, tmp_path):
    out = tmp_path / "sub" / "out.fits"
    for place in (tmp_path, tmp_path / "ch{channel}-{band}_constructed_flat{fringe}.fits"):
        facts = flat_field_file(cube_path, out, flat_path=place)
        assert not facts["applied"]
        assert NAME in facts["notes"][0]
        assert out.read_bytes() == cube_path.read_bytes()
    with pytest.raises(InputError, match="does not exist"):
        flat_field_file(cube_path, out, flat_path=tmp_path / "typo.fits")
    with pytest.raises(InputError, match="name of flats"):
        flat_field_file(cube_path, out, flat_path=tmp_path / "{colour}.fits")
    with pytest.raises(FileFormatError, match="no flat"):
        flat_field_file(cube_path, out, flat_path=cube_path)


def test_flats_are_found_by_name(cube_path, tmp_path):
    header = read_cube(cube_path).header
    assert flat_name(header) == NAME
    assert flat_name(header, "_fringe1d") == "ch1-short_constructed_flat_fringe1d.fits"
    assert flat_path_of(tmp_path, header) == tmp_path / NAME
    assert flat_path_of(tmp_path / "{band}{fringe}_{channel}.fits", header, "_x") == tmp_path / "short_x_1.fits"
    nirspec = fits.Header({"FILTER": "F290LP", "GRATING": "G395H"})
    assert flat_name(nirspec) == "g395h-f290lp_constructed_flat.fits"
    cube = read_cube(cube_path)
    assert fringe_label(cube) == ""
    cube.header["S_RESFRI"] = "COMPLETE"
    assert fringe_label(cube) == "_fringe"
    cube.header["S_RESFRI"] = "SKIPPED"
    cube.set_extension("FRINGE1D_CORRECTED", np.ones(cube.shape[1:], np.uint8), "", "")
    assert fringe_label(cube) == "_fringe1d"


def test_command(cube_path, flat_path, tmp_path, capsys):
    out = tmp_path / "out.fits"
    assert flat_field.main([str(cube_path), str(out), "--flat-path", str(flat_path.parent)]) == 0
    assert "wavelengths have no flat" in capsys.readouterr().out
    assert "FLAT" in read_cube(out).hdul
    assert flat_field.main([str(cube_path), str(out), "--flat_path", str(tmp_path / "none.fits")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_flat_read_back_is_the_one_written(flat, flat_path):
    again = read_flat(flat_path)
    np.testing.assert_array_equal(again.flat, flat.flat.astype(np.float32))
    np.testing.assert_array_equal(again.error, flat.error.astype(np.float32))
    np.testing.assert_array_equal(again.corrected, flat.corrected)
    np.testing.assert_array_equal(again.wavelength, flat.wavelength)
    assert again.grid.steps_to(flat.grid) == (0, 0)
    assert again.identity == flat.identity


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published flats of Saturn are not here")
@pytest.mark.parametrize("fringe", ["", "_fringe"])
def test_published_flats_are_applied(tmp_path, fringe):
    source = SHARED / "flats" / f"ch4-long_constructed_flat{fringe}.fits"
    published = fits.getdata(source)
    write_kernels(tmp_path, UTC, UTC, "neptune")
    path = simulate_cube(
        Scene("neptune", tmp_path), UTC, tmp_path / "a_s3d.fits", channel="4", band="LONG", n_wave=2, shape=(25, 25)
    )
    cube = read_cube(path)
    for name in ("SCI", "ERR", "DQ", "WMAP"):
        cube.hdul[name].data = np.repeat(cube.hdul[name].data[:1], len(published), axis=0)
    del cube.hdul["WCS-TABLE"], cube.hdul["ASDF"]
    write_cube(cube, path)
    pattern = SHARED / "flats" / "ch{channel}-{band}_constructed_flat{fringe}.fits"
    facts = flat_field_file(path, tmp_path / "out.fits", flat_path=pattern, fringe=fringe)
    assert facts["flat"] == source
    known = np.isfinite(published) & cube.good & (cube.sci != 0)
    ratio = cube.sci[known] / fits.getdata(tmp_path / "out.fits", "SCI")[known]
    np.testing.assert_allclose(ratio, published[known], rtol=1e-5)
