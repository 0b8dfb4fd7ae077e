#!/usr/bin/env python3
"""Gathers what XLA found out about kernels into the file that comes with fewstep.

Each FILE is a text that XLA wrote with --xla_gpu_dump_autotune_results_to=FILE.textproto. The entries of the file that is
there stay; a later FILE's entry replaces an earlier one for the same device, fusion and code generator.

  for s in adv-full adv-lora mse-lora forward; do
    XLA_FLAGS=--xla_gpu_dump_autotune_results_to=$s.textproto FEWSTEP_PROGRAM_CACHE=off \\
      bin/fewstep bench --preset sdxl --step $s --batch 1 --compute bf16 --frozen bf16 --granularity layer
  done
  scripts/tuned.py *.textproto
"""
import gzip, pathlib, re, sys

target = pathlib.Path(__file__).parent.parent / "internal/xla/tuned.textproto.gz"
if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
    sys.exit(__doc__)
entries = {}
before = 0
for path in [target, *map(pathlib.Path, sys.argv[1:])]:
    text = (gzip.open(path, "rt") if path.suffix == ".gz" else open(path)).read()
    blocks = re.findall(r"^entries \{\n.*?^\}\n", text + "\n", re.S | re.M)
    if "".join(blocks).strip() != text.strip():
        sys.exit(f"{path}: more than entries in it; was the dump cut off?")
    for b in blocks:
        key = re.search(r"  key \{.*?\n  \}\n", b, re.S)
        if not key:
            sys.exit(f"{path}: an entry without key:\n{b}")
        entries[key.group(0)] = b
    if path == target:
        before = len(entries)
with target.open("wb") as f:
    f.write(gzip.compress("".join(entries[k] for k in sorted(entries)).encode(), 9, mtime=0))
print(f"{target}: {before} entries before, {len(entries)} now")
