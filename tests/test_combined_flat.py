"""Flats of cubes that combine dithers, and of mosaics: the planned tasks, run on files of a simulated planet."""

from importlib import import_module

import numpy as np
import pytest
from astropy.io import fits
from flat_scenes import misfit, multiply, simulate_dithers, stripes
from hypothesis import given, settings
from hypothesis import strategies as st
from test_observations import MRS

from combined_flat import effective_flat
from correction_plans import plan_flat
from cube_pointing import set_offset
from cubes import DQ, celestial_wcs, read_cube, write_cube
from errors import InputError
from flat_field import flat_field_combined_file
from flat_files import Flat, IfuGrid, read_flat, write_flat
from reduction import Options, Product
from simulate.kernels import write_kernels
from simulate.scene import Scene

UTC = "2022-11-13T10:00:00"
WAVELENGTHS = 3
NAME = "Level3_ch1-short_s3d_nav.fits"
FINE = 5


@pytest.fixture(scope="module")
def saturn(tmp_path_factory):
    kernels = tmp_path_factory.mktemp("kernels")
    write_kernels(kernels, UTC, UTC, "saturn")
    return Scene("saturn", kernels, seed=41)


@pytest.fixture(scope="module")
def paths(saturn, tmp_path_factory):
    """Four dithers about two places on the planet, without stripes."""
    centres = {"a": (0.5, 4.5), "b": (-3.0, 4.0)}
    options = {"n_wave": WAVELENGTHS, "minutes": 5, "shape": (24, 22)}
    return {tile: simulate_dithers(saturn, tmp_path_factory.mktemp(tile), c, **options) for tile, c in centres.items()}


def drizzled(paths, path_out):
    """The dithers' spaxels, cut into small pieces, collected on spaxels of the planet that lie half a step aside."""
    out = read_cube(paths[0])
    header = out.sci_header
    header["CRPIX1"] += 0.4
    header["CRPIX2"] -= 0.3
    shape = out.shape[1:]
    total, weight, variance = np.zeros((3, WAVELENGTHS, *shape))
    for path in paths:
        cube = read_cube(path)
        y, x = ((np.arange(n * FINE) + 0.5) / FINE - 0.5 for n in cube.shape[1:])
        ra, dec = celestial_wcs(cube.sci_header).all_pix2world(*np.meshgrid(x, y), 0)
        moved = [v + header[key] - cube.sci_header[key] for v, key in zip((ra, dec), ("MT_RA", "MT_DEC"), strict=True)]
        column, row = (np.round(v).astype(int) for v in celestial_wcs(header).all_world2pix(*moved, 0))
        inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        place = (row * shape[1] + column)[inside]
        for k in range(WAVELENGTHS):
            good = np.repeat(np.repeat(cube.good[k], FINE, axis=0), FINE, axis=1)[inside]
            for target, values in ((total, cube.sci), (weight, np.ones_like(cube.sci)), (variance, cube.err**2)):
                fine = np.repeat(np.repeat(values[k], FINE, axis=0), FINE, axis=1)[inside]
                target[k] += np.bincount(place, np.where(good, fine, 0), shape[0] * shape[1]).reshape(shape)
    full = weight > 0.5 * FINE**2
    out.sci[:] = np.where(full, total / np.maximum(weight, 1), np.nan)
    out.err[:] = np.where(full, np.sqrt(variance / np.maximum(weight, 1)), np.nan)
    out.dq[:] = np.where(full, 0, DQ.DO_NOT_USE | DQ.NON_SCIENCE)
    write_cube(out, path_out)
    return path_out


def run(made):
    """Run planned tasks, one after the other."""
    notes = {}
    for each in made:
        module, function = each.task.function.split(":")
        for path in each.task.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
        notes[each.task.outputs[0]] = getattr(import_module(module), function)(**each.task.arguments)["notes"]
    return notes


def products(root, paths, place_of):
    return [Product(path, "cube", MRS, band="ch1-short", **place) for path, place in zip(paths, place_of, strict=True)]


def test_stripes_of_a_combined_cube_go_and_the_planet_stays(paths, tmp_path):
    truth = stripes(read_cube(paths["a"][0]).shape[1:], 0.04, "slices", seed=42)
    clean = read_cube(drizzled(paths["a"], tmp_path / "clean.fits")).sci
    striped = [multiply(path, tmp_path / "stage3" / f"d{n}" / NAME, truth) for n, path in enumerate(paths["a"], 1)]
    combined = drizzled(striped, tmp_path / "stage3" / "combined" / NAME)
    places = [{"place": p.parent.name} for p in (*striped, combined)]
    options = Options(tmp_path, construct_flats=True)
    run(plan_flat(products(tmp_path, [*striped, combined], places), options, versions={}, stage="stage4_flat"))
    before, after = read_cube(combined), read_cube(tmp_path / "stage4_flat" / "combined" / NAME)
    # A spaxel at the edge that holds a few pieces only has no flat.
    known = np.isfinite(after.hdul["FLAT"].data) & before.good
    assert known[before.good].mean() > 0.9
    wrong_before, wrong_after = (np.log(cube.sci / clean)[known] for cube in (before, after))
    assert wrong_before.std() > 0.01
    assert wrong_after.std() < 0.15 * wrong_before.std()
    assert wrong_after.std() < 0.003
    # Flats have a mean of 1 over the field.
    field = read_cube(paths["a"][0]).good[0]
    assert wrong_after.mean() == pytest.approx(np.log(truth[field].mean()), abs=0.0005)
    # Untouched is what has no flat.
    left = before.good & ~known
    assert after.sci[left].tobytes() == before.sci[left].tobytes()
    assert (after.dq[left] & DQ.NO_FLAT_FIELD > 0).all()
    np.testing.assert_allclose(after.sci[known] * after.hdul["FLAT"].data[known], before.sci[known], rtol=1e-5)
    error = np.hypot(before.err / before.sci, after.hdul["FLAT_ERR"].data / after.hdul["FLAT"].data)
    np.testing.assert_allclose((after.err / after.sci)[known], error[known], rtol=1e-4)
    assert after.header["FLAT DITHERS"] == 4


def test_tiles_share_the_mean_of_their_flats_and_one_with_two_dithers_has_it_too(paths, tmp_path):
    truth = stripes(read_cube(paths["a"][0]).shape[1:], 0.04, "slices", seed=43)
    cubes, places = [], []
    for tile, members in (("a", paths["a"]), ("b", paths["b"]), ("c", paths["b"][:2])):
        for number, path in enumerate(members, 1):
            cube = read_cube(path)
            cube.sci[:] *= truth * (1 + np.random.default_rng([ord(tile), number]).standard_normal(cube.shape) / 150)
            cube.err[:] = cube.sci / 150
            cubes.append(tmp_path / "stage3" / f"d{number}" / f"Level3_{tile}_ch1-short_s3d_nav.fits")
            write_cube(cube, cubes[-1])
            places.append({"tile": tile, "place": f"d{number}"})
    options = Options(tmp_path, construct_flats=True)
    run(plan_flat(products(tmp_path, cubes, places), options, versions={}, stage="stage4_flat"))
    flats = [read_flat(tmp_path / "flats" / t / "ch1-short_constructed_flat.fits") for t in ("a", "b", "")]
    wrong = [float(np.nanstd(misfit(flat.flat, truth))) for flat in flats]
    errors = [float(np.nanmedian(flat.error)) for flat in flats]
    assert wrong[2] < 0.85 * min(wrong[:2])
    assert errors[2] < 0.85 * min(errors[:2])
    pull = misfit(flats[2].flat, truth) / (flats[2].error / flats[2].flat)
    assert 0.8 < 1.4826 * np.nanmedian(np.abs(pull)) < 1.25
    for path in cubes:
        applied = fits.getdata(tmp_path / "stage4_flat" / path.parent.name / path.name, "FLAT")
        np.testing.assert_array_equal(applied, flats[2].flat)


@pytest.fixture
def combined(paths, tmp_path):
    """A combined cube and the flat of its dithers."""
    cube = read_cube(paths["a"][0])
    values = np.broadcast_to(stripes(cube.shape[1:], 0.04, "slices", seed=42), cube.shape).copy()
    flat = Flat(
        values, np.full(cube.shape, 0.002), np.array([True, False, True]), cube.wavelength, IfuGrid.of_cube(cube)
    )
    flat.flat[1], flat.error[1] = 1, 0
    write_flat(flat, tmp_path / "flat.fits", "Flat constructed", {})
    return drizzled(paths["a"], tmp_path / "combined.fits"), tmp_path / "flat.fits"


def test_a_combined_cube_without_its_dithers_goes_on_unchanged(combined, tmp_path):
    path, flat_path = combined
    out = tmp_path / "out.fits"
    facts = flat_field_combined_file(path, out, dither_paths=[], flat_path=flat_path)
    assert facts["notes"] == ["no cubes of single dithers: left as it is"]
    assert not facts["applied"]
    assert out.read_bytes() == path.read_bytes()
    (tmp_path / "flats").mkdir()
    facts = flat_field_combined_file(path, out, dither_paths=[path], flat_path=tmp_path / "flats")
    assert "no flat ch1-short" in facts["notes"][0]


def test_wavelengths_without_a_flat_stay_in_combined_cubes_too(combined, paths, tmp_path):
    path, flat_path = combined
    out = tmp_path / "out.fits"
    facts = flat_field_combined_file(path, out, dither_paths=paths["a"], flat_path=flat_path)
    assert "1 of 3 wavelengths have no flat: left as they are" in facts["notes"]
    before, after = read_cube(path), read_cube(out)
    for name in ("SCI", "ERR", "DQ"):
        assert before.hdul[name].data[1].tobytes() == after.hdul[name].data[1].tobytes()


def test_a_fitted_pointing_does_not_move_the_flats_of_a_combined_cube(combined, paths, tmp_path):
    path, flat_path = combined
    moved = []
    for number, dither in enumerate(paths["a"]):
        cube = read_cube(dither)
        set_offset(cube, 0.3 * number, -0.2)
        moved.append(tmp_path / f"moved{number}.fits")
        write_cube(cube, moved[-1])
    flats = []
    for dithers in (paths["a"], moved):
        flat_field_combined_file(path, tmp_path / "out.fits", dither_paths=dithers, flat_path=flat_path)
        flats.append(fits.getdata(tmp_path / "out.fits", "FLAT"))
    np.testing.assert_allclose(flats[0], flats[1], rtol=1e-6)


def test_dithers_of_other_wavelengths_are_refused(combined, paths, tmp_path):
    path, flat_path = combined
    cube = read_cube(paths["a"][0])
    cube.sci_header["CRVAL3"] += 0.1
    write_cube(cube, tmp_path / "other.fits")
    with pytest.raises(InputError, match="different wavelengths"):
        flat_field_combined_file(path, tmp_path / "o.fits", dither_paths=[tmp_path / "other.fits"], flat_path=flat_path)


def plain_effective_flat(dithers, shape):
    """The definition, voxel by voxel and neighbour by neighbour."""
    waves = len(dithers[0][0])
    result, error = np.full((2, waves, *shape), np.nan)
    for k, row, column in np.ndindex(waves, *shape):
        top = bottom = seen = known = variance = 0.0
        for sci, err, weight, flat, flat_error, position in dithers:
            y, x = position[:, row, column]
            part = 0.0
            for i, j in np.ndindex(sci.shape[1:]):
                share = max(0, 1 - abs(i - y)) * max(0, 1 - abs(j - x)) * weight[k, i, j]
                if not share > 0 or np.isnan(sci[k, i, j]):
                    continue
                seen += share
                if not flat[k, i, j] > 0:
                    continue
                known += share
                bright = share * max(sci[k, i, j], err[k, i, j])
                top += bright
                bottom += bright / flat[k, i, j]
                part += bright / flat[k, i, j] * flat_error[k, i, j] / flat[k, i, j]
            variance += part**2
        if bottom > 0 and known >= 0.5 * seen:
            result[k, row, column] = top / bottom
            error[k, row, column] = top / bottom * np.sqrt(variance) / bottom
    return result, error


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(1, 3),
    st.tuples(*(st.integers(1, 4),) * 2),
    st.tuples(*(st.integers(1, 4),) * 2),
)
def test_effective_flat_is_that_of_a_plain_loop(seed, number, waves, own, shape):
    random = np.random.default_rng(seed)
    dithers = []
    for _ in range(number):
        size = (waves, *own)
        sci = random.normal(3, 3, size)
        sci[random.uniform(size=size) < 0.2] = np.nan
        flat = random.uniform(0.8, 1.2, size)
        flat[random.uniform(size=size) < 0.2] = np.nan
        error = np.where(np.isfinite(flat), 0.01, np.nan)
        weight = random.integers(0, 5, size)
        position = random.uniform(-1.5, 4.5, (2, *shape))
        dithers.append((sci, np.full(size, 0.5), weight, flat, error, position))
    # Halves of the weight would hang on rounding.
    for got, wanted in zip(effective_flat(dithers), plain_effective_flat(dithers, shape), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
    for other in dithers:
        other[3][:] = 1.07
    flat, _ = effective_flat(dithers)
    np.testing.assert_allclose(flat[np.isfinite(flat)], 1.07, rtol=1e-6)
