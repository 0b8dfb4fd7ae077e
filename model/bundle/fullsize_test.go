package bundle

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"flag"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"fewstep/model/weights"
)

var fullSize = flag.String("fullsize", "", "folder to write to: sdxl.safetensors, random weights of SDXL's size, 6.9 GB, and tuned.safetensors, another UNet, 5.1 GB")

// TestWriteFullSize writes the files that README.md's figures are measured with. It does nothing without -fullsize.
func TestWriteFullSize(t *testing.T) {
	if *fullSize == "" {
		t.Skip("-fullsize names no folder")
	}
	tensors := referenceTensors(t)
	for i, x := range tensors {
		tensors[i].Fill = func() ([]byte, error) { return randomHalves(x.Name, x.Elements()), nil }
	}
	if err := weights.Write(filepath.Join(*fullSize, "sdxl.safetensors"), tensors, nil); err != nil {
		t.Fatal(err)
	}
	var unet []weights.Tensor
	for _, x := range tensors {
		if strings.HasPrefix(x.Name, "model.diffusion_model.") {
			x.Fill = func() ([]byte, error) { return randomHalves("tuned "+x.Name, x.Elements()), nil }
			unet = append(unet, x)
		}
	}
	if err := weights.Write(filepath.Join(*fullSize, "tuned.safetensors"), unet, nil); err != nil {
		t.Fatal(err)
	}
}

// referenceTensors are names and shapes of SDXL's single file, as diffusers' converters give them; without data.
func referenceTensors(t testing.TB) []weights.Tensor {
	t.Helper()
	f, err := os.Open("../ldm/testdata/names.txt.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var tensors []weights.Tensor
	for s := bufio.NewScanner(z); s.Scan(); {
		fields := strings.Split(s.Text(), "\t")
		x := weights.Tensor{Name: fields[0], DType: weights.F16}
		for _, d := range strings.Split(fields[1], "x") {
			n, err := strconv.Atoi(d)
			if err != nil {
				t.Fatal(err)
			}
			x.Shape = append(x.Shape, n)
		}
		tensors = append(tensors, x)
	}
	return tensors
}

// randomHalves are n numbers of F16 between −1/8 and 1/8, from the name alone.
func randomHalves(name string, n int) []byte {
	h := fnv.New64a()
	h.Write([]byte(name))
	x := h.Sum64()
	out := make([]byte, 2*n+8)
	for i := 0; i < 2*n; i += 8 {
		x = x*6364136223846793005 + 1442695040888963407 // Knuth's MMIX generator
		binary.LittleEndian.PutUint64(out[i:], (x^x>>33)&0xabffabffabffabff)
	}
	return out[:2*n]
}
