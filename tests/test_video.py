"""Videos are decoded again: their frames, size, codec and colours are those that went in."""

import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from errors import InputError
from video import ffmpeg_path, write_video

SIZE = (96, 64)
COLOURS = np.array([[0, 34, 78], [124, 123, 120], [253, 231, 55], [0, 114, 178], [213, 94, 0]], np.uint8)


def frames(count=5):
    pixels = np.full((SIZE[1], SIZE[0], 4), 255, np.uint8)
    for number in range(count):
        pixels[..., :3] = COLOURS[number]
        yield pixels


def decode(path):
    command = [ffmpeg_path(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(list(map(str, command)), capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, SIZE[1], SIZE[0], 3)


def test_an_mp4_has_the_frames_in_their_colours_and_plays_in_browsers(tmp_path):
    path = tmp_path / "a" / "video.mp4"
    assert write_video(frames(), path, SIZE, 5) == 5
    decoded = decode(path)
    assert len(decoded) == 5
    np.testing.assert_allclose(decoded.mean(axis=(1, 2)), COLOURS, atol=4)
    told = subprocess.run([ffmpeg_path(), "-i", str(path)], capture_output=True, text=True, check=False).stderr
    assert re.search(r"Video: h264 .*yuv420p", told) and "96x64" in told and "5 fps" in told
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_gif_has_the_frames_too(tmp_path):
    write_video(frames(), tmp_path / "video.gif", SIZE, 5)
    with Image.open(tmp_path / "video.gif") as picture:
        assert picture.n_frames == 5 and picture.size == SIZE
        picture.seek(2)
        np.testing.assert_allclose(np.asarray(picture.convert("RGB")).mean(axis=(0, 1)), COLOURS[2], atol=6)


def test_what_goes_wrong_leaves_no_file(tmp_path):
    with pytest.raises(InputError, match="avi"):
        write_video(frames(), tmp_path / "video.avi", SIZE, 5)
    odd = np.zeros((63, 95, 4), np.uint8)
    with pytest.raises(OSError, match=r"video\.mp4"):
        write_video([odd, odd], tmp_path / "video.mp4", (95, 63), 5)

    def broken():
        yield from frames(2)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_video(broken(), tmp_path / "video.mp4", SIZE, 5)
    assert list(tmp_path.iterdir()) == []


def test_without_ffmpeg_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match="pip install imageio-ffmpeg"):
        ffmpeg_path()
