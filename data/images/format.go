package images

import (
	"bytes"
	"encoding/binary"
	"path"
	"slices"
	"strings"
)

// formatOf tells a file's format by its first bytes.
func formatOf(b []byte) string {
	starts := func(s string) bool { return bytes.HasPrefix(b, []byte(s)) }
	switch {
	case starts("\xff\xd8\xff"):
		return "JPEG"
	case starts("\x89PNG\r\n\x1a\n"):
		return "PNG"
	case starts("RIFF") && len(b) >= 12 && string(b[8:12]) == "WEBP":
		return "WebP"
	case starts("GIF87a"), starts("GIF89a"):
		return "GIF"
	case starts("BM"):
		return "BMP"
	case starts("II*\x00"), starts("MM\x00*"):
		return "TIFF"
	case starts("\xff\x0a"), starts("\x00\x00\x00\x0cJXL \r\n\x87\n"):
		return "JPEG XL"
	case starts("\x00\x00\x00\x0cjP  "), starts("\xff\x4f\xff\x51"):
		return "JPEG 2000"
	case len(b) >= 12 && string(b[4:8]) == "ftyp":
		size := min(int(binary.BigEndian.Uint32(b)), len(b))
		brands := []string{string(b[8:12])}
		for at := 16; at+4 <= size; at += 4 {
			brands = append(brands, string(b[at:at+4]))
		}
		if slices.Contains(brands, "avif") || slices.Contains(brands, "avis") {
			return "AVIF"
		}
		for _, heic := range []string{"heic", "heix", "hevc", "heim", "heis", "mif1", "msf1"} {
			if slices.Contains(brands, heic) {
				return "HEIC"
			}
		}
		return "video"
	case starts("8BPS"):
		return "PSD"
	case starts("\x76\x2f\x31\x01"):
		return "OpenEXR"
	case starts("\x00\x05\x16\x07"):
		return "AppleDouble"
	case starts("version https://git-lfs"):
		return "LFS"
	}
	head := strings.ToLower(string(bytes.TrimLeft(b[:min(len(b), 512)], "\ufeff \t\r\n")))
	switch {
	case strings.HasPrefix(head, "<!doctype html"), strings.HasPrefix(head, "<html"):
		return "HTML"
	case strings.HasPrefix(head, "<svg"), strings.HasPrefix(head, "<?xml"):
		return "SVG"
	}
	return ""
}

// unreadable says of known formats that are not decoded what they are.
var unreadable = map[string]string{
	"JPEG XL":     "a JPEG XL image; convert it, as with 'djxl in.jxl out.png'",
	"HEIC":        "a HEIC image; convert it, as with 'heif-convert in.heic out.png'",
	"JPEG 2000":   "a JPEG 2000 image; convert it to PNG or JPEG",
	"PSD":         "a Photoshop document; export it as PNG",
	"OpenEXR":     "an OpenEXR image; convert it to PNG",
	"AppleDouble": "macOS' notes on another file (AppleDouble); remove it",
	"LFS":         "a Git LFS pointer; fetch the file itself with 'git lfs pull'",
	"HTML":        "an HTML page, such as a server's error in an image's place",
	"SVG":         "an SVG or XML document; draw it as PNG",
	"video":       "a video or another ISO media file",
}

// extensions of image files: the second value says whether the format is decoded.
var extensions = map[string]bool{
	".jpg": true, ".jpeg": true, ".jpe": true, ".jfif": true, ".png": true, ".apng": true, ".webp": true, ".avif": true,
	".gif": true, ".bmp": true, ".dib": true, ".tif": true, ".tiff": true,
	".jxl": false, ".heic": false, ".heif": false, ".hif": false, ".jp2": false, ".j2k": false, ".psd": false, ".exr": false,
	".svg": false, ".ico": false, ".tga": false, ".ppm": false, ".pgm": false, ".pbm": false, ".pnm": false, ".qoi": false,
	".hdr": false, ".dds": false, ".raw": false, ".dng": false, ".cr2": false, ".nef": false, ".arw": false,
}

// IsName says whether a file's name is an image's, of a format that is decoded or of one that is known and not.
func IsName(name string) bool {
	_, known := extensions[strings.ToLower(path.Ext(name))]
	return known
}
