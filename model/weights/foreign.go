package weights

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
)

// PickleAdvice is what to do with a checkpoint that Python pickled. Loading one runs whatever code is in it.
const PickleAdvice = `it is a pickled checkpoint, and loading one runs whatever code is in it: get the model as .safetensors, or convert it with PyTorch, which reads it without running anything where weights_only is set: ` +
	`python3 -c 'import sys, torch; from safetensors.torch import save_file; d = torch.load(sys.argv[1], map_location="cpu", weights_only=True); d = d.get("state_dict", d); save_file({k: v.contiguous().clone() for k, v in d.items() if hasattr(v, "shape")}, sys.argv[2])' IN.ckpt OUT.safetensors`

// foreign says what a file is that does not begin as a safetensors file does, by its first bytes and its name; nil where
// it cannot tell.
func foreign(path string, head []byte) error {
	begins := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	extension := strings.ToLower(filepath.Ext(path))
	switch {
	case begins("PK\x03\x04"), begins("\x80\x02"), begins("\x80\x03"), begins("\x80\x04"), begins("\x80\x05"),
		extension == ".ckpt", extension == ".pt", extension == ".pth":
		return fmt.Errorf("%s", PickleAdvice)
	case begins("version https://git-lfs"):
		return fmt.Errorf("it is a Git LFS pointer, not the file itself: run 'git lfs pull' in its repository")
	case begins("GGUF"):
		return fmt.Errorf("it is a GGUF file: only safetensors files can be read")
	case begins("\x89HDF"):
		return fmt.Errorf("it is an HDF5 file: only safetensors files can be read")
	case bytes.HasPrefix(bytes.ToLower(bytes.TrimSpace(head)), []byte("<!doctype")), bytes.HasPrefix(bytes.ToLower(bytes.TrimSpace(head)), []byte("<html")):
		return fmt.Errorf("it is a web page, not the model: the download needs a login, or its address names a page")
	case len(head) > 32 && bytes.Count(head, []byte{0}) == len(head):
		return fmt.Errorf("it begins with zeros: an unfinished download")
	}
	return nil
}
