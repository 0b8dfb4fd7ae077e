"""Writes testdata/inception and testdata/open_clip*: the feature networks of the evaluation with random weights.

Made with torch 2.15.0, torchvision 0.29.2, pytorch-fid 0.3.0, open_clip_torch 3.3.0, ftfy 6.3.1, numpy 2.4.6;
run as
    python model/golden/generate_features.py
Weights and images are drawn from names as in generate.py, so that only outputs are stored: golden.safetensors has
out.*, tensors.json the state dict's names and shapes.
"""

import gzip
import hashlib
import json
import os
import tempfile

import numpy as np
import open_clip
import torch
from pytorch_fid import inception as fid
from safetensors.numpy import save_file

from generate import HERE, uniform


def weight(name, shape):
    """As Inception in internal/drawn: the scale of activations stays over the depth of the network."""
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


def clip_weight(name, shape):
    """As openCLIPWeight in openclip_test.go: norms' gains about 1, biases and embeddings small."""
    u = uniform(name, int(np.prod(shape, dtype=np.int64)))
    if name.endswith("bias") or "embedding" in name:
        u = 0.3 * u
    elif ".ln_" in "." + name:
        u = 1 + 0.3 * u
    elif name == "logit_scale":
        u = u + 3
    elif len(shape) > 1:
        u = u * np.sqrt(3 / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(u).reshape(shape).astype(np.float32))


TEXTS = ["bear, noto style", "A “red” apple &amp; it's ﬁne", "  Two\tcats!!  on a   mat ", "ＦＵＬＬ width ｶﾅ", "&lt;b&gt;bold&lt;/b&gt; ½ cup",
         "word " * 40, "", "naïve café e\u0301", "it’s ‘quoted’", "3 dogs’ 42nd day", "<html> &amp; &rdquo;", "a\u200bb\ufeffc\x07d"]


def tokens(folder):
    """open_clip's tokenizer with the merges of a tokenizer of model/clip's tests, and with its own (padding left out)."""
    mini = os.path.join(HERE, "..", "..", "clip", "testdata", "tokenizer_2")
    merges = open(os.path.join(mini, "merges.txt"), encoding="utf-8").read().split("\n")
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "bpe.txt.gz")
        with gzip.open(path, "wt", encoding="utf-8") as f:
            f.write("\n".join(m for m in merges if m))
        tokenizer = open_clip.tokenizer.SimpleTokenizer(bpe_path=path, context_length=16)
    assert tokenizer.vocab_size == len(json.load(open(os.path.join(mini, "vocab.json"))))
    with open(os.path.join(folder, "tokens.json"), "w") as f:
        standard = [[i for i in row if i] for row in open_clip.tokenizer.SimpleTokenizer(context_length=77)(TEXTS).tolist()]
        json.dump({"texts": TEXTS, "ids": tokenizer(TEXTS).tolist(), "standard": standard}, f)
        f.write("\n")


def clip():
    vocabulary = 2048  # the mini tokenizer's
    config = {"embed_dim": 20, "quick_gelu": False,
              "vision_cfg": {"image_size": 18, "layers": 2, "width": 44, "head_width": 11, "patch_size": 5, "mlp_ratio": 4.3637},
              "text_cfg": {"context_length": 16, "vocab_size": vocabulary, "width": 24, "heads": 3, "layers": 3}}
    for case in ("open_clip", "open_clip_quick"):
        config["quick_gelu"] = case == "open_clip_quick"
        model = open_clip.CLIP(**config).eval()
        shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
        model.load_state_dict({k: clip_weight(k, tuple(v)) for k, v in shapes.items()})
        image = torch.from_numpy(uniform("open_clip.image", 2 * 3 * 18 * 18).reshape(2, 3, 18, 18).astype(np.float32) * 1.7)
        ids = torch.tensor([[2046, 7, 300, 41, 2047] + [0] * 11, [2046] + [900 + 3 * i for i in range(14)] + [2047]])
        with torch.no_grad():
            outputs = {"image": model.encode_image(image), "text": model.encode_text(ids), "logits": model.get_logits(image, ids)[0]}
        save(case, outputs, shapes)
        folder = os.path.join(HERE, case)
        with open(os.path.join(folder, "open_clip_config.json"), "w") as f:
            json.dump({"model_cfg": config, "preprocess_cfg": {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)}}, f, indent=1)
            f.write("\n")
    tokens(os.path.join(HERE, "open_clip"))
    for name in ("ViT-H-14", "ViT-g-14"):
        config = open_clip.get_model_config(name)
        with torch.device("meta"):
            model = open_clip.CLIP(**config)
        lines = sorted(f"{k} {list(v.shape)}\n" for k, v in model.state_dict().items())
        folder = os.path.join(HERE, "open_clip", name)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "open_clip_config.json"), "w") as f:
            json.dump({"model_cfg": config}, f, indent=1)
            f.write("\n")
        with open(os.path.join(folder, "digest.json"), "w") as f:
            json.dump({"parameters": sum(v.numel() for v in model.state_dict().values()),
                       "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    inception()
    clip()
