"""Animations show the values of the cubes, at the right places, for whatever set of dithers and tiles there is."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from matplotlib import colormaps

from benchmarks.reference_animation import PlainDrawer
from cube_summary import brightness_temperature, mean_spectrum
from cubes import read_cube, sky_coordinates, write_cube
from errors import InputError
from navigate import navigate_file
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.scene import Scene
from sky_frame import frame_of
from summary_animation import AnimationSettings, animate_files, colour_ranges, frame_planes, main, make_drawer
from video import ffmpeg_path

PLANES = 6
SETTINGS = AnimationSettings(dpi=40, percentiles=(0, 100))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernels")
    write_kernels(directory, "2022-11-11", "2022-11-15", "saturn")
    return directory


@pytest.fixture(scope="module")
def cubes(tmp_path_factory, kernels):
    """Two dithers at Saturn's northern limb, the first with an empty plane, and a combination of the two."""
    directory = tmp_path_factory.mktemp("cubes")
    scene = Scene("saturn", kernels)
    paths = []
    for name, offset, minute in (("d1", (0.3, 7.2), 0), ("d2", (-0.4, 7.5), 5), ("combined", (0.0, 7.3), 3)):
        path = directory / name / "Level3_ch1-short_s3d_nav.fits"
        path.parent.mkdir()
        simulate_cube(
            scene,
            f"2022-11-13T10:{minute:02d}:00",
            path,
            shape=(15, 13),
            spaxel_arcsec=0.26,
            n_wave=PLANES,
            offset=offset,
            rotation_deg=20.0,
            dither=2 if name == "d2" else 1,
            dithers=2,
            noise=50.0,
        )
        navigate_file(path, path, kernel_path=kernels)
        cube = read_cube(path)
        if name == "combined":
            column = fits.Column(name="PATT_NUM", format="J", array=np.array([1, 2]))
            cube.hdul.append(fits.BinTableHDU.from_columns([column], name="HDRTAB"))
        empty = np.zeros(cube.shape, bool)
        empty[3] = True
        cube.mark_bad(empty, 0)
        write_cube(cube, path)
        paths.append(path)
    return paths


def panel_pixels(drawer, panel, frame):
    place = panel.place
    return drawer.draw(frame)[place.top : place.top + place.height, place.left : place.left + place.width, :3].copy()


def test_pixels_have_the_colour_of_the_nearest_spaxel(cubes, kernels):
    drawer, _ = make_drawer(cubes, SETTINGS, kernels)
    assert drawer.layout.columns == ("dither 1", "dither 2", "combined")
    low, high = drawer.ranges[2]
    differences = []
    for panel in (p for p in drawer.layout.panels if p.kind in ("ifu", "zoom")):
        number = panel.sources[0][0]
        cube = read_cube(cubes[number])
        y, x = np.mgrid[: cube.shape[1], : cube.shape[2]]
        spaxel = 1.0
        if panel.kind == "zoom":
            x, y = drawer.cubes[number].frame.offsets(*sky_coordinates(cube.sci_header))
            spaxel = 0.26
        pixels = panel_pixels(drawer, panel, 2)
        for row in range(3, panel.place.height - 3, 5):
            for column in range(3, panel.place.width - 3, 5):
                at_x = panel.xlim[0] + (column + 0.5) / panel.place.width * (panel.xlim[1] - panel.xlim[0])
                at_y = panel.ylim[1] - (row + 0.5) / panel.place.height * (panel.ylim[1] - panel.ylim[0])
                # By brute force: the nearest of all spaxel centres, unless it is near the edge of another or outside.
                distance = np.hypot(x - at_x, y - at_y)
                value = cube.sci[2].ravel()[distance.argmin()]
                if distance.min() < 0.45 * spaxel and np.isfinite(value):
                    colour = 255 * np.array(colormaps["cividis"]((value - low) / (high - low))[:3])
                    differences.append(np.abs(pixels[row, column] - colour).max())
    assert len(differences) > 200
    # Some of them lie under a line.
    assert np.mean(np.array(differences) <= 3) > 0.85


def test_frames_are_those_that_matplotlib_draws(cubes, kernels):
    drawer, _ = make_drawer(cubes, AnimationSettings(dpi=40, interpolation="linear"), kernels)
    plain = PlainDrawer(drawer)
    for number in (0, 3, 5):
        expected, pixels = plain.draw(number).astype(int), drawer.draw(number).astype(int)
        for panel in drawer.layout.panels:
            place = panel.place
            inside = np.s_[place.top + 1 : place.top + place.height - 1, place.left + 1 : place.left + place.width - 1]
            difference = np.abs(pixels[inside] - expected[inside]).max(axis=-1)
            assert np.mean(difference <= 4) > 0.99, (panel.kind, number)


def test_a_frame_changes_in_its_panels_cursor_and_numbers_only(cubes, kernels):
    drawer, _ = make_drawer(cubes, SETTINGS, kernels)
    first, second = drawer.draw(0).copy(), drawer.draw(1).copy()
    changed = (first != second).any(axis=-1)
    layout = drawer.layout
    for panel in layout.panels:
        place = panel.place
        region = np.s_[place.top : place.top + place.height, place.left : place.left + place.width]
        assert changed[region].any(), panel.kind
        changed[region] = False
    changed[: layout.spectrum.top + layout.spectrum.height] = False  # caption and cursor
    changed[:, layout.colour_bar.left :] = False
    assert not changed.any()
    np.testing.assert_array_equal(drawer.draw(0), first)


def test_a_plane_without_data_is_empty_and_says_so(cubes, kernels):
    drawer, _ = make_drawer(cubes, SETTINGS, kernels)
    assert np.isnan(drawer.ranges[3]).all() and np.isfinite(np.delete(drawer.ranges, 3, axis=0)).all()
    for panel in (p for p in drawer.layout.panels if p.kind == "ifu"):
        inside = panel_pixels(drawer, panel, 3)[5:-5, 5:-5]
        assert (inside == 217).all()
    assert "no data" in drawer._caption.get_text()


def test_the_video_has_all_frames(cubes, kernels, tmp_path):
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    path = tmp_path / "video.mp4"
    options = ["--dpi", "40", "--kernel_path", str(kernels), "--fps", "5", "--gif"]
    assert main([*map(str, cubes), str(path), *options]) == 0
    assert plt.get_fignums() == [] and dict(plt.rcParams) == before
    told = subprocess.run([ffmpeg_path(), "-i", str(path)], capture_output=True, text=True, check=False).stderr
    size = re.search(r"h264.*?, (\d+)x(\d+)", told)
    width, height = int(size[1]), int(size[2])
    assert width % 2 == height % 2 == 0
    command = [ffmpeg_path(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(list(map(str, command)), capture_output=True, check=True).stdout
    decoded = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    assert len(decoded) == PLANES
    drawer, _ = make_drawer(cubes, AnimationSettings(dpi=40), kernels)
    expected = drawer.draw(4)[..., :3].astype(int)
    assert np.abs(decoded[4] - expected).mean() < 3
    assert path.with_suffix(".gif").stat().st_size > 1000


def test_the_spectrum_is_that_of_the_cube(cubes, kernels):
    for is_temperature in (False, True):
        settings = AnimationSettings(dpi=40, brightness_temperature=is_temperature)
        drawer, _ = make_drawer(cubes, settings, kernels)
        cube = read_cube(cubes[1])
        sci = np.where(cube.good, cube.sci, np.nan)
        expected, values = mean_spectrum(sci)[0], sci.reshape(PLANES, -1)
        if is_temperature:
            expected = brightness_temperature(expected, cube.wavelength)
            values = brightness_temperature(values, cube.wavelength[:, None])
        np.testing.assert_allclose(drawer.cubes[1].spectrum[1], expected)
        np.testing.assert_allclose(drawer.cubes[1].values, values, rtol=1e-6)


def test_zonal_deviations_are_small_beside_the_scene_and_about_zero(cubes, kernels):
    plain, _ = make_drawer(cubes, SETTINGS, kernels)
    settings = AnimationSettings(dpi=40, zonal_average=True)
    drawer, _ = make_drawer(cubes, settings, kernels)
    values, deviations = plain.cubes[0].values[1], drawer.cubes[0].values[1]
    seen = np.isfinite(deviations)
    assert 10 < seen.sum() < np.isfinite(values).sum()  # not beyond the limb
    assert np.abs(np.mean(deviations[seen])) < 0.02 * values[seen].mean()
    assert np.std(deviations[seen]) < 0.2 * values[seen].mean()
    np.testing.assert_allclose(drawer.ranges[:, 0], -drawer.ranges[:, 1])


def test_tiles_share_the_columns_of_their_dithers(cubes, kernels, tmp_path):
    tile = read_cube(cubes[0])
    tile.header["OBSERVTN"] = "002"
    write_cube(tile, tmp_path / "tile_s3d_nav.fits")
    # Dither 1 has two tiles, dither 2 one.
    drawer, _ = make_drawer([cubes[1], tmp_path / "tile_s3d_nav.fits", cubes[0]], SETTINGS, kernels)
    assert drawer.layout.columns == ("dither 1", "dither 2")
    panels = drawer.layout.panels
    assert [p.column for p in panels if p.kind == "ifu"] == [0, 0, 1]
    assert [len(p.sources) for p in panels if p.kind == "zoom"] == [2, 1]


def test_a_single_column_fills_the_width(cubes, kernels):
    layout = make_drawer(cubes[:1], SETTINGS, kernels)[0].layout
    spectrum, places = layout.spectrum, {panel.kind: panel.place for panel in layout.panels}
    # Two by two, none over another, as wide together as the spectrum above them.
    for left, right in (("ifu", "target"), ("zoom", "map")):
        assert places[left].left + places[left].width < places[right].left
        assert abs(places[right].left + places[right].width - spectrum.left - spectrum.width) < 0.03 * layout.width
    assert places["ifu"].top + places["ifu"].height < places["zoom"].top
    assert layout.height < 1.2 * layout.width


def test_cubes_with_sky_positions_only_have_neither_target_frame_nor_map(cubes, tmp_path):
    paths = []
    for number, path in enumerate(cubes[:2]):
        paths.append(tmp_path / f"{number}_s3d.fits")
        navigate_file(path, paths[-1], basic_navigation=True)
    drawer, warnings = make_drawer(paths, SETTINGS)
    assert {p.kind for p in drawer.layout.panels} == {"ifu", "zoom"} and not warnings
    # Both are about the target, although it has moved: the limb is at the same place.
    assert drawer.cubes[0].frame != drawer.cubes[1].frame
    assert drawer.cubes[0].frame.ra0 == read_cube(paths[0]).sci_header["MT_RA"]
    with pytest.raises(InputError, match="zonal_average"):
        make_drawer(paths, AnimationSettings(zonal_average=True))


def test_without_a_target_in_the_header_all_share_the_first_field(cubes, tmp_path):
    paths = []
    for number, path in enumerate(cubes[:2]):
        cube = read_cube(path)
        del cube.sci_header["MT_RA"]
        # Across RA = 0.
        cube.sci_header["CRVAL1"] = (0.0001 - 0.0002 * number) % 360
        write_cube(cube, tmp_path / f"{number}_s3d.fits")
        paths.append(tmp_path / f"{number}_s3d.fits")
        navigate_file(paths[-1], paths[-1], basic_navigation=True)
    drawer, _ = make_drawer(paths, SETTINGS)
    assert drawer.cubes[0].frame == drawer.cubes[1].frame == frame_of(read_cube(paths[0]).sci_header, None)
    zoom = next(p for p in drawer.layout.panels if p.kind == "zoom")
    assert abs(zoom.xlim[0] - zoom.xlim[1]) < 10  # arcsec


def test_missing_kernels_are_a_warning(cubes, tmp_path):
    _, warnings = make_drawer(cubes[:1], SETTINGS, tmp_path / "none")
    assert len(warnings) == 1 and "outline" in warnings[0]


def test_frames_are_at_most_a_hundred_unless_asked():
    assert frame_planes(1050, None).size <= 100
    assert frame_planes(50, None).tolist() == list(range(50))
    assert frame_planes(7, 3).tolist() == [0, 3, 6]


def test_colours_end_at_percentiles_of_all_cubes():
    values = [np.array([[1.0, np.nan], [np.nan, np.nan]]), np.array([[5.0, 3.0], [np.nan, np.nan]])]
    ranges = colour_ranges(values, (0, 100))
    assert ranges[0].tolist() == [1.0, 5.0] or ranges[0].tolist() == [0.0, 5.0]
    assert np.isnan(ranges[1]).all()
    assert colour_ranges(values, (0, 100), symmetric=True)[0].tolist() == [-5.0, 5.0]


@pytest.mark.parametrize(
    "wrong", [{"wavelength_step": 0}, {"map_interval": 0}, {"percentiles": (60, 40)}, {"interpolation": "cubic"}]
)
def test_options_that_make_no_picture_are_refused(cubes, kernels, wrong):
    with pytest.raises(InputError, match=str(next(iter(wrong)))):
        animate_files(cubes[:1], Path("never.mp4"), kernel_path=kernels, **wrong)
