package distill_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"fewstep/model/nn"
	"fewstep/model/unet"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/shapes"
)

// The networks that the method trains at SDXL's size: parameters of the UNet,
// of its adapters at rank 64 and of the discriminator's backbone, counted
// without weights.
func TestSDXLCounts(t *testing.T) {
	data, err := os.ReadFile("testdata/method.json")
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Counts map[string]int `json:"sdxl_counts"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	c := &unet.Config{InChannels: 4, OutChannels: 4, SampleSize: 128, BlockOutChannels: []int{320, 640, 1280}, LayersPerBlock: []int{2},
		DownBlockTypes:    []string{"DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"},
		UpBlockTypes:      []string{"CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"},
		TransformerLayers: []int{1, 2, 10}, AttentionHeads: []int{5, 10, 20}, CrossAttentionDim: 2048, LinearProjection: true,
		AdditionTimeDim: 256, ProjectionDim: 2816, NormGroups: 32, NormEps: 1e-5}
	backend, err := gobackend.New("")
	if err != nil {
		t.Fatal(err)
	}
	var in []shapes.Shape
	for _, dims := range [][]int{{1, 128, 128, 4}, {1}, {1, 77, 2048}, {1, 1280}, {1, 6}} {
		in = append(in, shapes.Make(dtypes.Float32, dims...))
	}
	got := map[string]int{}
	network, err := nn.Trace(backend, c.Network("", &nn.LoRA{Rank: 64, Scale: 0.125}), in...)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range network {
		if !strings.Contains(s.Name, ".lora_") {
			got["unet"] += s.Size()
			continue
		}
		got["lora_rank64"] += s.Size()
		if strings.HasSuffix(s.Name, ".lora_up") {
			continue
		}
		got["lora_modules"]++
		if len(s.Dims) == 4 {
			got["lora_conv"]++
		} else {
			got["lora_linear"]++
		}
	}
	encoder, err := nn.Trace(backend, c.Encoder(""), in...)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range encoder {
		got["discriminator_backbone"] += s.Size()
	}
	if len(m.Counts) != 6 {
		t.Fatalf("method.json has counts %v", m.Counts)
	}
	for key, want := range m.Counts {
		if got[key] != want {
			t.Errorf("%s = %d, want %d", key, got[key], want)
		}
	}
}
