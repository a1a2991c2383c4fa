"""ONNX Runtime, imported only here: without telemetry and logging, and with errors that say what to do."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_FIRST_IMPORT = "onnxruntime" not in sys.modules
_TELEMETRY_UNSET = _TELEMETRY not in os.environ
# The library reads this when it is loaded; unset, it writes to the home folder and looks up its vendor's host.
os.environ.setdefault(_TELEMETRY, "1")

import onnxruntime  # noqa: E402

from signsclf.errors import DeviceError, ModelError, SignsclfError, first_line, install_command  # noqa: E402
from signsclf.files import native_path  # noqa: E402
from signsclf.machine import usable_cores  # noqa: E402

if _TELEMETRY_UNSET and hasattr(onnxruntime, "disable_telemetry_events"):
    onnxruntime.disable_telemetry_events()
if _FIRST_IMPORT:  # whoever imported it earlier may want its log
    onnxruntime.set_default_logger_severity(4)

MAX_BYTES = 2**31 - 1
"""The largest file of protocol buffers, and so the largest ONNX file that holds its own weights."""

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_PACKAGES = ("onnxruntime", "onnxruntime-gpu")
# The network y = x, opset 13. Opening it is the only way to find out whether CUDA's libraries can be loaded.
_IDENTITY = (
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
# Fields of ONNX's messages that lead to tensors, by field number; numbers never change.
_INNER = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor


def open_session(path: Path, *, device: str = "cpu", threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open an inference session for an ONNX file, which must contain all its weights.

    Args:
        device: "cpu" or "cuda".
        threads: the largest number of CPU threads; None takes the cores that this process may use.

    Raises:
        DeviceError: ``device`` is "cuda" and CUDA cannot be used; the message says why.
        ModelError: the file is missing, too large, damaged, or keeps weights in other files.
        SignsclfError: ``device`` is anything else.
    """
    if device not in ("cpu", "cuda"):
        raise SignsclfError(f"device is {device!r}, where it should be cpu or cuda")
    try:
        if not path.is_file():
            raise ModelError(f"{path}: does not exist; fetch or export the model again")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ModelError(f"{path}: {size:,} bytes, where an ONNX file has at most {MAX_BYTES:,}")
        external = size > 0 and _keeps_weights_elsewhere(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    if external:
        raise ModelError(f"{path}: keeps weights in other files, which are not read; export it as one file")
    if device == "cuda":
        if why := _not_offered():
            raise DeviceError(f"cuda: {why}")
        try:
            session = _session(_model(path), [_CUDA, _CPU], threads)
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            _opened_on_cpu(path, threads)  # raises ModelError if the file itself is at fault
            raise DeviceError(f"cuda: ONNX Runtime cannot use it ({first_line(error)})") from error
        if _CUDA not in session.get_providers():
            raise DeviceError(f"cuda: {_libraries()}")
        return session
    return _opened_on_cpu(path, threads)


def cuda_trouble() -> str | None:
    """Say in one line why ONNX Runtime cannot use CUDA here and what to do; None where it can."""
    if why := _not_offered():
        return why
    try:
        return None if _CUDA in _session(_IDENTITY, [_CUDA, _CPU], 1).get_providers() else _libraries()
    except Exception as error:
        return f"ONNX Runtime cannot use CUDA ({first_line(error)})"


def has_gpu_package() -> bool:
    """Tell whether the distribution onnxruntime-gpu is installed, working or not."""
    return "onnxruntime-gpu" in _installed()


def _not_offered() -> str | None:
    if _CUDA in onnxruntime.get_available_providers():
        return None
    if _installed() == set(_PACKAGES):
        return (
            "onnxruntime and onnxruntime-gpu are both installed and share their files, of which those without CUDA "
            "were written last; run `pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install onnxruntime-gpu`"
        )
    return f"this ONNX Runtime has no CUDA; install the extra gpu with: {install_command('gpu')}"


def _installed() -> set[str]:
    """Find which of `_PACKAGES` are installed in the folder of the imported module."""
    # From the names of the .dist-info folders: importing importlib.metadata takes longer than a prediction.
    try:
        entries = [path.name for path in Path(onnxruntime.__file__).parents[1].iterdir()]
    except OSError:
        return set()
    names = {name.partition("-")[0].lower() for name in entries if name.endswith(".dist-info")}
    return {package for package in _PACKAGES if package.replace("-", "_") in names}


def _libraries() -> str:
    """Say why the CUDA provider was left out; ONNX Runtime only logs it, so its library is loaded again here."""
    import ctypes

    why = "of another version than it needs, or missing"
    capi = Path(onnxruntime.__file__).parent / "capi"
    for name in ("libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll"):
        if (capi / name).is_file():
            try:
                ctypes.CDLL(str(capi / name))
            except OSError as error:
                if "cannot open shared object" in str(error) or os.name == "nt":
                    why = first_line(error)
    return (
        f"ONNX Runtime cannot load its CUDA libraries ({why}); install the CUDA and cuDNN versions that "
        f"onnxruntime-gpu {onnxruntime.__version__} names, or use the CPU"
    )


def _opened_on_cpu(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    try:
        return _session(_model(path), [_CPU], threads)
    except Exception as error:
        raise ModelError(f"{path}: cannot be opened ({first_line(error)}); fetch or export the model again") from error


def _model(path: Path) -> str | bytes:
    """Return the file's path, or its content where the path is not valid UTF-8, which ONNX Runtime requires."""
    text = native_path(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return path.read_bytes()
    return text


def _session(model: str | bytes, providers: list[str], threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal only: errors come as exceptions, and standard error belongs to the caller
    # Threads that spin while they wait for work would take the CPU from the decoding threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Small blocks of work, so that no thread waits long for one that another process slows down.
    options.add_session_config_entry("session.dynamic_block_base", "4")
    # No fallback to the CPU: it prints to standard output and hides the reason.
    return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)


def _keeps_weights_elsewhere(path: Path) -> bool:
    """Tell whether an ONNX file has tensors whose values lie in other files; True for some damaged files too."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # Such a tensor names its file under this key. The search takes milliseconds, parsing up to a second.
        if data.find(b"location") < 0:
            return False
        ends = [(0, len(data), "model")]
        while ends:
            position, end, kind = ends.pop()
            while position < end:
                tag, position = _varint(data, position, end)
                number, wire = tag >> 3, tag & 7
                if kind == "tensor" and number == _EXTERNAL_DATA:
                    return True
                if wire == 0:
                    value, position = _varint(data, position, end)
                    if kind == "tensor" and number == _DATA_LOCATION and value:
                        return True
                elif wire == 2:
                    length, position = _varint(data, position, end)
                    if inner := _INNER.get(kind, {}).get(number):
                        ends.append((position, position + length, inner))
                    position += length
                elif wire in (1, 5):
                    position += 8 if wire == 1 else 4
                else:
                    return True
            if position > end:
                return True
    return False


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    return value, end + 1  # cut off or too long
