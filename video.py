"""Videos from frames: FFmpeg is fed pixels through a pipe.

Out: MP4 (H.264, yuv420p, its index at the front, so that browsers play it while it loads) or GIF, by the name's suffix.
FFmpeg is the one on PATH, else the one that the package `imageio-ffmpeg` brings along.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from errors import InputError
from files import written_whole

# x264: quality that shows no blocks in flat colours, and a preset that keeps up with the drawing.
_H264 = (
    *("-c:v", "libx264", "-preset", "superfast", "-crf", "20", "-pix_fmt", "yuv420p", "-movflags", "+faststart"),
    # What players take for granted in large videos, but FFmpeg must be told: without it colours shift.
    "-vf",
    "scale=out_color_matrix=bt709:out_range=tv,setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709",
)
# Colours are chosen for the whole video, without the dither that makes a GIF large and restless.
_GIF = ("-filter_complex", "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=none")


def ffmpeg_path() -> str:
    """The FFmpeg to use.

    Raises
    ------
    InputError
        If there is none.
    """
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"no FFmpeg to make videos with ({error}): pip install imageio-ffmpeg, or leave animations out with "
            "--skip_steps animate."
        ) from error


def write_video(frames: Iterable[np.ndarray], path: str | Path, size: tuple[int, int], fps: float) -> int:
    """Write frames to a video; the file appears whole or not at all.

    Parameters
    ----------
    frames
        (height, width, 4) uint8 RGBA each; each is sent off before the next is asked for, so one array may serve all.
    path
        '*.mp4' or '*.gif'.
    size
        (width, height) [pixel], both even.
    fps
        Frames per second.

    Returns
    -------
    int
        The number of frames.

    Raises
    ------
    InputError
        If the suffix is neither, or there is no FFmpeg.
    OSError
        If FFmpeg fails; with what it said.
    """
    path = Path(path)
    formats = {".mp4": _H264, ".gif": _GIF}
    if path.suffix not in formats:
        raise InputError(f"{path} is no name for a video: end it with {' or '.join(formats)}.")
    width, height = size
    source = ("-f", "rawvideo", "-pix_fmt", "rgba", "-s", f"{width}x{height}", "-r", f"{fps}", "-i", "-")
    count = 0
    with written_whole(path) as temporary, tempfile.TemporaryFile() as messages:
        # One thread: the pipeline runs a process per core already.
        command = [ffmpeg_path(), "-v", "error", "-y", *source, "-an", "-threads", "1", *formats[path.suffix]]
        with subprocess.Popen(
            [*command, str(temporary)], stdin=subprocess.PIPE, stdout=messages, stderr=messages
        ) as encoder:
            # A pipe that breaks means that FFmpeg has given up; its status and messages say why.
            with suppress(BrokenPipeError):
                try:
                    for frame in frames:
                        encoder.stdin.write(np.ascontiguousarray(frame))
                        count += 1
                except BaseException:
                    # Ctrl-C too: FFmpeg must not wait for more.
                    encoder.kill()
                    raise
            with suppress(BrokenPipeError):
                encoder.stdin.close()
        if encoder.returncode != 0:
            messages.seek(0)
            said = messages.read().decode(errors="replace").strip()
            raise OSError(f"FFmpeg could not write {path}: {said or f'status {encoder.returncode}'}")
    return count
