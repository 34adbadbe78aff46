"""Videos through PyAV, an optional package of which the tests have one."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atp.errors import InputError
from atp.media.video import Video


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"drive.mp4: videos need the package av, which is not installed: pip install"):
        Video(tmp_path / "drive.mp4")


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty frames of 64x48, ten a second, that become brighter."""
    import av

    path = tmp_path_factory.mktemp("video") / "drive.mkv"
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 5
        for number in range(30):
            noise = generator.integers(0, 60, (48, 64, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray((noise + 6 * number).astype(np.uint8))))
        container.mux(stream.encode())
    return path


def test_frames_are_written_at_their_times(drive: Path, tmp_path: Path) -> None:
    video = Video(drive)
    assert (video.rate, video.length) == (10, 30)
    frames = list(video.frames())
    assert [float(frame.pts * frame.time_base) for frame in frames] == pytest.approx([n / 10 for n in range(30)])
    brightness = [np.array(frame.image).mean() for frame in frames]
    assert brightness == sorted(brightness)
    with video.written(tmp_path / "out/copy.mp4") as writer:
        for frame in frames:
            # An odd size, which the encoder does not take.
            writer.add(frame.image.crop((0, 0, 63, 51)), frame)
    copy = Video(tmp_path / "out/copy.mp4")
    copied = list(copy.frames())
    assert copied[0].image.size == (64, 52)
    assert len(copied) == copy.length == 30
    assert float(copied[-1].pts * copied[-1].time_base) == pytest.approx(2.9)
    assert video.unread == copy.unread == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["copy.mp4"]


def test_damaged_frames_are_noted_and_the_others_are_read(drive: Path, tmp_path: Path) -> None:
    data = bytearray(drive.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    (tmp_path / "damaged.mkv").write_bytes(data)
    video = Video(tmp_path / "damaged.mkv")
    assert 15 < len(list(video.frames())) < 30
    assert video.unread
    assert video.unread[0].startswith("at 1.")


def test_a_video_that_is_cut_short_is_noted(drive: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mkv").write_bytes(drive.read_bytes()[: drive.stat().st_size // 2])
    video = Video(tmp_path / "cut.mkv")
    count = len(list(video.frames()))
    assert video.unread == [f"it ends after {count} of 30 frames"]


def test_what_is_no_video(drive: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"text.mp4: cannot be read as a video \(invalid data found when processing"):
        Video(tmp_path / "text.mp4")


def test_nothing_is_left_of_a_video_that_is_not_finished(drive: Path, tmp_path: Path) -> None:
    def interrupted() -> None:
        video = Video(drive)
        with video.written(tmp_path / "out/copy.mp4") as writer:
            frame = next(video.frames())
            writer.add(Image.new("RGB", (64, 48)), frame)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "out").iterdir()) == []
