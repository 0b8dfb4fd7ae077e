"""Writes tiles.json: what diffusers' tiled encoding and decoding make of maps whose network is a formula. The decoder
repeats every latent 2×2 times and adds its tile's first and last value; the encoder averages 2×2 pixels and adds the
same: so every tile is seen in the result.

Made with the versions of interop/requirements.txt:  python model/vae/testdata/make_tiles.py
"""
import json
import os

import torch
from diffusers import AutoencoderKL


class Decoder(torch.nn.Module):
    def forward(self, z):
        return z.repeat_interleave(2, 2).repeat_interleave(2, 3) + z[:, :, :1, :1] + z[:, :, -1:, -1:]


class Encoder(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.avg_pool2d(x, 2) + x[:, :, :1, :1] + x[:, :, -1:, -1:]


vae = AutoencoderKL(block_out_channels=(4, 4), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
                    norm_num_groups=2, latent_channels=2, use_quant_conv=False, use_post_quant_conv=False)
vae.decoder, vae.encoder = Decoder(), Encoder()
cases = []
for tile, height, width in [(8, 4, 9), (8, 14, 5), (16, 17, 22), (24, 25, 13), (8, 7, 7)]:
    vae.tile_sample_min_size, vae.tile_latent_min_size = tile, tile // 2
    z = torch.sin(torch.arange(2 * height * width, dtype=torch.float32) * 0.7).reshape(1, 2, height, width)
    x = torch.cos(torch.arange(8 * height * width, dtype=torch.float32) * 0.3).reshape(1, 2, 2 * height, 2 * width)
    last = {}
    for name, out in {"decoded": vae.tiled_decode(z).sample, "encoded": vae._tiled_encode(x)}.items():
        last[name] = [float(f"{v:.7g}") for v in out[0].permute(1, 2, 0).flatten().tolist()]
    cases.append({"tile": tile, "height": height, "width": width, **last})
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tiles.json"), "w") as f:
    json.dump(cases, f, separators=(",", ":"))
    f.write("\n")
