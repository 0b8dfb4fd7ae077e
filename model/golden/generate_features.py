"""Writes testdata/inception and testdata/open_clip_*: the feature networks of the evaluation with random weights.

Made with torch 2.15.0, torchvision 0.29.2, pytorch-fid 0.3.0, open_clip_torch 3.3.0, numpy 2.4.6; run as
    python model/golden/generate_features.py
Weights and images are drawn from names as in generate.py, so that only outputs are stored: golden.safetensors has
out.*, tensors.json the state dict's names and shapes.
"""

import json
import os

import numpy as np
import torch
from pytorch_fid import inception as fid
from safetensors.numpy import save_file

from generate import HERE, uniform


def weight(name, shape):
    """As inceptionWeight in inception_test.go: the scale of activations stays over the depth of the network."""
    u = uniform(name, int(np.prod(shape, dtype=np.int64)))
    if name.endswith("running_var"):
        u = 1 + 0.5 * u
    elif name.endswith("bn.weight"):
        u = 1 + 0.3 * u
    elif len(shape) > 1:
        u = u * np.sqrt(6 / np.prod(shape[1:]))
    else:  # biases and running means
        u = 0.2 * u
    return torch.from_numpy(u.reshape(shape).astype(np.float32))


def save(case, outputs, shapes):
    folder = os.path.join(HERE, case)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "golden.safetensors")
    save_file({"out." + k: np.ascontiguousarray(v.detach().numpy(), dtype=np.float32) for k, v in outputs.items()}, path)
    os.chmod(path, 0o644)
    with open(os.path.join(folder, "tensors.json"), "w") as f:
        json.dump(shapes, f, indent=0)
        f.write("\n")
    print(case, os.path.getsize(path), "bytes,", {k: [round(float(v.std()), 3)] + list(v.shape) for k, v in outputs.items()})


def inception():
    fid.load_state_dict_from_url = lambda *args, **kwargs: drawn
    shapes = {}
    drawn = {}
    network = fid._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    for k, v in network.state_dict().items():
        if not k.endswith("num_batches_tracked"):
            shapes[k] = list(v.shape)
            drawn[k] = weight(k, tuple(v.shape))
    strict = torch.nn.Module.load_state_dict
    fid.torchvision.models.Inception3.load_state_dict = lambda self, state: strict(self, state, strict=False)
    model = fid.InceptionV3(output_blocks=[0, 1, 2, 3], resize_input=False, normalize_input=False).eval()
    outputs = {}
    for case, shape in {"odd": (2, 3, 107, 139), "full": (1, 3, 299, 299)}.items():
        image = torch.from_numpy(uniform("inception." + case, int(np.prod(shape))).reshape(shape).astype(np.float32))
        with torch.no_grad():
            for depth, v in zip((64, 192, 768, 2048), model(image)):
                # pytorch-fid's get_activations
                outputs[f"{case}.{depth}"] = torch.nn.functional.adaptive_avg_pool2d(v, (1, 1))[:, :, 0, 0]
    # Keras's network: the average in the last module as well.
    average = fid.FIDInceptionE_1(2048).eval()
    average.load_state_dict(model.blocks[3][2].state_dict())
    model.blocks[3][2] = average
    image = torch.from_numpy(uniform("inception.odd", 2 * 3 * 107 * 139).reshape(2, 3, 107, 139).astype(np.float32))
    with torch.no_grad():
        outputs["average.2048"] = model(image)[-1][:, :, 0, 0]
    save("inception", outputs, shapes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    inception()
