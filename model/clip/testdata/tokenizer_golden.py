"""Writes tokenizer_golden.json: what transformers' CLIPTokenizer makes of a list
of strings with the project's own tokenizer folders.

    pip install transformers==5.23.0 tokenizers==0.23.3
    python3 tokenizer_golden.py
"""
import json
import os
import random
import shutil
import tempfile

import tokenizers
import transformers

here = os.path.dirname(os.path.abspath(__file__))
assets = here

texts = [
    "", " ", "\n\t ", "a", "A", "1", "2026", "!", "!!", "'", "''", "...",
    "bear, noto style", "red apple, fluent 3d style", "Grinning Face With SMILING eyes",
    "a photo of an astronaut riding a horse on mars, 8k, highly detailed",
    "it's he'd they're we've i'm she'll can't don't 'tis rock'n'roll 'S 'T",
    "it''s ''s '''s !'s ,'re x'y 's's'd'm", "it’s “quoted” – dashed — … ‘single’",
    "hello world!", "hello! world!! (yes)", "wow!!!", "! !", "50% off, $3.99 & more #tag @user",
    "a_b-c/d\\e|f", "snake_case and kebab-case", "x=1;y=2", "3d 8k 4x4 1st 22nd v1.5",
    "  leading and   many\t\tblanks\r\n and lines  ", "no\u00a0break\u2003em\u3000ideographic\u200bzero\ufeffbom",
    "a\u0085b\u1680c\u2028d\u2029e\u202ff\u205fg\x1ch\x0bi\x0cj\x00k\x7fl",
    "café naïve façade Ångström über", "cafe\u0301 a\u030a o\u0302\u0323", "ÅÄÖ ÇĞİŞ ıi İstanbul",
    "ΣΊΣΥΦΟΣ ΑΣ", "Привет МИР", "北京 東京タワー 서울", "שלום עולם", "مرحبا ١٢٣", "हिन्दी नमस्ते", "ไทย ประเทศ",
    "½ ² ³ Ⅷ ⅷ ① ٣ 四", "ß ẞ ŉ ǰ ΐ", "ﬁ ﬂ ﬀ ſ K Å Ω", "ǅ ǆ Ǆ", "𝔘𝔫𝔦 𝟙𝟚 𐐀𐐨",
    "🐻 bear 😀😁 👩‍🚀 🏴‍☠️ 1️⃣", "♥ ★ → ∞ ≠ €", "a\u0308\u0308 \u0301x", "क् षि", "a\u00adb soft",
    "<|startoftext|> <|endoftext|>", "a<|endoftext|>b", "<|STARTOFTEXT|>x<|EndOfText|>!!",
    "<|startoftext|>!!!a", "<|startoftext| >", "!<|endoftext|>!", "</w> <w> &amp; <br/>",
    "word " * 40, "!" * 80, "supercalifragilisticexpialidocious" * 3,
    "flag of st pierre and miquelon, fluent 3d style", "zzzz qqqq xylophone jazz quartz",
    "caption\ufffdwith\ufffdreplacement", "e\u0301\u0301" * 9, "\U0001f1e9\U0001f1ea flag", "\ud7a3\u1100\u1161\u11a8",
]
rng = random.Random(7)
pools = ["abcdefghij XYZ '!,.-", "0123456789 abc%", "éèßÆøЖдλΩ日本語 한글\u0301\u200d", "'stdrevml <|>x"]
for i in range(24):
    texts.append("".join(rng.choice(pools[i % 4]) for _ in range(rng.randint(3, 40))))

# SDXL's published folders spell the special tokens as objects that are matched
# after normalisation; the vocabulary is the same.
sdxl_layout = tempfile.mkdtemp()
for name in ("vocab.json", "merges.txt"):
    shutil.copy(os.path.join(assets, "tokenizer_2", name), sdxl_layout)
token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
spec = {
    "bos_token": {"content": "<|startoftext|>", **token},
    "eos_token": {"content": "<|endoftext|>", **token},
    "unk_token": {"content": "<|endoftext|>", **token},
    "pad_token": "!",
}
with open(os.path.join(sdxl_layout, "special_tokens_map.json"), "w") as f:
    json.dump(spec, f)
typed = {k: {"__type": "AddedToken", **v} if isinstance(v, dict) else v for k, v in spec.items()}
with open(os.path.join(sdxl_layout, "tokenizer_config.json"), "w") as f:
    json.dump({"model_max_length": 32, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True,
               "add_prefix_space": False, "errors": "replace", **typed}, f)

folders = {
    "tokenizer": os.path.join(assets, "tokenizer"),
    "tokenizer_2": os.path.join(assets, "tokenizer_2"),
    "sdxl_layout": sdxl_layout,
}
cases = {}
for name, folder in folders.items():
    tok = transformers.CLIPTokenizer.from_pretrained(folder)
    assert tok.model_max_length == 32, tok.model_max_length
    assert tok.get_vocab()["<|endoftext|>"] == 2047
    cases[name] = {
        str(n): [tok(t, padding="max_length", max_length=n, truncation=True).input_ids for t in texts]
        for n in (16, 96)
    }
    # Padding repeats one id to the end; cut it off to keep the file small.
    for encodings in cases[name].values():
        for ids in encodings:
            while len(ids) > 1 and ids[-1] == ids[-2] == tok.pad_token_id:
                ids.pop()
config = json.load(open(os.path.join(sdxl_layout, "tokenizer_config.json")))
with open(os.path.join(here, "tokenizer_golden.json"), "w") as f:
    json.dump({"transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
               "sdxl_config": config, "sdxl_special": spec, "texts": texts, "ids": cases}, f, separators=(",", ":"))
    f.write("\n")
