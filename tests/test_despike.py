"""Despiking: spikes are found wherever they are, and nothing that is real is taken for one."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.reference_despike import reference_find_spikes
from cube_model import CubeModel
from cubes import DQ, read_cube, write_cube
from despike import despike_cube, despike_file, find_spikes, main
from errors import OptionError
from medians import local_median, median_along_rows, nan_median
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.scene import Scene

UTC = "2022-11-13T10:00:00"
FWHM_SPAXELS = 0.275 / 0.13  # of channel 1 at 5.1 um
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernels")
    write_kernels(directory, UTC, UTC, "saturn")
    return Scene("saturn", directory)


@pytest.fixture(scope="module")
def limb_file(scene, tmp_path_factory):
    """A belted, noisy scene with rings and emission lines that the limb crosses."""
    east, north = scene.snapshot(UTC).view.limb_offset(scene.snapshot(UTC).view.pole_angle)
    path = tmp_path_factory.mktemp("cubes") / "limb_s3d.fits"
    options = {"n_wave": 300, "offset": (float(east), float(north)), "rotation_deg": 30.0, "noise": 300.0}
    return simulate_cube(scene, UTC, path, **options)


@pytest.fixture(scope="module")
def limb(limb_file):
    cube = read_cube(limb_file)
    return cube.sci.copy(), cube.err.copy()


def add_spikes(sci, err, number, seed=0, least=7.0, most=1000.0):
    """Single voxels raised or lowered by `least` to `most` sigma, evenly in the logarithm."""
    rng = np.random.default_rng(seed)
    good = np.argwhere(np.isfinite(sci))
    place = tuple(good[rng.choice(len(good), number, replace=False)].T)
    height = np.exp(rng.uniform(np.log(least), np.log(most), number))
    spiked = sci.copy()
    spiked[place] += rng.choice([-1, 1], number, p=[0.3, 0.7]) * height * err[place]
    return spiked, place, height


def add_footprints(sci, err, number, seed):
    """Cosmic rays of 10 to 1000 sigma, each spread over what a detector pixel of 1A overlaps of the cube, anywhere.

    The footprint is 0.196 x 0.177 arcsec along and across the slice (JDox, MIRI Medium Resolution Spectroscopy), in
    spaxels of 0.13 arcsec, and a little more than one wavelength.
    """
    rng = np.random.default_rng(seed)
    added = np.zeros(sci.shape)
    for _ in range(number):
        shares = []
        for size, width in zip(sci.shape, (1.2, 0.177 / 0.13, 0.196 / 0.13), strict=True):
            centre, edge = rng.uniform(-0.5, size - 0.5), np.arange(size) - 0.5
            overlap = np.minimum(edge + 1, centre + width / 2) - np.maximum(edge, centre - width / 2)
            shares.append(np.clip(overlap, 0, 1))
        added += np.exp(rng.uniform(np.log(10), np.log(1000))) * np.einsum("i,j,k->ijk", *shares)
    return (sci + added * err).astype(np.float32), added


def false_rate(found, place, sci):
    false = found.copy()
    false[place] = False
    return false.sum() / np.isfinite(sci).sum()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_spikes_of_7_to_1000_sigma_are_found_and_nothing_else(limb, seed):
    sci, err = limb
    spiked, place, height = add_spikes(sci, err, 1000, seed)
    found = find_spikes(spiked, err, psf_fwhm=FWHM_SPAXELS)
    assert found[place].mean() >= 0.99
    assert found[place][height < 20].mean() >= 0.97
    assert found[place][height > 20].mean() >= 0.995
    assert false_rate(found, place, sci) <= 1e-5


@pytest.mark.parametrize("seed", [20, 21])
def test_cosmic_rays_spread_over_spaxels_are_found(limb, seed):
    sci, err = limb
    spiked, height = add_footprints(sci, err, 100, seed)
    found = find_spikes(spiked, err, psf_fwhm=FWHM_SPAXELS)
    there = np.isfinite(sci)
    assert found[there & (height > 10)].mean() >= 0.9
    assert found[there & (height > 100)].mean() >= 0.97
    assert found[there & (height == 0)].mean() <= 1e-4


def test_clean_cube_has_no_spikes(limb):
    assert find_spikes(*limb, psf_fwhm=FWHM_SPAXELS).sum() <= 1e-5 * np.isfinite(limb[0]).sum()


@pytest.mark.parametrize("seed", [30, 31])
def test_where_pixels_enter_and_leave_at_the_edge_of_the_field_few_voxels_are_taken_for_spikes(limb, seed):
    """There voxels are now more, now less of what lies inside, in runs with gaps, as drizzled cubes are."""
    sci, err = (array.copy() for array in limb)
    rng = np.random.default_rng(seed)
    last = np.isfinite(sci).any(axis=(0, 1)).nonzero()[0].max()
    for y in range(sci.shape[1]):
        start = 0
        while start < len(sci):
            run = slice(start, start + rng.integers(5, 25))
            share = rng.uniform(0, 1)
            sci[run, y, last] = share * sci[run, y, last] + (1 - share) * sci[run, y, last - 1]
            start = run.stop + rng.integers(0, 5)
            sci[run.stop : start, y, last] = np.nan
    assert find_spikes(sci, err, psf_fwhm=FWHM_SPAXELS).sum() <= 3e-5 * np.isfinite(sci).sum()
    spiked, place, _ = add_spikes(sci, err, 1000, seed)
    assert find_spikes(spiked, err, psf_fwhm=FWHM_SPAXELS)[place].mean() >= 0.98


@pytest.mark.parametrize("spikes", ["none", "voxels", "footprints"])
def test_moon_and_its_lines_keep_all_voxels(limb, spikes):
    sci, err = (array.astype(float) for array in limb)
    y, x = np.indices(sci.shape[1:])
    wavelength = np.arange(len(sci))[:, None, None]
    psf = np.exp(-4 * np.log(2) * ((y - 8.3) ** 2 + (x - 12.6) ** 2) / FWHM_SPAXELS**2)
    spectrum = 1 + 0.4 * np.sin(wavelength / 37)
    for centre in range(10, 300, 23):
        spectrum = spectrum * (1 - 0.5 * np.exp(-0.5 * ((wavelength - centre) / 0.9) ** 2))
    background = np.nanmedian(sci)
    moon = 20 * background * spectrum * psf
    noise = err * np.sqrt(1 + moon / background)
    rng = np.random.default_rng(3)
    sci = (sci + moon + rng.standard_normal(sci.shape) * np.sqrt(noise**2 - err**2)).astype(np.float32)
    noise = noise.astype(np.float32)
    if spikes == "footprints":
        spiked, added = add_footprints(sci, noise, 100, seed=22)
        hit = added > 0
    else:
        spiked, place, _ = add_spikes(sci, noise, 1000 if spikes == "voxels" else 0)
        hit = np.zeros(sci.shape, bool)
        hit[place] = True
    found = find_spikes(spiked, noise, psf_fwhm=FWHM_SPAXELS)
    assert not found[(moon > 0.1 * background) & ~hit].any()
    if spikes == "voxels":
        assert found[place].mean() >= 0.99


@pytest.mark.parametrize("shape", ["uniform", "limb", "point source"])
@pytest.mark.parametrize("width", [0.0, 0.9])
def test_emission_line_keeps_all_voxels(limb, shape, width):
    """A line far brighter than the continuum, one wavelength wide or as wide as the instrument makes it."""
    sci, err = limb
    y, x = np.indices(sci.shape[1:])
    image = {
        "uniform": np.ones(sci.shape[1:]),
        "limb": np.nan_to_num(sci).mean(axis=0) / np.nanmedian(sci),
        "point source": np.exp(-4 * np.log(2) * ((y - 14.0) ** 2 + (x - 10.4) ** 2) / FWHM_SPAXELS**2),
    }[shape]
    wavelength = np.arange(len(sci))
    profile = np.exp(-0.5 * ((wavelength - 140) / width) ** 2) if width else (wavelength == 140).astype(float)
    line = 200 * np.nanmedian(err) * profile[:, None, None] * image
    found = find_spikes((sci + line).astype(np.float32), err, psf_fwhm=FWHM_SPAXELS)
    assert not found[line > err].any()


def test_neighbouring_spikes_are_all_found(limb):
    sci, err = limb
    spiked = sci.copy()
    place = tuple(np.array([(50, 12, 12), (50, 12, 13), (50, 13, 12), (120, 6, 9), (121, 6, 9), (122, 6, 9)]).T)
    spiked[place] += np.array([900, 30, 200, 25, 400, 60]) * err[place]
    found = find_spikes(spiked, err, psf_fwhm=FWHM_SPAXELS)
    assert found[place].all()
    assert false_rate(found, place, sci) <= 1e-5


def test_what_is_left_is_what_was_there_before(limb):
    sci, err = limb
    spiked, _, _ = add_spikes(sci, err, 1000)
    cleaned, spikes = despike_cube(spiked, err, psf_fwhm=FWHM_SPAXELS)
    assert np.array_equal(np.isnan(cleaned), spikes | np.isnan(sci))
    left = np.isfinite(cleaned)
    assert (cleaned[left] != sci[left]).sum() <= 10


def test_updating_principal_images_gives_the_same_spikes(limb, monkeypatch):
    """Large cubes update their principal images from look to look; small ones compute them anew."""
    sci, err = limb
    spiked, _, _ = add_spikes(sci, err, 500, seed=9)
    found = []
    for largest in (0, 10_000):
        monkeypatch.setattr("cube_model._LARGEST_EXACT", largest)
        found.append(find_spikes(spiked, err, psf_fwhm=FWHM_SPAXELS))
    np.testing.assert_array_equal(*found)


def random_cube(seed, n_wave, ny, nx):
    rng = np.random.default_rng(seed)
    y, x = np.indices((ny, nx))
    wavelength = np.arange(n_wave)[:, None, None]
    limb = 100 / (1 + np.exp(x - nx / 2)) * (1 + 0.3 * np.sin(wavelength / 4))
    line = 20 * np.exp(-0.5 * ((wavelength - n_wave / 2) / 1.5) ** 2) * np.exp(-((y - 2) ** 2) / 8)
    err = 0.3 * np.sqrt(1 + limb + line)
    sci = limb + line + err * rng.standard_normal(limb.shape) * rng.uniform(0.5, 2)
    sci = sci + (rng.random(sci.shape) < 0.01) * err * np.exp(rng.uniform(1.5, 7, sci.shape)) * rng.choice([-1, 1])
    if rng.random() < 0.5:
        sci[rng.random(sci.shape) < rng.choice([0.05, 0.5])] = rng.choice([np.nan, np.inf])
    if rng.random() < 0.3:
        sci[rng.integers(n_wave)] = np.nan
    if rng.random() < 0.3:
        sci[:, rng.integers(ny)] = np.nan
    if rng.random() < 0.3:
        err[rng.random(err.shape) < 0.1] = rng.choice([np.nan, 0.0, -1.0])
    if rng.random() < 0.1:
        sci[:] = np.nan
    return sci.astype(np.float32), err.astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_wave=st.integers(1, 28),
    ny=st.integers(1, 9),
    nx=st.integers(1, 9),
    nsigma=st.sampled_from([4.0, 7.0]),
    box_size=st.sampled_from([3, 9]),
    window=st.sampled_from([3, 7]),
    iterations=st.integers(1, 4),
    psf_fwhm=st.sampled_from([1.0, 2.0, 3.5]),
    tests=st.sampled_from([(1, 1, 1), (1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0)]),
)
def test_agrees_with_the_plain_loop(seed, n_wave, ny, nx, tests, **options):
    sci, err = random_cube(seed, n_wave, ny, nx)
    names = ("median_test", "sharpness_test", "wavelength_test")
    options |= {name: bool(made) for name, made in zip(names, tests, strict=True)}
    found = find_spikes(sci, err, **options)
    np.testing.assert_array_equal(found, reference_find_spikes(sci, err, **options))
    assert not found[~np.isfinite(sci)].any()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 90), columns=st.integers(1, 6))
def test_medians_ignore_nan(seed, n, columns):
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal((n, columns))
    samples[rng.random(samples.shape) < rng.random()] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = np.nanmedian(samples, axis=0)
    np.testing.assert_array_equal(nan_median(samples.copy()), expected)
    np.testing.assert_array_equal(median_along_rows(samples.T), expected)


def test_local_median_is_that_of_the_box():
    rng = np.random.default_rng(5)
    image = rng.standard_normal((2, 12, 11))
    image[rng.random(image.shape) < 0.2] = np.nan
    place = np.nonzero(np.ones(image.shape, bool))
    expected = [
        np.nanmedian(image[k, max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5]) for k, y, x in zip(*place, strict=True)
    ]
    np.testing.assert_array_equal(local_median(image, place, 9), expected)


def test_model_expects_what_it_was_not_told():
    """The deviation of a value from its expectation does not depend on the value itself."""
    rng = np.random.default_rng(7)
    truth = np.einsum("lk,kyx->lyx", rng.standard_normal((60, 3)), 100 * rng.standard_normal((3, 10, 9)))
    noise = np.ones_like(truth)
    values = truth + rng.standard_normal(truth.shape)
    nothing = np.zeros(truth.shape, bool)
    spike = nothing.copy()
    spike[20, 4, 4] = True
    expected = []
    for height in (0.0, 1e5):
        changed = (values + height * spike).astype(np.float32)
        model = CubeModel.fit(changed, noise.astype(np.float32), spike, np.where(spike, height, 0))
        expected.append(changed - model.deviation(spike, elsewhere=np.zeros_like(changed)))
    assert abs(expected[1] - expected[0])[spike] < 0.05
    assert abs(expected[0] - truth)[spike] < 2
    model = CubeModel.fit(values.astype(np.float32), noise.astype(np.float32), nothing, np.zeros_like(values))
    deviation = model.deviation(nothing, elsewhere=np.zeros_like(changed))
    assert 0.97 < deviation.std() < 1.1


def test_tests_can_be_switched_off(limb):
    """The local median alone takes a limb for spikes, which each further test keeps from harm."""
    sci, err = (array[:60] for array in limb)
    alone = find_spikes(sci, err, sharpness_test=False, wavelength_test=False).sum()
    sharp = find_spikes(sci, err, wavelength_test=False, psf_fwhm=FWHM_SPAXELS).sum()
    across = find_spikes(sci, err, sharpness_test=False).sum()
    assert alone > 1000
    assert sharp < 0.05 * alone
    assert across <= 2


def test_options_are_checked():
    sci, err = random_cube(1, 4, 5, 5)
    for options in ({"box_size": 4}, {"window": 2}, {"nsigma": 0}, {"iterations": 0}):
        with pytest.raises(OptionError, match=next(iter(options))):
            find_spikes(sci, err, **options)
    with pytest.raises(OptionError, match="shape"):
        find_spikes(sci, err[1:])
    with pytest.raises(OptionError, match="three tests"):
        find_spikes(sci, err, median_test=False, sharpness_test=False, wavelength_test=False)


@pytest.fixture(scope="module")
def despiked(limb_file, tmp_path_factory):
    """The limb cube with spikes, flags and a further extension, and what `despike_file` made of it."""
    directory = tmp_path_factory.mktemp("despiked")
    cube = read_cube(limb_file)
    good = np.argwhere(cube.good)
    rng = np.random.default_rng(11)
    flagged = tuple(good[rng.choice(len(good), 50, replace=False)].T)
    cube.hdul["DQ"].data[flagged] |= np.uint32(DQ.DO_NOT_USE | DQ.JUMP_DET)
    kept = tuple(good[rng.choice(len(good), 50, replace=False)].T)
    cube.hdul["DQ"].data[kept] |= np.uint32(DQ.FLUX_ESTIMATED)
    spiked, place, _ = add_spikes(np.where(cube.good, cube.sci, np.nan), cube.err, 200, least=20)
    cube.sci[place] = spiked[place]
    cube.set_extension("EXTRA", np.arange(5.0), "km", "Something that must survive.")
    write_cube(cube, directory / "in_s3d.fits")
    facts = despike_file(directory / "in_s3d.fits", directory / "out_s3d.fits")
    return directory / "in_s3d.fits", directory / "out_s3d.fits", facts, place


def test_file_marks_spikes_and_leaves_the_rest_bit_for_bit(despiked):
    path_in, path_out, facts, place = despiked
    before, after = read_cube(path_in), read_cube(path_out)
    marks = after.hdul["SPIKES"].data
    spikes = marks == 1
    assert set(np.unique(marks)) == {0, 1}
    assert spikes[place].mean() >= 0.99
    assert facts["spikes"] == spikes.sum()
    assert np.isnan(after.sci[spikes]).all()
    assert np.isnan(after.err[spikes]).all()
    np.testing.assert_array_equal(after.dq[spikes], before.dq[spikes] | DQ.DO_NOT_USE | DQ.OUTLIER)
    for name in ("SCI", "ERR", "DQ"):
        old, new = (getattr(cube, name.lower())[~spikes] for cube in (before, after))
        assert old.tobytes() == new.tobytes()
    assert not spikes[~before.good].any()


def test_file_carries_everything_else(despiked):
    path_in, path_out, facts, _ = despiked
    with fits.open(path_in) as before, fits.open(path_out) as after:
        assert [hdu.name for hdu in after] == [hdu.name for hdu in before] + ["SPIKES"]
        for name in ("WMAP", "EXTRA"):
            np.testing.assert_array_equal(before[name].data, after[name].data)
        assert before["ASDF"].data.tobytes() == after["ASDF"].data.tobytes()
        header = after[0].header
        assert header["REDUCT1"] == "Despiked"
        assert header["DESPIKE NSIGMA"] == 7.0
        assert header["DESPIKE SPIKES"] == facts["spikes"]
        assert "COMMENT" in after["SPIKES"].header


def test_file_opens_as_an_ifu_cube(despiked):
    from stdatamodels.jwst import datamodels

    with datamodels.open(despiked[1]) as model:
        assert isinstance(model, datamodels.IFUCubeModel)
        assert model.data.shape == read_cube(despiked[1]).shape
        assert model.meta.wcs is not None


def test_despiking_again_adds_to_the_marks(despiked, tmp_path):
    _, path_out, facts, _ = despiked
    again = despike_file(path_out, tmp_path / "again_s3d.fits", nsigma=6.0)
    marks = read_cube(tmp_path / "again_s3d.fits").hdul["SPIKES"].data
    assert marks.sum() == facts["spikes"] + again["spikes"]


def test_command(despiked, tmp_path, capsys):
    assert main([str(despiked[0]), str(tmp_path / "o_s3d.fits"), "--nsigma", "50", "--no-median-test"]) == 0
    assert "spikes among" in capsys.readouterr().out
    header = fits.getheader(tmp_path / "o_s3d.fits")
    assert header["DESPIKE NSIGMA"] == 50
    assert header["DESPIKE MEDIAN_TEST"] is False
    assert main([str(despiked[0]), str(tmp_path / "p_s3d.fits"), "--box_size", "8"]) == 2
    assert "box_size" in capsys.readouterr().err
    assert not (tmp_path / "p_s3d.fits").exists()


def test_help_is_light():
    code = (
        "import sys, despike; sys.exit(any(name in sys.modules for name in ('jwst', 'crds', 'matplotlib', 'spiceypy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
