"""Writes the golden files of package weights.

python_every_dtype.safetensors  every element type, a scalar, an empty tensor, metadata
python_values.json              its values as float64, by tensor name
halffloat.json                  float32 bits and torch's float16 and bfloat16 bits

Made with safetensors 0.8.0, torch 2.15.0, numpy; run: python3 make_golden.py
"""
import json
import pathlib
import random
import struct

import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
torch.manual_seed(3)


def f32(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


special = [0.0, -0.0, 1.0, -1.0, 0.1, 65504.0, 2.0**-24, 2.0**-14, -(2.0**-20), 3.14159, 1024.5, -7.25]
tensors = {
    "f64": torch.tensor(special + [1e-300, 1e300, 1 / 3], dtype=torch.float64),
    "f32": torch.tensor(special + [1e-40, 3e38], dtype=torch.float32).reshape(2, 7),
    "f16": torch.tensor(special, dtype=torch.float16).reshape(3, 4),
    "bf16": torch.tensor(special, dtype=torch.bfloat16).reshape(3, 2, 2),
    "f8_e4m3": torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).reshape(16, 16),
    "f8_e5m2": torch.arange(256, dtype=torch.uint8).view(torch.float8_e5m2).reshape(16, 16),
    "i8": torch.tensor([-128, -1, 0, 127], dtype=torch.int8),
    "u8": torch.tensor([0, 1, 255], dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "i16": torch.tensor([-32768, 32767], dtype=torch.int16),
    "u16": torch.tensor([0, 65535], dtype=torch.uint16),
    "i32": torch.tensor([-(2**31), 2**31 - 1, 16777217], dtype=torch.int32),
    "u32": torch.tensor([2**32 - 1], dtype=torch.uint32),
    "i64": torch.tensor([-(2**63), 2**53 + 1], dtype=torch.int64),
    "u64": torch.tensor([2**63 - 1], dtype=torch.uint64),
    "scalar.alpha": torch.tensor(8.0, dtype=torch.float16),
    "empty": torch.zeros(0, 4, dtype=torch.float32),
    "b.odd \"name\" <ü>": torch.ones(1, dtype=torch.bfloat16),
}
# One metadata key: the library writes several in random order.
save_file(tensors, here / "python_every_dtype.safetensors", metadata={"made \"by\"": "python <&> ü\n"})


def number(x):
    return x if x == x and abs(x) != float("inf") else str(x)


values = {n: [number(x) for x in t.flatten().to(torch.float32).tolist()] for n, t in tensors.items()}
(here / "python_values.json").write_text(json.dumps(values))

rng = random.Random(3)
bits = [0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001, 1, 0x7FFFFF, 0x7F7FFFFF]
for anchor in (0x33000000, 0x33800000, 0x387FC000, 0x38800000, 0x477FE000, 0x477FF000, 0x47800000, 0x3F800000, 0x7F7F0000):
    bits += [anchor + d for d in (-0x2000, -0x1001, -0x1000, -0xFFF, -1, 0, 1, 0xFFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001)]
bits += [rng.getrandbits(32) for _ in range(600)]
bits += [rng.randrange(0x32800000, 0x47900000) | rng.getrandbits(1) << 31 for _ in range(1200)]  # around the F16 range
bits += [(rng.randrange(0x33000000, 0x38800000) & ~0x1FFF) | 0x1000 for _ in range(200)]  # subnormal near-ties
x = torch.tensor([b - (1 << 32) if b >= 1 << 31 else b for b in bits], dtype=torch.int32).view(torch.float32)


def halves(dtype):
    return [v & 0xFFFF for v in x.to(dtype).view(torch.int16).tolist()]


(here / "halffloat.json").write_text(
    json.dumps({"float32": bits, "float16": halves(torch.float16), "bfloat16": halves(torch.bfloat16)})
)
