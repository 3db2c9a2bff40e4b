"""Flats from files to files: what they hold, which inputs are refused, and how they are merged."""

import numpy as np
import pytest
from astropy.io import fits
from flat_scenes import CENTRES, crop, misfit, multiply, simulate_dithers, simulate_planet, stripes
from hypothesis import given, settings
from hypothesis import strategies as st

import construct_flat_field
from construct_flat_field import construct_flat_field_files
from cubes import read_cube, write_cube
from errors import FileFormatError, InputError
from flat_field import flat_field_file
from flat_files import Flat, IfuGrid, read_flat, write_flat
from flat_merging import merge_flat_files, merge_flats

DEMANDED = 0.003


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    saturn = simulate_planet("saturn", tmp_path_factory.mktemp("kernels"))
    return {
        name: simulate_dithers(saturn, tmp_path_factory.mktemp(name), centre, n_wave=2)
        for name, centre in CENTRES.items()
    }


@pytest.fixture
def striped(paths, tmp_path):
    truth = stripes(read_cube(paths["disc"][0]).shape[1:], 0.025, "slices")
    out = [multiply(path, tmp_path / path.name, truth) for path in paths["disc"]]
    return out, truth


def test_file_has_flat_error_wavelengths_and_scatter(striped, tmp_path, capsys):
    paths, truth = striped
    out = tmp_path / "ch1-short_constructed_flat.fits"
    assert construct_flat_field.main([*map(str, paths), str(out), "--bin-aspect", "3"]) == 0
    printed = capsys.readouterr().out
    assert "before" in printed
    assert "after" in printed
    flat = read_flat(out)
    assert np.nanstd(misfit(flat.flat, truth)) < DEMANDED
    assert flat.flat.shape == flat.error.shape == read_cube(paths[0]).shape
    np.testing.assert_allclose(flat.wavelength, read_cube(paths[0]).wavelength, rtol=1e-6)
    assert flat.corrected.all()
    header = fits.getheader(out)
    assert (header["CHANNEL"], header["BAND"]) == ("1", "SHORT")
    assert header["FLAT BIN_ASPECT"] == 3
    assert header["FLAT SCATTER_RATIO"] == pytest.approx(
        np.nanmedian(flat.scatter_before / flat.scatter_after), rel=1e-3
    )
    assert header["FLAT SCATTER_RATIO"] > 5
    gains = np.array([header[f"FLAT GAIN_{n}"] for n in (1, 2, 3, 4)])
    errors = np.array([header[f"FLAT GAIN_ERROR_{n}"] for n in (1, 2, 3, 4)])
    assert (np.abs(gains - 1) < 3 * errors).all()
    assert (errors < 0.001).all()
    assert [header[f"SOURCE{n}"] for n in (1, 2, 3, 4)] == [path.name for path in paths]
    assert len(set(flat.exposures)) == 4
    assert flat.emission_cutoff == 75


def test_errors_of_the_dithers_of_a_flat_are_honest(paths, tmp_path):
    """Their noise is in the flat, too; in the cube of another exposure it is not."""
    truth = stripes(read_cube(paths["disc"][0]).shape[1:], 0.025, "slices")
    noisy = []
    for path in paths["disc"]:
        cube = read_cube(multiply(path, tmp_path / path.name, truth))
        noise = cube.sci / 150
        cube.sci[:] += noise * np.random.default_rng(len(noisy)).standard_normal(cube.shape)
        cube.err[:] = noise
        write_cube(cube, tmp_path / path.name)
        noisy.append(tmp_path / path.name)
    construct_flat_field_files(noisy, tmp_path / "flat.fits")
    flat = read_flat(tmp_path / "flat.fits")
    widths = []
    for own in (True, False):
        pulls = []
        for path, clean in zip(noisy, paths["disc"], strict=True):
            with fits.open(path, mode="update") as hdul:
                hdul[0].header["DATE-OBS"] = hdul[0].header["DATE-OBS"] if own else "2020-01-01"
            flat_field_file(path, tmp_path / "out.fits", flat_path=tmp_path / "flat.fits")
            cube, scene = read_cube(tmp_path / "out.fits"), read_cube(clean)
            used = scene.hdul["EMISSION"].data < flat.emission_cutoff
            pulls.append(((cube.sci - scene.sci) / cube.err)[:, used & cube.good.all(axis=0)].ravel())
        widths.append(1.4826 * np.median(np.abs(np.concatenate(pulls))))
    assert 0.85 < widths[0] < 1.15
    assert widths[1] < 0.85


def test_cubes_of_unequal_shape_are_matched_by_their_place_in_the_ifu(striped, tmp_path):
    paths, truth = striped
    cube = read_cube(paths[1])
    crop(cube, bottom=3, left=1)
    write_cube(cube, paths[1])
    facts = construct_flat_field_files(paths, tmp_path / "flat.fits")
    flat = read_flat(tmp_path / "flat.fits")
    assert flat.flat.shape[1:] == truth.shape
    assert np.nanstd(misfit(flat.flat, truth)) < DEMANDED
    assert facts["scatter_ratio"] > 5
    # The smaller cube first: the grid grows to hold all.
    construct_flat_field_files([paths[1], *paths[2:], paths[0]], tmp_path / "again.fits")
    again = read_flat(tmp_path / "again.fits")
    assert again.flat.shape == flat.flat.shape
    assert np.nanmax(np.abs(again.flat - flat.flat)) < 0.01


def test_the_limb_brings_a_warning_and_nans(paths, tmp_path):
    facts = construct_flat_field_files(paths["limb"], tmp_path / "flat.fits")
    assert any("% of the field" in warning for warning in facts["warnings"])
    flat = read_flat(tmp_path / "flat.fits")
    assert np.isnan(flat.flat).any(axis=0).sum() > 100
    assert np.nanstd(misfit(flat.flat, np.ones(flat.flat.shape[1:]))) < DEMANDED


def test_a_planet_smaller_than_the_field_is_refused(tmp_path):
    scene = simulate_planet("neptune", tmp_path / "kernels")
    paths = simulate_dithers(scene, tmp_path, (0.0, 0.0), n_wave=2, channel="3", shape=(31, 27))
    with pytest.raises(InputError, match="smaller than the field"):
        construct_flat_field_files(paths, tmp_path / "flat.fits")
    assert not (tmp_path / "flat.fits").exists()


def test_wrong_inputs_are_refused_by_name(paths, tmp_path):
    good = paths["disc"]
    out = tmp_path / "flat.fits"
    with pytest.raises(InputError, match="3 cubes are too few"):
        construct_flat_field_files(good[:3], out)
    with pytest.raises(InputError, match="same place"):
        construct_flat_field_files([good[0]] * 4, out)
    cube = read_cube(good[0])
    del cube.hdul["EMISSION"]
    write_cube(cube, tmp_path / "bare.fits")
    with pytest.raises(FileFormatError, match=r"bare\.fits has no backplane EMISSION"):
        construct_flat_field_files([tmp_path / "bare.fits", *good[1:]], out)
    cube = read_cube(good[0])
    cube.header["BAND"] = "LONG"
    write_cube(cube, tmp_path / "long.fits")
    with pytest.raises(InputError, match="BAND"):
        construct_flat_field_files([*good[:3], tmp_path / "long.fits"], out)
    cube = read_cube(good[0])
    cube.sci_header["CDELT1"] *= 1.5
    cube.sci_header["CDELT2"] *= 1.5
    write_cube(cube, tmp_path / "coarse.fits")
    with pytest.raises(InputError, match="do not lie alike"):
        construct_flat_field_files([*good[:3], tmp_path / "coarse.fits"], out)


# Merging


def plain_merge(flats):
    """The weighted mean of flats that agree on the spaxels they share with those before, voxel by voxel."""
    shape = flats[0].flat.shape
    total, weight = np.zeros(shape), np.zeros(shape)
    for flat in flats:
        for k in range(shape[0]):
            top = bottom = 0.0
            for y in range(shape[1]):
                for x in range(shape[2]):
                    if np.isfinite(flat.flat[k, y, x]) and weight[k, y, x] > 0:
                        own = 1 / flat.error[k, y, x] ** 2
                        share = own * weight[k, y, x] / (own + weight[k, y, x])
                        top += share * np.log(total[k, y, x] / weight[k, y, x] / flat.flat[k, y, x])
                        bottom += share
            scale = np.exp(top / bottom) if bottom else 1.0
            for y in range(shape[1]):
                for x in range(shape[2]):
                    if np.isfinite(flat.flat[k, y, x]):
                        own = 1 / flat.error[k, y, x] ** 2
                        total[k, y, x] += own * scale * flat.flat[k, y, x]
                        weight[k, y, x] += own
    mean = np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)
    return mean


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)), st.integers(1, 4))
def test_merging_is_the_weighted_mean_of_scaled_flats(seed, shape, number):
    random = np.random.default_rng(seed)
    flats = []
    for _ in range(number):
        values = random.uniform(0.9, 1.1, shape)
        values[random.uniform(size=shape) < 0.3] = np.nan
        error = np.where(np.isfinite(values), random.uniform(0.001, 0.01, shape), np.nan)
        flats.append(Flat(values, error, np.ones(shape[0], bool)))
    merged = merge_flats(flats)
    expected = plain_merge(flats)
    for k in range(shape[0]):
        known = np.isfinite(expected[k])
        if known.any():
            np.testing.assert_allclose(merged.flat[k], expected[k] / expected[k][known].mean(), rtol=1e-9)
        else:
            assert (merged.flat[k] == 1).all()
            assert not merged.corrected[k]


def test_tiles_that_see_different_halves_merge_into_the_whole(tmp_path):
    truth = stripes((20, 18), 0.03, "slices")
    random = np.random.default_rng(1)
    grid = IfuGrid((20, 18), (9.5, 8.5), (0.13, 0.13), 8.4)
    paths = []
    for name, part in (("a", slice(0, 13)), ("b", slice(7, 20))):
        values = np.full((4, 20, 18), np.nan)
        error = np.full_like(values, 0.002)
        values[:, part] = truth[part] / truth[part].mean() + 0.002 * random.standard_normal((4, 13, 18))
        error[~np.isfinite(values)] = np.nan
        identity = {"CHANNEL": "1"}
        flat = Flat(
            values, error, np.ones(4, bool), np.linspace(5, 5.1, 4), grid, None, None, identity, (name, "x"), 80.0
        )
        paths.append(tmp_path / f"{name}.fits")
        write_flat(flat, paths[-1], "Flat constructed", {})
    merge_flat_files(paths, tmp_path / "merged.fits")
    merged = read_flat(tmp_path / "merged.fits")
    wrong = misfit(merged.flat, truth)
    assert np.isfinite(wrong).all()
    assert np.std(wrong) < 0.002
    both = slice(7, 13)
    assert np.median(merged.error[:, both]) == pytest.approx(0.002 / np.sqrt(2), rel=0.05)
    assert merged.identity["CHANNEL"] == "1"
    assert merged.exposures == ("a", "x", "b", "x")
    assert merged.emission_cutoff == 80
    other = Flat(merged.flat[:2], merged.error[:2], np.ones(2, bool))
    with pytest.raises(InputError, match="shapes"):
        merge_flats([merged, other])
