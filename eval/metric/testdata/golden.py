"""Writes golden.safetensors: images of odd sizes measured by each convention in Python, with a random Inception network.

Made with torch 2.15.0, torchvision 0.29.2, pillow 12.3.0, pytorch-fid 0.3.0, clean-fid 0.1.35, torch-fidelity 0.4.0,
open_clip_torch 3.3.0, transformers 5.24.0, numpy 2.4.6; run in this folder: python golden.py
Every 8th of the 2,048 features is kept, and every 97th value of what CLIP's image encoder takes.
"""

import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from cleanfid.resize import make_resizer
from open_clip.transform import image_transform
from PIL import Image
from pytorch_fid import inception as fid
from safetensors.numpy import save_file
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from transformers import CLIPImageProcessorPil

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "..", "model", "golden"))
from generate_features import weight  # noqa: E402

source = open(os.path.join(here, "..", "..", "images", "testdata", "golden.py")).read()
exec(source[source.index("def drawn"):source.index("def smooth")])

torch.set_num_threads(1)
network = fid._inception_v3(num_classes=1008, aux_logits=False, weights=None)
values = {k: weight(k, tuple(v.shape)) for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
fid.load_state_dict_from_url = lambda *args, **kwargs: values
strict = torch.nn.Module.load_state_dict
fid.torchvision.models.Inception3.load_state_dict = lambda self, state: strict(self, state, strict=False)
clean = make_resizer("PIL", False, "bicubic", (299, 299))


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None].float()


def square(array):  # DMD2's CenterCropLongEdge
    return np.asarray(TF.center_crop(Image.fromarray(array), min(array.shape[:2])))


def lanczos(array, side):
    return np.asarray(Image.fromarray(square(array)).resize((side, side), Image.LANCZOS))


def patch(array):
    if min(array.shape[:2]) < 299:  # as DMD2's code
        return clean(array)
    return clean(np.asarray(TF.center_crop(Image.fromarray(array), 299)))


def quarter(array):
    h, w = array.shape[:2]
    return clean(np.asarray(TF.center_crop(Image.fromarray(array), [h // 2, w // 2])))


scaled = fid.InceptionV3(resize_input=False, normalize_input=False).eval()  # takes what it is given
processor = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}, resample=3)
whole = fid.InceptionV3().eval()  # pytorch-fid's own resize and scale

out = {}
for name, size in {"small": (150, 211), "large": (517, 333)}.items():
    image = drawn(*size)
    inputs = {
        "lightning.whole": (tensor(clean(image)) - 128) / 128,
        "lightning.patch": (tensor(patch(image)) - 128) / 128,
        "dmd2.whole": (tensor(clean(lanczos(image, 512))) - 128) / 128,
        "tf1.whole": (interpolate_bilinear_2d_like_tensorflow1x(tensor(image), size=(299, 299), align_corners=False) - 128) / 128,
        "mini.patch": (tensor(quarter(image)) - 128) / 128,
    }
    with torch.no_grad():
        for k, x in inputs.items():
            out[f"{name}.{k}"] = scaled(x)[0][0, :, 0, 0].numpy()[::8].copy()
        out[f"{name}.pytorch-fid.whole"] = whole(tensor(image) / 255)[0][0, :, 0, 0].numpy()[::8].copy()
    for k, image in {"lightning": image, "dmd2": lanczos(image, 256)}.items():
        x = image_transform(224, is_train=False)(Image.fromarray(image)).permute(1, 2, 0).numpy()
        out[f"{name}.{k}.clip"] = np.ascontiguousarray(x.reshape(-1)[::97])
    x = processor(Image.fromarray(drawn(*size)), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    out[f"{name}.transformers.clip"] = np.ascontiguousarray(x.reshape(-1)[::97], dtype=np.float32)
path = os.path.join(here, "golden.safetensors")
save_file(out, path)
os.chmod(path, 0o644)
print({k: [v.shape, float(v.std())] for k, v in out.items()}, os.path.getsize(path))
