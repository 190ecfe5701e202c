#!/usr/bin/env python3
"""Make the golden data of the number formats, crates/rustml-kernels/tests/data/formats/.

    pip install gguf numpy
    scripts/reference/make_formats.py [path/to/libggml-base.so]

What it writes (small letters of the type's name; numbers little endian):

    TYPE.blocks    random blocks: every bit pattern of the codes, scales of ordinary size, and some
                   of zero, of the smallest subnormal and of the other sign
    TYPE.values    the float32 values of those blocks, by `gguf.quants.dequantize`
    weights.f16    4096 numbers in half precision, distributed like weights
    TYPE.encoded   the blocks of those weights, by `gguf.quants.quantize`, for the types it knows
    errors.txt     per type, the relative error sqrt(sum (x - y)^2 / sum x^2) that GGML's own
                   quantiser makes on those weights; written only if GGML's library is given (it
                   comes with llama-cpp-python), kept as it is otherwise

Everything is seeded: the same versions make the same files. Made with gguf 0.19.0, numpy 2.4.6 and
GGML 0.25.3.
"""

import ctypes
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

OUT = Path(__file__).resolve().parents[2] / "crates/rustml-kernels/tests/data/formats"

# Where the half-precision scales lie in a block.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}
# What came later has random numbers of its own, so that the files before it stay as they are. Where the
# exponents lie that are scales.
EXPONENTS = {"MXFP4": [0]}
QUANTIZED = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def blocks(name, rng):
    length, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    count = 1024 // length
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for position in HALVES.get(name, []):
        scale = rng.uniform(0.001, 0.1, count).astype(np.float16)
        scale[1] = -scale[1]
        scale[2] = 0
        scale[3] = np.float16(6e-8)
        data[:, position : position + 2] = scale.view(np.uint8).reshape(count, 2)
    for position in EXPONENTS.get(name, []):
        exponent = rng.integers(100, 130, count, dtype=np.uint8)
        exponent[1:6] = [0, 1, 2, 253, 254]
        data[:, position] = exponent
    return data


def weights(rng):
    rows = np.concatenate([rng.standard_normal((8, 256)), rng.standard_t(5, (8, 256))])
    rows *= np.exp(rng.normal(-3.5, 0.5, (16, 1)))
    rows[3, :64] = 0
    rows[5, 32:64] = 0.25  # all equal: no range
    rows[6, :32] = np.abs(rows[6, :32]) + 0.1  # no value below zero
    rows[7, ::2] = -rows[7, 1::2]  # two peaks of the same size
    return rows.astype(np.float16)


def ggml_errors(library, data):
    ggml = ctypes.CDLL(library)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    x = np.ascontiguousarray(data.astype(np.float32))
    for name in [*HALVES, *EXPONENTS]:
        kind = GGMLQuantizationType[name]
        length, size = GGML_QUANT_SIZES[kind]
        out = np.zeros((x.shape[0], x.shape[1] // length * size), dtype=np.uint8)
        written = ggml.ggml_quantize_chunk(kind.value, x.ctypes.data, out.ctypes.data, 0, *x.shape, None)
        assert written == out.size, name
        error = np.sqrt(np.sum((dequantize(out, kind).astype(np.float64) - x) ** 2) / np.sum(x.astype(np.float64) ** 2))
        yield f"{name} {error:.6f}\n"


def write_blocks(name, rng):
    data = blocks(name, rng)
    kind = GGMLQuantizationType[name]
    (OUT / f"{name.lower()}.blocks").write_bytes(data.tobytes())
    with np.errstate(over="ignore"):
        values = dequantize(data.reshape(1, -1), kind)
    (OUT / f"{name.lower()}.values").write_bytes(values.astype("<f4").tobytes())


def main():
    rng = np.random.default_rng(20251122)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in ["F16", "BF16", *HALVES]:
        write_blocks(name, rng)
    data = weights(rng)
    for name in EXPONENTS:
        write_blocks(name, np.random.default_rng(20261201))
    (OUT / "weights.f16").write_bytes(data.tobytes())
    for name in QUANTIZED:
        encoded = quantize(data.astype(np.float32), GGMLQuantizationType[name])
        (OUT / f"{name.lower()}.encoded").write_bytes(encoded.tobytes())
    if len(sys.argv) > 1:
        (OUT / "errors.txt").write_text("".join(ggml_errors(sys.argv[1], data)))


if __name__ == "__main__":
    main()
