"""Lines told from fringes: fringes gone, planets left alone.

Systematic errors are meant where accuracies are asked for: fringes are multiplied onto noisy spectra, so that
`fringes * factors - 1` is what is left of them without the noise.
"""

import numpy as np
import pytest
from conftest import SHARED_DATA
from fringes import UTC, fringes_like_the_simulator, measured_saturn

from benchmarks.bench_defringe import fringed_spectra
from cubes import read_cube
from defringe import correction_rms, defringe_cube, find_lines
from shared_lines import _share_of_lines, shared_lines
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.mrs_optics import BAND_LIMITS
from simulate.scene import Scene

SATURN = SHARED_DATA / "saturn_spectra"
SLICES = {1: 21, 2: 17, 3: 16, 4: 12}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernels")
    write_kernels(directory, UTC, UTC, "saturn")
    return directory


def pull_width(value, truth, error):
    """Robust width of (value - truth) / error."""
    pull = (value - truth) / error
    return 1.4826 * np.median(np.abs(pull - np.median(pull)))


def lines_of(channel, centres, strength):
    low, high = BAND_LIMITS[channel, "SHORT"]
    return [(low + part * (high - low), 1 / 2500 / 2.355, strength) for part in centres]


def simulated(scene, folder, **options):
    """The truth, and noisy SCI and ERR of a signal-to-noise ratio of 300; that of the truth's ERR is 1000."""
    truth = read_cube(simulate_cube(scene, UTC, folder / "truth_s3d.fits", **options))
    err = truth.err * np.float32(1000 / 300)
    return truth, truth.sci + err * np.random.default_rng(0).standard_normal(err.shape, np.float32), err


@pytest.mark.parametrize("channel", [1, 2, 3, 4])
def test_fringes_go_and_continuum_and_bright_lines_stay(channel, kernels, tmp_path):
    """A planet with a few absorption lines, and emission lines about as bright as itself."""
    absorption = lines_of(channel, (0.33, 0.79), 0.15)
    emission = lines_of(channel, (0.2, 0.45, 0.7), 1.0)
    scene = Scene("saturn", kernels, absorption_lines=absorption, emission_lines=emission, emission_strength=1.5)
    options = {"channel": str(channel), "shape": (6, 6)}
    truth, noisy_sci, noisy_err = simulated(scene, tmp_path, **options)
    fringes = fringes_like_the_simulator(truth.wavelength, truth.shape[1:], spaxels_per_slice=1)
    inside = truth.good.all(axis=0)
    sci = noisy_sci * fringes
    out, err, corrected = defringe_cube(sci, noisy_err, truth.wavelength, channel)
    assert corrected[inside].all()
    left = (fringes * out / sci - 1)[:, inside]
    assert (fringes - 1)[:, inside].std() > 0.013
    assert left.std() < 0.004
    eighths = np.array([part.mean() for part in np.array_split(left, 8)])
    assert np.abs(eighths).max() < 1e-3

    expected = truth.sci[:, inside].astype(float)
    for centre, width, _ in emission:
        near = np.abs(truth.wavelength / centre - 1) < 3 * width
        assert expected[near].max() > 1.2 * np.median(expected)
        assert (out[:, inside][near].sum() / expected[near].sum()) == pytest.approx(1, abs=4e-3)
    assert 0.8 < pull_width(out[:, inside], expected, err[:, inside]) < 1.5


@pytest.mark.parametrize("channel", [1, 2, 3, 4])
def test_lines_that_spectra_share_are_not_taken_for_fringes(channel, kernels, tmp_path):
    """The default planet has lines every few cm-1, and 2 % of fringes among them."""
    scene = Scene("saturn", kernels)
    options = {"channel": str(channel), "shape": (12, 12)}
    truth, noisy_sci, noisy_err = simulated(scene, tmp_path, **options)
    inside = truth.good.all(axis=0)
    fringes = fringes_like_the_simulator(truth.wavelength, truth.shape[1:], spaxels_per_slice=1)
    sci = noisy_sci * fringes
    some = inside & (np.arange(12) % 3 == 0)
    lines = find_lines(sci, truth.wavelength, channel, truth.good)
    plain, _, plain_corrected = defringe_cube(
        sci[:, some][..., None], sci[:, some][..., None], truth.wavelength, channel
    )
    out, err, corrected = defringe_cube(
        sci[:, some][..., None],
        noisy_err[:, some][..., None],
        truth.wavelength,
        channel,
        lines=lines[:, some][..., None],
    )
    assert corrected.all()
    left = fringes[:, some] * out[..., 0] / sci[:, some] - 1
    harm = fringes[:, some] * plain[..., 0] / sci[:, some] - 1
    assert left.std() < 0.004 < harm.std()
    assert np.abs([part.mean() for part in np.array_split(left, 8)]).max() < 1e-3
    assert 0.8 < pull_width(out[..., 0], truth.sci[:, some], err[..., 0]) < 1.5
    before = sci[:, some][..., None]
    assert correction_rms(before, out, corrected)[1] < correction_rms(before, plain, plain_corrected)[1]


@pytest.mark.parametrize("amplitude_scatter", [0.0, 0.5])
@pytest.mark.parametrize("channel", ["1A", "2A", "3A", "4C"])
def test_on_measured_spectra_of_saturn(channel, amplitude_scatter):
    """Zonal means of Saturn from 60 S to the pole, with fringes of 2 % put on, in as many slices as the channel has."""
    folder = SATURN / f"channel_{channel}"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: measured spectra of Saturn (Fletcher et al. 2023)")
    shape = (SLICES[int(channel[0])], 20)
    wavelength, sci = measured_saturn(folder, shape)
    sci *= 1 + np.random.default_rng(0).standard_normal(sci.shape) / 300
    fringes = fringes_like_the_simulator(
        wavelength, shape, spaxels_per_slice=1, seed=41, amplitude_scatter=amplitude_scatter
    )
    sci *= fringes
    lines = find_lines(sci, wavelength, int(channel[0]), np.ones(sci.shape, bool))
    columns = slice(2, None, 9)
    out, _, _ = defringe_cube(
        sci[..., columns], sci[..., columns], wavelength, int(channel[0]), lines=lines[..., columns]
    )
    left = fringes[..., columns] * out / sci[..., columns] - 1
    rms = left.std(axis=0)
    # The measured spectra have residual fringes of their own, which no one can tell from the lines.
    assert np.median(rms) < 0.002 and np.quantile(rms, 0.9) < 0.004
    assert np.abs([part.mean(axis=0) for part in np.array_split(left, 8)]).max() < 1e-3


@pytest.mark.parametrize("fringed", [False, True])
def test_faint_spectra_are_not_harmed(fringed):
    """Rows dimmed to 1/11 and 1/100 of the planet (signal-to-noise ratio of 120 and 40) have lines all the same."""
    folder = SATURN / "channel_2A"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: measured spectra of Saturn (Fletcher et al. 2023)")
    wavelength, sci = measured_saturn(folder, (17, 8))
    sci[:, 2::4] *= 0.09
    sci[:, 3::4] *= 0.01
    err = np.sqrt(sci * 1000) / 300
    fringes = fringes_like_the_simulator(wavelength, sci.shape[1:], spaxels_per_slice=1, seed=43)
    fringes = fringes if fringed else np.ones_like(fringes)
    sci = sci * fringes + err * np.random.default_rng(2).standard_normal(sci.shape)
    lines = find_lines(sci, wavelength, 2, np.ones(sci.shape, bool))
    faint = np.sort(np.concatenate([np.arange(2, 17, 4), np.arange(3, 17, 4)]))
    some = np.s_[:, faint, ::4]
    out, _, _ = defringe_cube(sci[some], err[some], wavelength, 2, lines=lines[some])
    left = (fringes[some] * out / sci[some] - 1).std(axis=0)
    noise = np.median(err[some] / sci[some], axis=0)
    if fringed:
        assert np.median(left) < 0.004
    assert np.all(left < (0.016 if fringed else 0.5 * noise))


@pytest.mark.parametrize("arcs", [False, True])
def test_the_share_that_lines_took_moves_fringes_off_their_circle(arcs):
    """Centres of circles that move with the strengths of two lines are found to a part of the mean's error.

    All slices have a circle alike, or each an arc of a third of its own circle.
    """
    random = np.random.default_rng(5)
    basis, _ = np.linalg.qr(np.column_stack([np.ones(120), random.standard_normal((120, 2))]))
    slices = np.repeat(np.arange(12), 10)
    radius = random.uniform(0.5, 1.5, 12)[slices, None] if arcs else 1 + 0.05 * random.standard_normal((120, 9))
    phase = random.random(12)[slices] + np.tile(np.linspace(0, 1 / 3, 10), 12)
    circle = radius * np.exp(2j * np.pi * phase[:, None]) * np.ones(9)
    taken = basis @ (basis.T @ circle)
    found = basis @ _share_of_lines(circle - taken, basis, slices)
    assert np.linalg.norm(found - taken) < 0.3 * np.linalg.norm(taken)
    assert np.isfinite(_share_of_lines(np.zeros((120, 2), complex), basis, slices)).all()


def test_a_spectrum_unlike_the_planet_is_given_no_lines(kernels, tmp_path):
    """Rings, say: bright, and without lines."""
    path = simulate_cube(Scene("saturn", kernels), UTC, tmp_path / "truth_s3d.fits", "1", shape=(8, 8), noise=300)
    cube = read_cube(path)
    cube.sci[:, 0, :3] = np.median(cube.sci[:, 3:5, 3:5])
    lines = find_lines(cube.sci, cube.wavelength, 1, cube.good | (np.indices(cube.shape)[1] == 0))
    np.testing.assert_array_equal(lines[:, 0, :3], 1)
    assert np.ptp(lines[:, 3, 3]) > 0.1


def test_shared_lines_need_enough_bright_spectra():
    wavelength, spectra = fringed_spectra(1, 25)
    one_slice = np.zeros(28, int)

    def lines(spectra):
        return shared_lines(spectra, wavelength, [(2.9, 1.5)], one_slice[: len(spectra)])

    assert lines(spectra).shape == spectra.shape
    faint = spectra.copy()
    faint[10:] *= 0.01
    assert lines(faint) is None
    assert lines(np.full_like(spectra, np.nan)) is None
    faint = np.concatenate([spectra, spectra[:3] * 0.01])
    found = lines(faint)
    assert (found[25:] / found[:3]).std() < 0.002 < 0.1 * found[:3].std()
