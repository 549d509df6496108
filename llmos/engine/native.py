"""The kernels of `kernels/`, built once by the machine's own C compiler for its own processor (`compiled`).

Where there is neither a compiler nor an earlier build, no AVX2, or no folder to keep the result in,
`library` returns None and the engine computes in bfloat16 with torch. Whoever can write as this user where
they are kept can replace the weights beside them as well. A small product is tried before the kernels are
used.
"""

from __future__ import annotations

import ctypes
import logging
import platform
import struct
from functools import cache
from pathlib import Path

from llmos import compiled, paths

log = logging.getLogger(__name__)

_SOURCES = Path(__file__).with_name("kernels")
_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-pthread")
_LIBRARIES = ("-lm",)
SPINS = 20_000  # pauses that a waiting thread makes before it sleeps


class Part(ctypes.Structure):
    """As in products.h, like `Matrix`; `Layer` and `Model` as in forward.c."""

    _fields_ = (("blocks", ctypes.c_void_p), ("rows", ctypes.c_int32), ("kind", ctypes.c_int32))


class Matrix(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("parts", "bias", "low", "high")),
        *((name, ctypes.c_int32) for name in ("num_parts", "rows", "columns")),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        *((name, Matrix) for name in ("qkv", "out", "gate_up", "down")),
        *((f"{part}_norm", ctypes.c_void_p) for part in ("attention", "feed_forward")),
        *((f"{part}_norm", ctypes.c_void_p) for part in ("attention_post", "feed_forward_post", "q", "k")),
        *(("cos", ctypes.c_void_p), ("sin", ctypes.c_void_p), ("window", ctypes.c_int32)),
    )


class Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        *((name, ctypes.c_int32) for name in ("num_layers", "hidden", "intermediate")),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "head_dim", "gelu")),
        *(("eps", ctypes.c_float), ("attention_scale", ctypes.c_float)),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, built if need be; None where they cannot be had. May start the compiler."""
    if platform.machine() != "x86_64":
        log.info("no kernels of our own: not an x86-64 processor")
        return None
    try:
        recipe = compiled.Recipe(
            _SOURCES, ("forward.c",), _FLAGS, _LIBRARIES, suffix=".so", processor=_processor()
        )
        return _loaded(compiled.built(recipe, paths.kernels_dir()))
    except OSError as error:
        log.info("no kernels of our own: %s", error)
        return None


def _processor() -> bytes:
    """What `-march=native` looks at: a store that is shared by several machines keeps a build for each."""
    wanted = ("vendor_id", "cpu family", "model\t", "flags")
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(wanted)).encode()


def _loaded(file: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(file))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    found.llmos_start.argtypes = (number, ctypes.c_long)
    found.llmos_product.argtypes = (
        ctypes.POINTER(Matrix),
        number,
        pointer,
        pointer,
        number,
        pointer,
        pointer,
    )
    found.llmos_product.restype = None
    found.llmos_forward.argtypes = (ctypes.POINTER(Model), *[number] * 4, *[pointer] * 7)
    found.llmos_forward.restype = None
    _try_out(found)
    return found


def _try_out(kernels: ctypes.CDLL) -> None:
    """Raises OSError unless eight rows of ones, scaled by 1 to 8, times 1 to 32 are what they should be."""
    block = struct.pack("<8e", *range(1, 9)) + b"\x99" * 128  # 4 bits: 9 - 8 is one
    held = ctypes.create_string_buffer(block, len(block))
    part = Part(blocks=ctypes.addressof(held), rows=8, kind=2)
    matrix = Matrix(parts=ctypes.addressof(part), num_parts=1, rows=8, columns=32)
    x, out = (ctypes.c_float * 32)(*range(1, 33)), (ctypes.c_float * 8)()
    groups = ctypes.create_string_buffer(64)
    kernels.llmos_product(ctypes.byref(matrix), 1, x, None, 1, groups, out)
    if any(abs(out[row] / (528 * (row + 1)) - 1) > 0.01 for row in range(8)):
        raise OSError("the kernels compute something else than they should")


def identity() -> str:
    """Of the kernels in use: their source, compiler flags and processor; empty where there are none."""
    kernels = library()
    return Path(kernels._name).stem if kernels else ""


def start(threads: int) -> None:
    """Have `threads` threads share each product; the helpers live as long as the process."""
    if library.cache_info().currsize and (kernels := library()) is not None:
        kernels.llmos_start(threads, SPINS)
