"""A data root that a run has left: small cubes at two stages, plots, a video, logs, a failure; with names that bite."""

import json
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from PIL import Image

from video import write_video

SHAPE = (12, 7, 6)
SCRIPT = "<script>document.title='owned'</script>"
STAGES = ("stage3", "stage5_despike")
PLACES = ("d1", "d2", "combined", "d1_fringe1d", "d2_fringe1d", "combined_fringe1d")
FAILED_LOG = f"logs/despike/\"quoted\" & 'ünï' #1 {'x' * 20}?.log"
SPIKE = (5, 3, 2)
FRINGES_REMOVED = "stage3/d1_fringe1d/Level3_ch1-short_s3d.fits"


def write_cube(path: Path, values: np.ndarray, header: dict | None = None, **extensions: np.ndarray) -> Path:
    """A cube with a sky WCS whose NaN are flagged; further extensions as given."""
    wcs = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "WAVE", "CUNIT1": "deg", "CUNIT2": "deg", "CUNIT3": "um",
        "CRVAL1": 10.0, "CRVAL2": 20.0, "CRVAL3": 5.0, "CRPIX1": 3.0, "CRPIX2": 3.0, "CRPIX3": 1.0,
        "CDELT1": -0.2 / 3600, "CDELT2": 0.2 / 3600, "CDELT3": 0.01, "BUNIT": "MJy/sr",
    }  # fmt: skip
    values = values.astype("f4")
    dq = np.where(np.isfinite(values), 0, 1).astype("u4")
    primary = fits.PrimaryHDU()
    primary.header.update({"INSTRUME": "MIRI", "TARGPROP": "SATURN", "PATT_NUM": 1, **(header or {})})
    hdus = [fits.ImageHDU(data, fits.Header(wcs), name=name) for name, data in (("SCI", values), ("DQ", dq))]
    hdus.append(fits.ImageHDU(np.ones_like(values), name="ERR"))
    hdus += [fits.ImageHDU(data, name=name) for name, data in extensions.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([primary, *hdus]).writeto(path)
    return path


def make_root(root: Path) -> Path:
    """Two dithers and their combination in two bands and two variants, with all that lies around them."""
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    scene = np.broadcast_to(100.0 * (1 + x + 10 * y), SHAPE).copy()
    for place in PLACES:
        for band in ("ch1-short", "ch2-short"):
            name = f"Level3_{band}_s3d_nav.fits"
            header = {"TARGPROP": SCRIPT, "TITLE": "a & b <b>", "REDUCT1": "Navigated", "NAVKERN": "predicted"}
            before, after = scene.copy(), scene.copy()
            before[:, 0] = after[:, 0] = np.nan
            before[SPIKE] = 1e6
            after[SPIKE] = np.nan
            spikes = np.zeros(SHAPE, np.uint8)
            spikes[SPIKE] = 1
            if place == "d1":
                header |= {"NAV_SRA": 0.004, "NAV_SDEC": 0.002}
            write_cube(root / "stage3" / place / name, before, header)
            header |= {"REDUCT2": SCRIPT}
            path = write_cube(root / "stage5_despike" / place / name, after, header, SPIKES=spikes)
            if place == "d1":
                with fits.open(path, mode="update") as cube:
                    cube["SCI"].header["NAV_DRA"], cube["SCI"].header["NAV_DDEC"] = 0.0123, -0.0045
            picture = root / "plots" / "stage5_despike" / place / f"{band[2]}A_{Path(name).stem}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (60, 40), "teal").save(picture)
    _write_video(root / "animation/stage5_despike/dither_comparison/1A_Level3_ch1-short_s3d_nav.mp4")
    rows = [["d1/a.fits", 0.02, -0.004, 0.005, 0.003, 0.1, ""], ["d2/a.fits", *[np.nan] * 5, f"no limb {SCRIPT}"]]
    names = ["cube", "ra_offset", "dec_offset", "ra_error", "dec_error", "correlation", "reason"]
    Table(rows=rows, names=names).write(root / "stage3/pointing_o001v002.ecsv")
    (root / "stage3/pointing_o002v001.ecsv").write_text("cut sh")
    _write_logs(root)
    return root


def _write_video(path: Path) -> None:
    path.parent.mkdir(parents=True)
    frames = (np.full((32, 32, 4), 80 * number, np.uint8) for number in range(3))
    write_video(frames, path, (32, 32), 3)


def _write_logs(root: Path) -> None:
    log = root / FAILED_LOG
    log.parent.mkdir(parents=True)
    log.write_text(f"first line\n{SCRIPT}\nValueError: no light\n")
    common = {
        "function": "despike:despike_file", "inputs": [], "error": None, "seconds": 1.25, "peak_memory": 2 * 10**8,
        "host": "here", "missing": [], "notes": [], "warnings": [], "facts": {}, "log": "logs/none.log",
    }  # fmt: skip
    tasks = [
        {**common, "step": "stage1", "outputs": ["stage1/a_rate.fits"], "status": "skipped", "peak_memory": 0},
        {**common, "step": "despike", "outputs": [f"stage5_despike/{SCRIPT}.fits"], "status": "failed",
         "error": f"ValueError: {SCRIPT}", "log": FAILED_LOG},
        {**common, "step": "despike", "outputs": ["stage5_despike/d1/Level3_ch1-short_s3d_nav.fits"], "status": "done",
         "warnings": [f"too many spikes {SCRIPT}"], "notes": ["1 spike"]},
        {**common, "step": "plot", "outputs": ["plots/x.png"], "status": "not run", "error": "because x failed"},
    ]  # fmt: skip
    run = {
        "root": str(root), "start": "2026-01-02T03:04:05+00:00", "end": "2026-01-02T03:05:10+00:00",
        "status": "finished", "exit_status": 1, "host": "here", "pid": 1, "workers": 2, "overwrite": False,
        "command": ["miri_pipeline.py", "--step_kwargs", SCRIPT], "unusable_inputs": [],
        "settings": {"instrument": "MIRI", "steps": [], "despike": True, "defringe": False, "step_kwargs": {}},
        "defaults": {"despike": False, "defringe": False, "step_kwargs": {}},
        "versions": {"python": "3", "pipeline": "1", "jwst": "3.0.0", "crds_context": "jwst_1322.pmap"},
        "kernels": ["naif0012.tls", "jwst_pred.bsp"], "tasks": tasks,
    }  # fmt: skip
    (root / "logs/run.json").write_text(json.dumps(run))
    (root / "logs/run.toml").write_text("")
    # What 1-D defringing made is beside what navigation made of it.
    write_cube(root / FRINGES_REMOVED, np.ones(SHAPE))
    record = {"step": "defringe_1d", "outputs": {FRINGES_REMOVED: ""},
              "function": "defringe:defringe_1d_file", "seconds": 2.0, "notes": [], "warnings": [],
              "facts": {"rms": 0.0175}}  # fmt: skip
    (root / "logs/records").mkdir()
    (root / "logs/records/a.json").write_text(json.dumps(record))
    (root / "logs/records/damaged.json").write_text("{")
