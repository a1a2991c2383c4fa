"""Recognise file formats by name and by content: which are images that can be read, and what the others are."""

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
    """Split a text into a set of words, for long sets of suffixes and names."""
    return frozenset(text.split())


SUFFIXES = words("""
.png .apng .jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjp .mpo .bmp .dib .gif .ppm .pgm .pbm .pnm .tif .tiff .webp
.jp2 .j2k .j2c .jpc .jpf .jpx .jpg2
""")
"""Suffixes of the formats that every Pillow reads."""

_DECODED = {
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    **dict.fromkeys((".heic", ".heif", ".heics", ".heifs", ".hif"), "HEIF"),
}
"""Suffixes of the formats that are read where a decoder is installed."""
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
"""Those of them that are rarely photos, so that a folder of them is not a class that was missed."""
_OTHER = words("""
.txt .csv .tsv .json .jsonl .ndjson .xml .yaml .yml .toml .ini .cfg .md .rst .html .htm .css .js .py .ipynb .sh
.log .names .data .cache .parquet .feather .arrow .npy .npz .pkl .pickle .mat .h5 .hdf5 .pt .pth .onnx
.safetensors .ckpt .bin .db .sqlite .zip .tar .gz .tgz .bz2 .xz .7z .rar .zst .tfrecord .tfrecords .rec .idx
.lst .doc .docx .xls .xlsx .ppt .pptx .mp3 .wav .flac .ogg .mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .wmv .3gp
.flv .mts .aae .xmp .thm .exe .dll .so .bak .old .orig .tmp .temp .part .partial .crdownload .download .swp
.lock
""")
"""Suffixes of files that are not images, or are backup copies: their content is not examined."""
_MAX_SNIFFED = 200
"""After so many files of an unknown suffix without an image, further ones are not examined."""

HEAD = 64
"""How many bytes from a file's start `kind_of` needs."""

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
# Windows bitmaps saved without their first 14 bytes: the header starts with its own length.
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

_DOWNLOAD_AGAIN = "download it again"
_TO_PNG = "convert it to JPEG or PNG"
# Not compiled at import: few predictions ever meet a file that is not an image.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (rb"version https://git-lfs\.github\.com/", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (rb"[./\w]{0,99}/annex/objects/", "a git-annex pointer, not the file itself", "run `git annex get`"),
    (rb"qoif", "a QOI image", _TO_PNG),
    (rb"(?s:.{257})ustar", "a tar archive", "unpack it"),
    (rb"\x89PNG|\xef\xbf\xbdPNG", "a PNG damaged by a transfer in text mode", _DOWNLOAD_AGAIN),
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
        "a camera's RAW photo",
        "convert it to JPEG or PNG",
    ),
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive", "name it .zip, or unpack it"),
    (rb"\x1f\x8b", "a gzip file", "unpack it"),
    (rb"BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "an archive (7z, RAR, xz or the like)", "unpack it"),
    (rb"(?s:.{4})ftyp(?:crx )", "a camera's RAW photo", "convert it to JPEG or PNG"),
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
    (rb"\0\x05\x16\x07", "a file of macOS metadata (AppleDouble)", "remove it"),
    (rb"\x7fELF|MZ", "a program", "remove it"),
)


def is_image_name(name: str) -> bool:
    """Tell whether a file's name has the suffix, in any case, of an image format that can be read here."""
    suffix = suffix_of(name)
    return suffix in SUFFIXES or (suffix in _DECODED and image_class(_DECODED[suffix]) is not None)


def suffix_of(name: str) -> str:
    """Return the suffix of a path's last part in lower case, with its dot; "" where there is none."""
    # The same as pathlib's, five times as fast: it is called for every name of a source.
    start = max(name.rfind("/"), name.rfind("\\")) + 1
    dot = name.rfind(".", start)
    return name[dot:].lower() if start < dot < len(name) - 1 else ""


def why_unread(suffix: str) -> str | None:
    """Say why images of this suffix are not read and what to do; None for readable images and for other files."""
    if suffix in _UNREAD:
        return _CONVERT
    kind = _DECODED.get(suffix)
    return _NO_DECODER[kind] if kind and image_class(kind) is None else None


def is_photo_suffix(suffix: str) -> bool:
    """Tell whether a suffix belongs to photos, rather than drawings or icons, that are not read."""
    return suffix not in _DRAWINGS and why_unread(suffix) is not None


def skipped_text(suffixes: Iterable[str]) -> str:
    """Describe files that are not read, by suffix: "6 .heic (no decoder: …), 1 .svg (not read: …)"."""
    counts = Counter(suffixes).most_common()
    return ", ".join(f"{n:,} {suffix} ({why_unread(suffix) or _CONVERT})" for suffix, n in counts)


def read_head(path: str) -> bytes:
    """Read the first `HEAD` bytes of a file on disk.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return file.read(HEAD)


def kind_of(head: bytes) -> str | None:
    """Recognise the image format, such as "JPEG", from a file's first `HEAD` bytes; None for other files."""
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
    """Describe data that is not a readable image and say what to do: "a PDF document; convert it to JPEG or PNG".

    Args:
        data: a file from its start on, or its first kilobyte.

    Returns:
        None for images, and for content that is not recognised.
    """
    head = data[:1024]
    kind = kind_of(head)
    if kind is not None:
        return f"{kind.replace('HEIF', 'HEIC')}, {_NO_DECODER[kind]}" if kind in _NO_DECODER else None
    for pattern, what, remedy in _OTHERS:
        if re.match(pattern, head):
            return f"{what}; {remedy}"
    if head and not any(head):
        return f"only zero bytes, perhaps an interrupted download; {_DOWNLOAD_AGAIN}"
    return _describe_text(head)


def image_class(kind: str) -> Callable[..., Any] | None:
    """Return the Pillow class that opens files of a format; None where it, or its decoder, is not installed.

    Its module is imported on first use: opening a PNG needs no other plugin.
    """
    return _image_class(kind)


class Sniffer:
    """Decides whether files are images by name and, where the name does not tell, by content."""

    def __init__(self) -> None:
        self._n_no_image: Counter[str] = Counter()

    def look(self, name: str, head: Callable[[], bytes]) -> bool:
        """Tell whether a file is an image that can be read, whatever its name.

        Args:
            name: its name or path.
            head: returns its first `HEAD` bytes, or raises OSError or BadImageError; called only where the name does
                not tell.
        """
        suffix = suffix_of(name)
        if is_image_name(name):
            return True
        if suffix in _OTHER or name.endswith("~") or self._n_no_image[suffix] >= _MAX_SNIFFED:
            return False
        try:
            kind = kind_of(head())
        except (OSError, BadImageError):
            kind = None
        # Signatures of two bytes or a few small numbers are weak evidence, and RAW photos start like TIFFs.
        is_weak = kind in ("BMP", "DIB", "PPM") or (kind == "TIFF" and suffix in _UNREAD)
        if kind is None or is_weak or image_class(kind) is None:
            self._n_no_image[suffix] += 1
            return False
        self._n_no_image[suffix] = -_MAX_SNIFFED
        return True


@cache
def _image_class(kind: str) -> Callable[..., Any] | None:
    module, name = _CLASSES[kind]
    try:
        plugin = importlib.import_module(module)
    except ImportError:
        return None
    if kind == "AVIF" and not plugin.SUPPORTED:
        return None
    opener = getattr(plugin, name, None)
    return _quiet_jpeg(opener) if kind == "JPEG" else opener


def _quiet_jpeg(base: Any) -> Any:
    class QuietJpeg(base):
        def _open(self) -> None:
            # Without a resolution Pillow searches the EXIF block for one, and warns of any damage there.
            self.info["dpi"] = (72, 72)
            super()._open()

    return QuietJpeg


def _container(head: bytes) -> str | None:
    """Recognise HEIF or AVIF by the brands of an ISO media file; None for videos."""
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
        return f"an HTML page, perhaps an error or a login page; {_DOWNLOAD_AGAIN}"
    if text.startswith("<svg") or (text.startswith("<") and "<svg" in text):
        return f"an SVG drawing; {_TO_PNG}"
    if text.startswith("<?xml") or re.match(r"<\w+[ >/]", text):
        return f"an XML file; {_DOWNLOAD_AGAIN}"
    if re.match(r"[\[{]\s*[\"\[{\]}0-9-]", text):
        return f"a JSON file, perhaps an error message; {_DOWNLOAD_AGAIN}"
    if text.startswith(("data:image/", "ivborw0kggo", "/9j/", "r0lgod")):
        return "an image as base64 text; decode it first"
    try:
        plain = head[:-3].decode("utf-8")
    except UnicodeError:
        return None
    if plain.strip() and all(c.isprintable() or c in "\t\r\n\f" for c in plain):
        return f"a text file; {_DOWNLOAD_AGAIN}"
    return None
