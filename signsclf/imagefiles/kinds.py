"""Tells kinds of files apart, by name and by content: which are images that are read, and what the others are."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from signsclf.errors import BadImageError


def words(text: str) -> frozenset[str]:
    """The words of a text, for long sets of suffixes and names."""
    return frozenset(text.split())


SUFFIXES = words("""
.png .apng .jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjp .mpo .bmp .dib .gif .ppm .pgm .pbm .pnm .tif .tiff .webp
.jp2 .j2k .j2c .jpc .jpf .jpx .jpg2
""")
"""Suffixes of the kinds that every Pillow reads."""

_DECODED = {
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    **dict.fromkeys((".heic", ".heif", ".heics", ".heifs", ".hif"), "HEIF"),
}
"""Suffixes of the kinds that are read where a decoder is installed."""
_NO_DECODER = {
    "AVIF": "no decoder: pip install -U pillow, or convert to JPEG or PNG",
    "HEIF": "no decoder: pip install pillow-heif, or convert to JPEG or PNG",
}
_CONVERT = "not read: convert to JPEG or PNG"
_UNREAD = words("""
.jxl .jxr .hdp .wdp .svg .svgz .psd .psb .xcf .ai .eps .ps .pdf .ico .cur .icns .tga .pcx .exr .hdr .pfm .pam
.dds .sgi .rgb .ras .xbm .xpm .wmf .emf .dcm .nii .fits .fit .djvu .flif .qoi .bpg .webp2 .dng .cr2 .cr3 .crw
.nef .nrw .arw .sr2 .srf .orf .rw2 .raf .pef .srw .x3f .3fr .erf .kdc .mrw .rwl .iiq
""")
"""Suffixes of still pictures that are not read."""
_DRAWINGS = words(".svg .svgz .ai .eps .ps .pdf .ico .cur .icns .wmf .emf")
"""Those of them that hardly are photos: a folder of these is no class that would be missed."""
_OTHER = words("""
.txt .csv .tsv .json .jsonl .ndjson .xml .yaml .yml .toml .ini .cfg .md .rst .html .htm .css .js .py .ipynb .sh
.log .names .data .cache .parquet .feather .arrow .npy .npz .pkl .pickle .mat .h5 .hdf5 .pt .pth .onnx
.safetensors .ckpt .bin .db .sqlite .zip .tar .gz .tgz .bz2 .xz .7z .rar .zst .tfrecord .tfrecords .rec .idx
.lst .doc .docx .xls .xlsx .ppt .pptx .mp3 .wav .flac .ogg .mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .wmv .3gp
.flv .mts .aae .xmp .thm .exe .dll .so .bak .old .orig .tmp .temp .part .partial .crdownload .download .swp
.lock
""")
"""Suffixes of files that are no pictures, or copies of ones: their content is not looked at."""
_LOOKS = 200
"""So many files of an unknown suffix are looked into before it is taken for one that images do not have."""

HEAD = 64
"""Bytes at a file's start that tell its kind to `kind_of`."""

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
# Headers of Windows bitmaps that were saved without their first 14 bytes, by their own length.
_DIB = re.compile(rb"(?:\x28|\x34|\x38|\x40|\x6c|\x7c)\0\0\0.{8}\x01\0(?:\x01|\x04|\x08|\x10|\x18|\x20)\0", re.DOTALL)
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"),
}
_CLASSES = {
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "DIB": ("PIL.BmpImagePlugin", "DibImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "JPEG2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIF": ("pillow_heif", "HeifImageFile"),
}

_AGAIN = "download it again"
_TO_PNG = "convert it to JPEG or PNG"
# Compiled when a file is first asked about: few predictions ever are of a file that is no image.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (rb"version https://git-lfs\.github\.com/", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (rb"[./\w]{0,99}/annex/objects/", "a pointer of git-annex, not the file itself", "run `git annex get`"),
    (rb"qoif", "a QOI image", _TO_PNG),
    (rb"(?s:.{257})ustar", "a tar archive", "unpack it"),
    (rb"\x89PNG|\xef\xbf\xbdPNG", "a PNG that a transfer as text has damaged", _AGAIN),
    (rb"%PDF-", "a PDF document", _TO_PNG),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript", _TO_PNG),
    (rb"8BPS", "a Photoshop document", _TO_PNG),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", _TO_PNG),
    (rb"II\xbc\x01", "JPEG XR", _TO_PNG),
    (rb"P7[\r\n]", "a PAM pixmap", _TO_PNG),
    (rb"P[Ff][\r\n]", "a float pixmap (PFM)", _TO_PNG),
    (rb"gimp xcf", "a GIMP document", _TO_PNG),
    (rb"\0\0[\x01\x02]\0[^\0]", "a Windows icon", _TO_PNG),
    (rb"icns", "an Apple icon", _TO_PNG),
    (rb"DDS ", "a DDS texture", _TO_PNG),
    (rb"v/1\x01|#\?RADIANCE", "a high dynamic range image", _TO_PNG),
    (rb"(?s:.{0,128})DICM", "a DICOM file", _TO_PNG),
    (rb"SIMPLE  =", "a FITS file", _TO_PNG),
    (
        rb"FUJIFILMCCD-RAW|IIRO|IIU\0|\0MRM|FOVb|II\x1a\0\0\0HEAPCCDR",
        "a RAW photo of a camera",
        "develop it to JPEG or PNG",
    ),
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive", "name it .zip, or unpack it"),
    (rb"\x1f\x8b", "a gzip file", "unpack it"),
    (rb"BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "an archive (7z, RAR, xz or the like)", "unpack it"),
    (rb"(?s:.{4})ftyp(?:crx )", "a RAW photo of a camera", "develop it to JPEG or PNG"),
    (rb"(?s:.{4})ftyp|(?s:.{4})(?:moov|mdat|wide)", "a video", "extract its frames"),
    (
        rb"RIFF(?s:.{4})AVI |\x1a\x45\xdf\xa3|\0\0\x01[\xba\xb3]|FLV\x01|\x30\x26\xb2\x75",
        "a video",
        "extract its frames",
    ),
    (rb"RIFF(?s:.{4})WAVE|ID3|OggS|fLaC", "a sound file", "remove it"),
    (rb"\x93NUMPY", "a NumPy array", "save it as PNG"),
    (rb"\x89HDF", "an HDF5 file", "save its images as PNG"),
    (rb"SQLite format 3|\xd0\xcf\x11\xe0", "a database or an Office document", "remove it"),
    (rb"\0\x05\x16\x07", "what macOS keeps beside a file (AppleDouble)", "remove it"),
    (rb"\x7fELF|MZ", "a program", "remove it"),
)


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like that of an image that is read (upper case counts)."""
    suffix = suffix_of(name)
    return suffix in SUFFIXES or (suffix in _DECODED and image_class(_DECODED[suffix]) is not None)


def suffix_of(name: str) -> str:
    """The suffix of a name's last part in lower case, with its dot; "" where there is none."""
    # As pathlib has it, five times as fast: asked for every name of a source.
    start = max(name.rfind("/"), name.rfind("\\")) + 1
    dot = name.rfind(".", start)
    return name[dot:].lower() if start < dot < len(name) - 1 else ""


def why_unread(suffix: str) -> str | None:
    """Why pictures of this suffix are not read and what helps; None for images that are, and for other files."""
    if suffix in _UNREAD:
        return _CONVERT
    kind = _DECODED.get(suffix)
    return _NO_DECODER[kind] if kind and image_class(kind) is None else None


def is_photo_suffix(suffix: str) -> bool:
    """Whether pictures of this suffix, which are not read, are photos rather than drawings or icons."""
    return suffix not in _DRAWINGS and why_unread(suffix) is not None


def skipped_text(suffixes: Iterable[str]) -> str:
    """Files that are not read, by suffix, as in "6 .heic (no decoder: …), 1 .svg (not read: …)"."""
    counts = Counter(suffixes).most_common()
    return ", ".join(f"{n:,} {suffix} ({why_unread(suffix) or _CONVERT})" for suffix, n in counts)


def read_head(path: str) -> bytes:
    """The first `HEAD` bytes of a file on disk.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return file.read(HEAD)


def kind_of(head: bytes) -> str | None:
    """The kind of image that the first `HEAD` bytes of a file belong to, as in "JPEG"; None for other files."""
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if re.match(rb"P[1-6][\s#]", head):
        return "PPM"
    if head[4:8] == b"ftyp":
        return _container(head)
    return "DIB" if _DIB.match(head) else None


def describe_kind(data: bytes) -> str | None:
    """What bytes are that are no image, and what helps, as in "a PDF document; convert it to JPEG or PNG".

    Args:
        data: a file from its start on, or its first kilobyte.

    Returns:
        None for images, and where nothing is known of the content.
    """
    head = data[:1024]
    kind = kind_of(head)
    if kind is not None:
        return f"{kind.replace('HEIF', 'HEIC')}, {_NO_DECODER[kind]}" if kind in _NO_DECODER else None
    for pattern, what, remedy in _OTHERS:
        if re.match(pattern, head):
            return f"{what}; {remedy}"
    if head and not any(head):
        return f"nothing but zero bytes, as of a download that was broken off; {_AGAIN}"
    return _describe_text(head)


def image_class(kind: str) -> Callable[..., Any] | None:
    """The class of Pillow that opens files of a kind; None where it, or its decoder, is not installed.

    It is imported when it is first asked for: to look at a PNG needs no other plugin.
    """
    return _image_class(kind)


class Sniffer:
    """Decides of files by name and, where that says nothing, by content."""

    def __init__(self) -> None:
        self._fruitless: Counter[str] = Counter()

    def look(self, name: str, head: Callable[[], bytes]) -> bool:
        """Whether a file is an image that is read, whatever its name.

        Args:
            name: its name or path.
            head: gives its first `HEAD` bytes, or raises OSError or BadImageError; called where the name says
                nothing.
        """
        suffix = suffix_of(name)
        if is_image_name(name):
            return True
        if suffix in _OTHER or name.endswith("~") or self._fruitless[suffix] >= _LOOKS:
            return False
        try:
            kind = kind_of(head())
        except (OSError, BadImageError):
            kind = None
        # Two letters or a few small numbers at a file's start are no proof, and RAW photos start as TIFFs do.
        unproved = kind in ("BMP", "DIB", "PPM") or (kind == "TIFF" and suffix in _UNREAD)
        if kind is None or unproved or image_class(kind) is None:
            self._fruitless[suffix] += 1
            return False
        self._fruitless[suffix] = -_LOOKS
        return True


@cache
def _image_class(kind: str) -> Callable[..., Any] | None:
    module, name = _CLASSES[kind]
    try:
        found = importlib.import_module(module)
    except ImportError:
        return None
    if kind == "AVIF" and not found.SUPPORTED:
        return None
    opened = getattr(found, name, None)
    return _quiet_jpeg(opened) if kind == "JPEG" else opened


def _quiet_jpeg(base: Any) -> Any:
    class QuietJpeg(base):
        def _open(self) -> None:
            # Pillow looks for a resolution that it lacks in the EXIF block, and warns of every damage there.
            self.info["dpi"] = (72, 72)
            super()._open()

    return QuietJpeg


def _container(head: bytes) -> str | None:
    """HEIF or AVIF by the brands of an ISO media file; None for films."""
    major = _BRANDS.get(head[8:12])
    if head[8:12] not in (b"mif1", b"msf1"):
        return major
    length = min(int.from_bytes(head[:4], "big"), len(head))
    compatible = [head[at : at + 4] for at in range(16, length - 3, 4)]
    return "AVIF" if b"avif" in compatible or b"avis" in compatible else major


def _describe_text(head: bytes) -> str | None:
    try:
        text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "ignore")
    except UnicodeError:
        return None
    text = text.lstrip().lower()
    if re.match(r"<!doctype html|<html|<head|<body", text) or ("<html" in text and text.startswith("<")):
        return f"an HTML page, perhaps an error or a login; {_AGAIN}"
    if text.startswith("<svg") or (text.startswith("<") and "<svg" in text):
        return f"an SVG drawing; {_TO_PNG}"
    if text.startswith("<?xml") or re.match(r"<\w+[ >/]", text):
        return f"an XML text; {_AGAIN}"
    if re.match(r"[\[{]\s*[\"\[{\]}0-9-]", text):
        return f"a JSON text, perhaps an error message; {_AGAIN}"
    if text.startswith(("data:image/", "ivborw0kggo", "/9j/", "r0lgod")):
        return "an image as base64 text; decode it first"
    try:
        plain = head[:-3].decode("utf-8")
    except UnicodeError:
        return None
    if plain.strip() and all(c.isprintable() or c in "\t\r\n\f" for c in plain):
        return f"a text; {_AGAIN}"
    return None
