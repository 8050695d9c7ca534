"""DICOM files: values, windows, damaged files; they are made with pydicom."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.data import survey
from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import pixels
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image, open_rgb
from jaxdino.data.kinds import kind_of_raw, stored_values
from jaxdino.data.ranges import Range, remarks
from jaxdino.data.record import Split
from jaxdino.data.tree import scan

pydicom = pytest.importorskip("pydicom")
uid = pytest.importorskip("pydicom.uid")
PATIENT = "Doe^Jane"
ENCODED = pydicom.encaps.encapsulate([bytes(10)])
CT = np.array([[-1024, 0, 40], [300, 1000, 2047]], np.int16)


def write(path, values, syntax=uid.ExplicitVRLittleEndian, encode=None, drop=(), **elements):
    """Write values (H, W), (N, H, W) with `NumberOfFrames`, or (H, W, 3) as a DICOM file with a patient's name."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    data.PatientName = PATIENT
    colour = values.shape[-1] == 3 and "RGB" in elements.get("PhotometricInterpretation", "")
    data.Rows, data.Columns = values.shape[-3:-1] if colour else values.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * values.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(values.dtype.kind == "i")
    data.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    data["PixelData"].VR = "OB" if values.itemsize == 1 or data.PixelData is ENCODED else "OW"
    data["PixelData"].is_undefined_length = data.PixelData is ENCODED
    if encode:
        data.compress(encode)
    for name in drop:
        delattr(data, name)
    data.save_as(path, enforce_file_format=True)
    return str(path)


def read(path, setting="full", channels=1):
    return pixels(open_image(path, Reading(channels, Range.of(setting))))


def look(paths):
    return survey.settle(survey.look([Split("train", paths, {})]), Range(), Range(), 3)


def test_a_tiff_in_the_preamble_is_not_read(tmp_path):
    path = tmp_path / "x.dcm"
    Image.new("L", (9, 9)).save(path, "TIFF")
    tiff = path.read_bytes()[:128]
    content = Path(write(path, CT)).read_bytes()
    for name in ("x.dcm", "x.tif"):
        (tmp_path / name).write_bytes(tiff + content[128:])
        assert read(str(tmp_path / name)).shape == (2, 3, 1)


def test_rescaled_signed_values_whatever_the_suffix(tmp_path):
    path = write(tmp_path / "x.jpg", CT, RescaleSlope=2, RescaleIntercept=-1024)
    assert np.array_equal(stored_values(path, kind_of_raw(path))[..., 0], CT * 2.0 - 1024)
    shifted = write(tmp_path / "shifted", (CT + 1024).astype(np.uint16), RescaleSlope=1, RescaleIntercept=-1024)
    assert kind_of_raw(shifted).dtype == "int32"
    assert read(shifted, "-1024,2047")[..., 0].tolist() == np.rint((CT + 1024) * (255 / 3071)).astype(int).tolist()


def test_bits_above_those_stored_are_left_out(tmp_path):
    stored = np.array([[0x0FFF, 0x07FF]], np.int16)  # 12 bits: -1 and 2047
    path = write(tmp_path / "x.dcm", stored, BitsStored=12, HighBit=11)
    assert stored_values(path, kind_of_raw(path)).ravel().tolist() == [-1, 2047]


def test_the_window_is_the_range_unless_the_setting_overrules_it(tmp_path):
    """PS3.3 C.11.2.1.2.1: of centre 40 and width 401, -160.5 is black and 239.5 white."""
    path = write(tmp_path / "x.dcm", CT, WindowCenter=[40, 500], WindowWidth=[401, 2000])
    shown = np.rint((CT.astype(float) + 160.5).clip(0, 400) * (255 / 400))
    chosen, lines = look([path])
    assert chosen == Range("window") and "sixteen_bit=window says so" in lines[-1]
    with remarks() as said:
        assert np.array_equal(read(path, chosen)[..., 0], shown) and not said
    with pytest.warns(UserWarning, match="with the window of each file; sixteen_bit='window' says so"):
        assert np.array_equal(np.asarray(open_rgb(path, 99))[..., 0], shown)
    assert read(path, "0,1000")[..., 0].tolist() == [[0, 0, 10], [76, 255, 255]]
    exact = write(tmp_path / "y.dcm", CT, WindowCenter=40, WindowWidth=400, VOILUTFunction="LINEAR_EXACT")
    assert kind_of_raw(exact).window == (-160, 240)
    plain = write(tmp_path / "z.dcm", CT)
    with remarks() as said:
        assert np.array_equal(read(plain, "window"), read(plain, "image"))
    assert "no window in its header" in said[0]
    with pytest.raises(UserError, match=r"from -1024 to 2047.*--config\.data\.sixteen_bit=-1024,2047"):
        look([path, plain])


def test_monochrome1_is_inverted_and_colours_are_read(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = write(tmp_path / "x.dcm", grey, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read(path)[..., 0], 255 - grey)
    deep = write(tmp_path / "y.dcm", grey.astype(np.uint16) * 257, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read(deep)[..., 0], 255 - grey)
    colours = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    path = write(tmp_path / "z.dcm", colours, PhotometricInterpretation="RGB")
    assert np.array_equal(np.asarray(open_rgb(path, 99)), colours)


def test_of_several_frames_the_first_is_read_and_it_is_said(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 5), np.uint8)
    path = write(tmp_path / "x.dcm", frames, NumberOfFrames=4)
    with remarks() as said:
        assert np.array_equal(read(path)[..., 0], frames[0])
    assert said == ["a DICOM file of 4 frames, of which only the first is read"]
    assert "grey, 1 of several pages, of which only the first is read" in look([path])[1][0]
    with pytest.raises(BadImage, match="1 channel and the model takes 4"):
        read(path, channels=4)


def test_an_enhanced_file_names_rescale_and_window_in_its_groups(tmp_path):
    rescale, window, shared, frame = (pydicom.Dataset() for _ in range(4))
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -24
    window.WindowCenter, window.WindowWidth = 100, 51
    shared.PixelValueTransformationSequence, frame.FrameVOILUTSequence = [rescale], [window]
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": [frame, frame]}
    path = write(tmp_path / "x.dcm", np.stack([CT, CT]), NumberOfFrames=2, **groups)
    kind = kind_of_raw(path)
    assert kind.window == (74.5, 124.5) and np.array_equal(stored_values(path, kind)[..., 0], CT.astype(int) - 24)


def test_padding_is_no_value(tmp_path):
    data = np.array([[0, 100], [4000, 65535]], np.uint16)
    path = write(tmp_path / "x.dcm", data, PixelPaddingValue=65535)
    assert look([path])[0] == Range.of("0,4095")


def test_compressed_pixels_and_the_package_that_is_missing(tmp_path):
    data = np.random.default_rng(0).integers(0, 4096, (8, 9)).astype(np.uint16)
    path = write(tmp_path / "rle.dcm", data, encode=uid.RLELossless)
    assert np.array_equal(stored_values(path, kind_of_raw(path))[..., 0], data)
    for syntax, package in ((uid.JPEGLosslessSV1, "libjpeg"), (uid.HTJ2KLossless, "openjpeg")):
        if not pydicom.pixels.get_decoder(syntax).is_available:
            path = write(tmp_path / f"{package}.dcm", data, syntax, PixelData=ENCODED)
            with pytest.raises(BadImage, match=f"compressed as .*: pip install pylibjpeg pylibjpeg-{package}"):
                read(path)


def bad(tmp_path):
    """Return {name: (path of a file, the error)}."""
    whole = Path(write(tmp_path / "whole.dcm", CT)).read_bytes()
    (tmp_path / "short.dcm").write_bytes(whole[:-5])
    (tmp_path / "header.dcm").write_bytes(whole[:300])
    (tmp_path / "signature.dcm").write_bytes(whole[:132])
    (tmp_path / "none.dcm").write_bytes(whole[132:])
    (tmp_path / "huge.dcm").write_bytes(whole.replace(b"\x28\0\x10\0US\2\0\2\0", b"\x28\0\x10\0US\2\0\xff\xff"))
    elements = {
        "report": ("without an image", {"drop": ("Rows", "PixelData")}),
        "palette": ("of a kind that is not read", {"PhotometricInterpretation": "PALETTE COLOR"}),
        "bits": ("of a kind that is not read", {"BitsAllocated": 1}),
        "slope": ("the slope 0.0", {"RescaleSlope": 0, "RescaleIntercept": 1}),
        "deflated": ("deflated as a whole", {"syntax": uid.DeflatedExplicitVRLittleEndian}),
        "video": ("a compression that pydicom does not read", {"syntax": uid.MPEG2MPML, "PixelData": ENCODED}),
    }
    made = {name: (write(tmp_path / f"{name}.dcm", CT, **how), why) for name, (why, how) in elements.items()}
    return made | {
        "short": (tmp_path / "short.dcm", "damaged or truncated DICOM file: its pixels cannot be decoded"),
        "header": (tmp_path / "header.dcm", "DICOM file"),
        "signature": (tmp_path / "signature.dcm", "DICOM file"),
        "none": (tmp_path / "none.dcm", "no DICOM file, or one without its signature"),
        "huge": (tmp_path / "huge.dcm", "too large: 3 x 65535 has more than max_pixels = 10000"),
    }


def test_a_bad_file_has_one_clear_error_without_the_patient(tmp_path):
    for name, (path, why) in bad(tmp_path).items():
        with pytest.raises(BadImage, match=why) as err:
            open_image(str(path), Reading(1, Range("full"), 10_000))
        assert "Doe" not in str(err.value) and "\n" not in str(err.value), name


def test_the_limit_holds_before_the_values_are_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(UserError, match="more than max_pixels = 5 pixels"):
        look([write(tmp_path / "x.dcm", CT)])


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "x.dcm", CT)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BadImage, match=r"a DICOM file: pip install 'jaxdino\[dicom\]'"):
        read(path)


def test_files_are_found_in_folders(tmp_path):
    for name in ("a.dcm", "b.DCM", "c.ima", "d.txt"):
        (tmp_path / name).touch()
    assert scan(str(tmp_path)).total == 3
