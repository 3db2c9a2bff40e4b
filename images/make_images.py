"""Make the pictures of the README from simulated observations: `make images`.

The quick look is one of the demo's own plots, the animation's picture one of its frames, the report's a screenshot. The
figure of the corrections shows a plane of an observation that saturates, as each step of the pipeline leaves it, and a
spectrum of the demo. The Makefile has the commands; names of pictures after that of the script make these only.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = Path(__file__).parent
ROOT = IMAGES.parent
QUICK_LOOK = "plots/stage5_despike/d1/1A_Level3_ch1-short_s3d_nav.png"
REPORT = "report/index.html"
CUBE = "Level3_ch1-short_s3d_nav.fits"
STAGES = (
    ("stage3", "calibrated by jwst"),
    ("stage3_desaturated", "desaturated"),
    ("stage4_flat", "flat-fielded"),
    ("stage5_despike", "despiked"),
)
EMPTY_COLOUR = "0.85"
# As wide as a page shows it [pixel].
_WIDTH = 1000


def corrections_figure(bright: Path, demo: Path, place: str = "d1"):
    """One plane of a cube after each correction, and a spectrum with and without residual fringes.

    Parameters
    ----------
    bright
        A data root reduced with `--desaturate --construct_flats`.
    demo
        A data root with 1-D defringed cubes.
    place
        The dither's directory.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    from cubes import read_cube

    cubes = [read_cube(bright / stage / place / CUBE) for stage, _ in STAGES]
    wavelength = cubes[0].wavelength
    plane = _telling_plane(cubes)
    figure = Figure(figsize=(13, 7.4), layout="constrained")
    grid = figure.add_gridspec(2, len(cubes), height_ratios=(1.15, 1))
    final = cubes[-1].sci[plane]
    limits = np.nanpercentile(final, [0.5, 99.5])
    for column, (cube, (_, label)) in enumerate(zip(cubes, STAGES, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        axes.set_facecolor(EMPTY_COLOUR)
        image = np.where(cube.good[plane], cube.sci[plane], np.nan)
        axes.imshow(image, origin="lower", cmap="cividis", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        axes.set(xticks=[], yticks=[], title=label)
    figure.suptitle(f"Channel 1A at {wavelength[plane]:.3f} µm through the pipeline; grey: no value")
    _plot_fringes(figure.add_subplot(grid[1, :]), demo, place)
    return figure


def _telling_plane(cubes: list) -> int:
    # Where desaturation brought much back and some spikes went.
    valid = [cube.good.sum(axis=(1, 2)) for cube in cubes]
    recovered = valid[1] - valid[0]
    removed = valid[2] - valid[3]
    candidates = recovered >= np.percentile(recovered, 80)
    return int(np.argmax(np.where(candidates, removed, -1)))


def _plot_fringes(axes, root: Path, place: str) -> None:
    from cubes import read_cube

    before, after = (read_cube(root / "stage3" / name / CUBE) for name in (place, f"{place}_fringe1d"))
    both = before.good & after.good
    seen = both.mean(axis=0)
    brightness = np.where(seen > 0.95, np.where(both, before.sci, 0).mean(axis=0), 0)
    y, x = np.unravel_index(np.argmax(brightness), brightness.shape)
    good = both[:, y, x]
    for cube, colour, label in ((before, "#D55E00", "as calibrated"), (after, "#0072B2", "without residual fringes")):
        values = np.where(good, cube.sci[:, y, x], np.nan)
        axes.plot(cube.wavelength, values, color=colour, linewidth=0.9, label=label)
    axes.set(xlabel="wavelength [µm]", ylabel="radiance [MJy/sr]", xlim=(before.wavelength[0], before.wavelength[-1]))
    axes.set_title("Spectrum of one spaxel")
    axes.legend(frameon=False)


def animation_frame(demo: Path) -> Image.Image:
    """The middle frame of the demo's animation of band 1A."""
    from summary_animation import AnimationSettings, make_drawer

    cubes = [demo / "stage5_despike" / place / CUBE for place in ("d1", "d2", "d3", "d4", "combined")]
    drawer, _ = make_drawer(cubes, AnimationSettings(), demo / "kernels")
    return Image.fromarray(drawer.draw(drawer.wavelength.size // 2)).convert("RGB")


def report_screenshot(demo: Path) -> Image.Image:
    """The upper part of the demo's report.

    Raises
    ------
    RuntimeError
        If there is no browser.
    """
    from playwright.sync_api import sync_playwright

    from images.browser import NAMES, launch_browser

    with sync_playwright() as playwright:
        browser = launch_browser(playwright)
        if browser is None:
            raise RuntimeError(f"a picture of the report needs a browser: {', '.join(NAMES)}")
        page = browser.new_page(viewport={"width": 1100, "height": 1000}, color_scheme="light", offline=True)
        page.goto((demo / REPORT).as_uri())
        # Where the demo lies is nobody's business.
        page.locator(".root").evaluate("(one, name) => { one.textContent = name; }", demo.name)
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    return picture.convert("RGB")


def save(picture: Image.Image, name: str) -> None:
    """Save a picture for the README, in as many colours as tell it from the original hardly at all."""
    picture.quantize(200, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)


def main(names: Sequence[str]) -> int:
    """Make the pictures of these names (none: all) from `demo/` and `demo/bright/`, which must have been reduced."""
    demo = ROOT / "demo"
    makers = {
        "quick_look.png": lambda: _smaller(Image.open(demo / QUICK_LOOK).convert("RGB")),
        "animation.png": lambda: animation_frame(demo),
        "report.png": lambda: report_screenshot(demo),
        "corrections.png": lambda: _drawn(corrections_figure(demo / "bright", demo)),
    }
    for name in names or makers:
        save(makers[name](), name)
    return 0


def _smaller(picture: Image.Image) -> Image.Image:
    return picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.Resampling.LANCZOS)


def _drawn(figure) -> Image.Image:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=80)
    return Image.open(picture).convert("RGB")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
