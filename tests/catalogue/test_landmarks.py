"""`ppfl data convert gldv2`: one file of images and a mapping, as a whole or not at all."""

from __future__ import annotations

import codecs
import csv
import os
import platform
import signal
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from ppfl.catalogue import landmarks
from ppfl.catalogue.count_files import images_of_users
from ppfl.catalogue.landmarks import convert
from ppfl.catalogue.told import Silent
from ppfl.core.errors import UserError
from tests.grids import ppfl
from tests.test_datasets import load

ROWS = [("10", "aa0", "7"), ("9", "bb1", "2027"), ("10", "cc2", "0"), ("9", "d", "7"), ("user é", "ee-5", "1")]


def write(folder: Path, rows: list[tuple[str, str, str]], *, nested: bool = False) -> tuple[Path, Path]:
    """Write a mapping, and for each of its ids an image of one colour with a corner of another."""
    images, mapping = folder / "images", folder / "mapping.csv"
    images.mkdir(exist_ok=True)
    with mapping.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerows([("user_id", "image_id", "class"), *rows])
    for number, (_, name, _) in enumerate(rows):
        image = np.full((30 + number, 40, 3), 40 * number, np.uint8)
        image[:15, :20, 0] = 200
        place = images.joinpath(*name[:3]) if nested else images
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{name}.jpg", quality=95)
    return mapping, images


@pytest.mark.parametrize("nested", [False, True])
def test_one_file_has_all_that_is_trained_on(nested: bool, tmp_path: Path) -> None:
    mapping, images = write(tmp_path, ROWS, nested=nested)
    out = tmp_path / "new" / "gldv2.h5"
    assert convert(mapping, images, out, 16, Silent()) == (3, 5)
    with h5py.File(out) as file:
        assert [name.decode() for name in file["client"][()]] == ["10", "9", "user é"]
        assert file["offsets"][()].tolist() == [0, 2, 4, 5]
        assert file["label"][()].tolist() == [7, 0, 2027, 7, 1]
        pixels = file["pixels"][()]
    assert (pixels.shape, pixels.dtype) == ((5, 16, 16, 3), np.uint8)
    # in the order of clients, and of lines; the lower right corner is the colour of the line
    for sample, line in enumerate((0, 2, 1, 3, 4)):
        assert abs(int(pixels[sample, 12, 12, 1]) - 40 * line) <= 3
        assert abs(int(pixels[sample, 2, 2, 0]) - 200) <= 3
    for path in images.rglob("*.jpg"):  # nothing else is read from then on
        path.unlink()
    found = load({"name": "federated_hdf5", "train": str(out), "test": 0.5, "validation": 0})
    assert found.input_shape == (3, 16, 16)


def test_images_are_scaled_as_pillow_does(tmp_path: Path) -> None:
    mapping, images = write(tmp_path, ROWS[:1])
    convert(mapping, images, tmp_path / "out.h5", 12, Silent())
    with Image.open(images / "aa0.jpg") as image:
        expected = np.asarray(image.convert("RGB").resize((12, 12), Image.Resampling.BILINEAR))
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["pixels"][0], expected)


def test_grey_images_and_others_get_three_colours(tmp_path: Path) -> None:
    mapping, images = write(tmp_path, ROWS[:2])
    Image.fromarray(np.full((20, 20), 90, np.uint8)).save(images / "aa0.jpg")
    Image.fromarray(np.full((20, 20, 4), 90, np.uint8)).save(images / "bb1.jpg", format="PNG")
    convert(mapping, images, tmp_path / "out.h5", 8, Silent())
    with h5py.File(tmp_path / "out.h5") as file:
        assert (np.abs(file["pixels"][()].astype(int) - 90) <= 1).all()


def test_marks_before_the_table_and_oddities_of_images_are_passed_over(tmp_path: Path) -> None:
    mapping, images = write(tmp_path, ROWS[:1])
    mapping.write_bytes(codecs.BOM_UTF8 + mapping.read_bytes())
    with_palette = Image.fromarray(np.full((20, 20), 90, np.uint8)).convert("P")
    with_palette.save(images / "aa0.jpg", format="PNG", transparency=b"\0\1\2")  # of which Pillow warns
    assert convert(mapping, images, tmp_path / "out.h5", 8, Silent()) == (1, 1)


def test_images_of_more_than_8_bits_are_no_white_ones(tmp_path: Path) -> None:
    mapping, images = write(tmp_path, ROWS)
    Image.fromarray(np.full((20, 20), 9000, np.uint16)).save(images / "bb1.jpg", format="PNG")
    refused(tmp_path, mapping, images, r"bb1\.jpg: is no image that can be read: it has more than 8 bits a colour")


def refused(folder: Path, mapping: Path, images: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        convert(mapping, images, folder / "out.h5", 8, Silent())
    assert "\n" not in str(told.value)
    assert not [path for path in folder.iterdir() if "out.h5" in path.name]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("", "x", "1"), r"line 7: user_id is ''; it must have a character"),
        (("1", "../x", "1"), r"line 7: image_id is '\.\./x'; allowed are letters, digits, - and _"),
        (("1", "x", "-1"), r"line 7: class is '-1'; allowed are 0 to"),
        (("1", "x", "1.5"), r"line 7: class is '1\.5'; allowed are 0 to"),
        (("1", "x", "99999999"), r"line 7: class is '99999999'; allowed are 0 to"),
        (("1", "cc2", "1"), r"line 7: has image_id cc2 again; each image is one sample of one client"),
    ],
)
def test_bad_lines_are_named(row: tuple[str, str, str], message: str, tmp_path: Path) -> None:
    mapping, images = write(tmp_path, ROWS)
    with mapping.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(row)
    refused(tmp_path, mapping, images, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,url\n", r"has the columns id, url; it must have user_id, image_id, class"),
        (b"", r"has the columns ; it must have user_id, image_id, class"),
        (b"user_id,image_id,class\n", r"has no line of an image"),
        (b"user_id,image_id,class\n\xff,a,1\n", r"line 2: is no text in UTF-8"),
        (b"user_id,image_id,class\n1,a\n", r"line 2: class is ''"),
        (
            b'user_id,image_id,class\n"' + b"a" * 200_000 + b'",b,1\n',
            r"cannot be read as a table: field larger",
        ),
    ],
)
def test_tables_that_are_no_mapping_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    mapping, images = write(tmp_path, ROWS)
    mapping.write_bytes(content)
    refused(tmp_path, mapping, images, message)


def test_a_mapping_may_begin_with_a_mark(tmp_path: Path) -> None:
    mapping, images = write(tmp_path, ROWS)
    mapping.write_bytes(b"\xef\xbb\xbf" + mapping.read_bytes())
    assert convert(mapping, images, tmp_path / "out.h5", 8, Silent()) == (3, 5)
    assert images_of_users(mapping).facts == {"clients": 3, "samples": 5, "classes": 4}


def test_images_that_are_missing_are_counted(tmp_path: Path) -> None:
    mapping, images = write(tmp_path, ROWS)
    for name in ("bb1", "ee-5"):
        (images / f"{name}.jpg").unlink()
    refused(tmp_path, mapping, images, r"images: lacks 2 of the 5 images of .*mapping\.csv, the first is bb1\.jpg")
    refused(tmp_path, mapping, tmp_path / "nowhere", r"nowhere: is no folder")


@pytest.mark.parametrize("how", ["truncated", "text", "empty", "folder", "huge", "gif"])
def test_images_that_cannot_be_decoded_are_named(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapping, images = write(tmp_path, ROWS)
    path = images / "cc2.jpg"
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "gif":
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path, format="GIF")
    else:
        path.write_bytes(
            {"truncated": content[: len(content) // 2], "text": b"text" * 100, "empty": b""}.get(how, content)
        )
    if how == "huge":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1200)  # a warning beyond, an error beyond twice as many
    refused(tmp_path, mapping, images, r"(cc2|bb1)\.jpg: is no image that can be read")


def test_there_must_be_room_and_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapping, images = write(tmp_path, ROWS)
    with pytest.raises(UserError, match=r"mapping\.csv: exists; choose another name"):
        convert(mapping, images, mapping, 8, Silent())
    monkeypatch.setattr(landmarks.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    refused(tmp_path, mapping, images, r"out\.h5: needs 960 bytes, and .* has room for 100")


def test_the_command(tmp_path: Path) -> None:
    mapping, images = write(tmp_path, ROWS)
    out = tmp_path / "out.h5"
    done = ppfl("data", "convert", "gldv2", mapping, images, out, "--pixels", "8")
    assert (done.exit_code, done.stdout) == (0, f"3 clients, 5 samples: {out}\n"), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping, images = write(tmp_path, ROWS)
    monkeypatch.setattr(landmarks, "_decoded", lambda path, pixels: os.kill(os.getpid(), number) or bytes(192))
    before = signal.getsignal(number)
    done = ppfl("data", "convert", "gldv2", mapping, images, tmp_path / "new" / "out.h5", "--pixels", "8")
    assert (done.exit_code, done.stderr.strip()) == (130, "ppfl: error: interrupted")
    assert not [*(tmp_path / "new").iterdir()]
    assert signal.getsignal(number) is before


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    mapping, images = write(tmp_path, ROWS)
    killed = subprocess.Popen(["true"])
    killed.wait()
    for pid, kept in ((killed.pid, False), (os.getppid(), True)):
        left = tmp_path / f".out.h5.{pid}-0123abcd@{platform.node()}.partial"
        left.touch()
        done = ppfl("data", "convert", "gldv2", mapping, images, tmp_path / f"{pid}.h5", "--pixels", "8")
        assert (done.exit_code, left.exists()) == (0, kept), done.stderr
