package ldm

import (
	"slices"
	"strings"
)

// OpenCLIP's names of the second text encoder. Query, key and value are one matrix there, one above the other, and
// the projection is the transpose of diffusers' linear layer.

var openOutside = pairs{
	{"text_model.embeddings.token_embedding", "token_embedding"},
	{"text_model.embeddings.position_embedding.weight", "positional_embedding"},
	{"text_model.final_layer_norm", "ln_final"},
}

var openLayer = pairs{
	{"layer_norm1", "ln_1"},
	{"layer_norm2", "ln_2"},
	{"mlp.fc1", "mlp.c_fc"},
	{"mlp.fc2", "mlp.c_proj"},
	{"self_attn.out_proj", "attn.out_proj"},
}

var openLayers = pairs{{"text_model.encoder.layers", "transformer.resblocks"}}

const (
	openProjection = "text_projection"
	projection     = "text_projection.weight"
	fusedPrefix    = "attn.in_proj_" // + weight or bias
)

// fusedParts are the projections in the order of the fused matrix.
var fusedParts = [3]string{"self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."}

// layerOf translates the beginning of a layer's tensor, up to the layer's number, and gives the rest as it is.
func layerOf(name string, to layout) (layer, inner string, ok bool) {
	name, ok = openLayers.translate(name, to)
	beginning := openLayers[0][to] + "."
	if !ok || len(name) < len(beginning) {
		return "", "", false
	}
	number, inner, _ := strings.Cut(name[len(beginning):], ".")
	return beginning + number + ".", inner, true
}

// openTranslate gives the name in the other layout of a tensor that is neither fused nor transposed.
func openTranslate(name string, to layout) (string, bool) {
	if other, ok := openOutside.translate(name, to); ok {
		return other, true
	}
	layer, inner, ok := layerOf(name, to)
	if !ok {
		return "", false
	}
	inner, ok = openLayer.translate(inner, to)
	return layer + inner, ok
}

// fusedOf takes a fused OpenCLIP tensor's name apart: the layer's diffusers name and "weight" or "bias".
func fusedOf(name string) (layer, kind string, ok bool) {
	layer, inner, _ := layerOf(name, diffusers)
	kind, ok = strings.CutPrefix(inner, fusedPrefix)
	return layer, kind, ok && (kind == "weight" || kind == "bias")
}

// partOf takes the diffusers name of a query, key or value projection apart: the fused tensor's name and its place.
func partOf(name string) (fused string, place int, ok bool) {
	layer, inner, _ := layerOf(name, ldm)
	for i, part := range fusedParts {
		if kind, ok := strings.CutPrefix(inner, part); ok && (kind == "weight" || kind == "bias") {
			return layer + fusedPrefix + kind, i, true
		}
	}
	return "", 0, false
}

// transformersName gives a tensor of transformers' text encoder its name with text_model. before it, which transformers 5
// has no longer.
func transformersName(name string) (string, bool) {
	if name == projection {
		return name, true
	}
	inner := strings.TrimPrefix(name, "text_model.")
	for _, begins := range []string{"embeddings.token_embedding.", "embeddings.position_embedding.", "final_layer_norm."} {
		if strings.HasPrefix(inner, begins) {
			return "text_model." + inner, true
		}
	}
	f := strings.SplitN(inner, ".", 5)
	if len(f) < 5 || f[0] != "encoder" || f[1] != "layers" {
		return "", false
	}
	_, ok := number(f[2])
	return "text_model." + inner, ok && slices.Contains([]string{"self_attn", "mlp", "layer_norm1", "layer_norm2"}, f[3])
}
