"""Writes pillow.zip: small image files of every format, orientation and mode, and beside each (NAME.rgb) what Pillow
shows of it: ImageOps.exif_transpose, transparency on white, 16 bits cut to 8, ICC profiles converted by LittleCMS.

Made with pillow 13.0.0, numpy 2.1.3; run in this folder: python pillow.py
NAME.rgb is width and height as little-endian uint32, then rows of RGB.
"""

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image, ImageCms, ImageOps

W, H = 21, 14


def base(width=W, height=H):
    y, x = np.mgrid[0:height, 0:width]
    a = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 7 % 256], -1)
    a[: height // 3, : width // 2] = [240, 30, 40]
    return a.astype(np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(a):
    """A PNG of 16 bits with 1 to 4 channels, which Pillow does not write."""
    h, w, c = a.shape
    raw = b"".join(b"\0" + a[y].astype(">u2").tobytes() for y in range(h))
    head = struct.pack(">IIBBBBB", w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def encode(img, fmt, **options):
    b = io.BytesIO()
    img.save(b, fmt, **options)
    return b.getvalue()


def shown(content, profile=None):
    img = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if img.mode.startswith("I;16"):
        return np.repeat((np.asarray(img) >> 8).astype(np.uint8)[..., None], 3, 2)
    if profile:
        img = ImageCms.profileToProfile(img, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB")
    if img.mode in ("RGBA", "LA", "PA", "P") or "transparency" in img.info:
        img = img.convert("RGBA")
        white = Image.new("RGBA", img.size, "white")
        white.alpha_composite(img)
        img = white
    return np.asarray(img.convert("RGB"))


files = {}


def put(name, content, profile=None, want=None):
    a = shown(content, profile) if want is None else want
    files[name] = content
    files[name + ".rgb"] = struct.pack("<II", a.shape[1], a.shape[0]) + np.ascontiguousarray(a).tobytes()


im = Image.fromarray(base())
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x112] = orientation
    put(f"orientation{orientation}.jpg", encode(im, "JPEG", quality=95, subsampling=0, exif=exif))
    put(f"orientation{orientation}.png", encode(im, "PNG", exif=exif))
    put(f"orientation{orientation}.webp", encode(im, "WEBP", lossless=True, exif=exif))
    put(f"orientation{orientation}.tiff", encode(im, "TIFF", tiffinfo={0x112: orientation}, compression="tiff_lzw"))
    put(f"orientation{orientation}.avif", encode(im, "AVIF", quality=100, subsampling="4:4:4", exif=exif))
xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
put("xmp6.jpg", encode(im, "JPEG", quality=95, subsampling=0, xmp=xmp))

for sampling in ("4:4:4", "4:2:2", "4:2:0"):
    put("sampled" + sampling.replace(":", "") + ".jpg", encode(im, "JPEG", quality=90, subsampling=sampling))
put("progressive.jpg", encode(im, "JPEG", quality=90, progressive=True))
put("grey.jpg", encode(im.convert("L"), "JPEG", quality=95))
cmyk = encode(im.convert("CMYK"), "JPEG", quality=100, subsampling=0)
put("cmyk.jpg", cmyk)
at = cmyk.find(b"\xff\xee")
put("cmyk_plain.jpg", cmyk[:at] + cmyk[at + 2 + struct.unpack(">H", cmyk[at + 2 : at + 4])[0] :])
put("ycck.jpg", encode(im.convert("YCbCr"), "JPEG", quality=100, subsampling=0, keep_rgb=False))
put("rgb.jpg", encode(im, "JPEG", quality=100, keep_rgb=True))

alpha = Image.fromarray((np.mgrid[0:H, 0:W][1] * 255 // (W - 1)).astype(np.uint8))
rgba, la = im.copy(), Image.merge("LA", (im.convert("L"), alpha))
rgba.putalpha(alpha)
palette = im.quantize(19)
put("rgba.png", encode(rgba, "PNG"))
put("la.png", encode(la, "PNG"))
put("palette.png", encode(palette, "PNG"))
put("palette_transparent.png", encode(palette, "PNG", transparency=int(np.asarray(palette)[0, 0])))
put("rgb_transparent.png", encode(im, "PNG", transparency=(240, 30, 40)))
put("bit.png", encode(im.convert("1"), "PNG"))
put("grey.png", encode(im.convert("L"), "PNG"))
deep = base().astype(np.uint16) * 256 + 200
put("deep_grey.png", png16(deep[..., :1]))
put("deep_rgb.png", png16(deep))
put("deep_rgba.png", png16(np.concatenate([deep, deep[..., :1]], -1)))
put("frames.png", encode(im, "PNG", save_all=True, append_images=[Image.new("RGB", im.size)]))

large = Image.fromarray(base(45, 31))
for name, picture in {"": large, "_even": Image.fromarray(base(32, 16)), "_thin": large.crop((5, 0, 6, 31)), "_flat": Image.new("RGB", (17, 17), "white")}.items():
    put(f"lossy{name}.webp", encode(picture, "WEBP", quality=80))
clear = large.copy()
clear.putalpha(Image.fromarray((np.mgrid[0:31, 0:45][0] * 8).astype(np.uint8)))
put("alpha.webp", encode(rgba, "WEBP", lossless=True, exact=True))
put("alpha_lossy.webp", encode(clear, "WEBP", quality=80))
put("frames.webp", encode(large, "WEBP", save_all=True, append_images=[Image.new("RGB", large.size)], quality=80))
put("frames_alpha.webp", encode(clear, "WEBP", save_all=True, append_images=[Image.new("RGBA", large.size)], quality=80))

put("lossy.avif", encode(large, "AVIF", quality=70))
put("alpha.avif", encode(clear, "AVIF", quality=90))
put("palette.gif", encode(palette, "GIF"))
put("transparent.gif", encode(palette, "GIF", transparency=int(np.asarray(palette)[0, 0])))
put("frames.gif", encode(palette, "GIF", save_all=True, append_images=[Image.new("P", im.size)]))
for mode in ("RGB", "L", "P", "RGBA", "1"):
    picture = {"P": palette, "RGBA": rgba}.get(mode) or im.convert(mode)
    if mode != "1":
        put(f"{mode.lower()}.bmp", encode(picture, "BMP"))
    put(f"{mode.lower()}.tiff", encode(picture, "TIFF"))
put("deflate.tiff", encode(im, "TIFF", compression="tiff_adobe_deflate"))


def xyz(v):
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(x * 65536)) for x in v)


def profile(primaries, curve, space=b"RGB "):
    tags = {b"wtpt": xyz((0.9642, 1, 0.8249))}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for name, v in zip(b"rgb", primaries):
            tags[bytes([name]) + b"XYZ"], tags[bytes([name]) + b"TRC"] = xyz(v), curve
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + b"\0" * 78
    tags[b"cprt"] = b"text\0\0\0\0none\0\0\0\0"
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, v in tags.items():
        v += b"\0" * (-len(v) % 4)
        table += name + struct.pack(">II", at + len(body), len(v))
        body += v
    head = struct.pack(">I", at + len(body)) + b"\0\0\0\0" + struct.pack(">I", 0x02400000) + b"mntr" + space + b"XYZ "
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1, 0.8249)) + b"\0" * 48
    return head + table + body


p3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
adobe = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
srgb = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + b"".join(struct.pack(">i", round(v * 65536)) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
levels = np.linspace(0, 1, 64)
table = b"curv\0\0\0\0" + struct.pack(">I", 64) + b"".join(struct.pack(">H", round(65535 * v**1.8)) for v in levels)
for name, prof in {"p3": profile(p3, srgb), "adobe": profile(adobe, gamma), "table": profile(p3, table)}.items():
    put(f"profile_{name}.png", encode(im, "PNG", icc_profile=prof), prof)
p = profile(p3, srgb)
put("profile_p3.jpg", encode(im, "JPEG", quality=95, subsampling=0, icc_profile=p), p)
put("profile_p3.webp", encode(im, "WEBP", lossless=True, icc_profile=p), p)
put("profile_p3.avif", encode(im, "AVIF", quality=100, subsampling="4:4:4", icc_profile=p), p)
put("profile_p3.tiff", encode(im, "TIFF", icc_profile=p), p)

with zipfile.ZipFile("pillow.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
    for name in sorted(files):
        z.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
print(len(files) // 2, "files")
