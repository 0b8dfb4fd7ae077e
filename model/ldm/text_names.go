package ldm

import (
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

const (
	openLayers      = "transformer.resblocks."
	diffusersLayers = "text_model.encoder.layers."
	openProjection  = "text_projection"
	projection      = "text_projection.weight"
	fusedPrefix     = "attn.in_proj_" // + weight or bias
)

// fusedParts are the projections in the order of the fused matrix.
var fusedParts = [3]string{"self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."}

// openToLDM gives the OpenCLIP name of a diffusers tensor that is neither fused nor transposed.
func openToLDM(name string) (string, bool) {
	if ldm, ok := openOutside.toLDM(name); ok {
		return ldm, true
	}
	rest, ok := strings.CutPrefix(name, diffusersLayers)
	if !ok {
		return "", false
	}
	layer, rest, _ := strings.Cut(rest, ".")
	rest, ok = openLayer.toLDM(rest)
	return openLayers + layer + "." + rest, ok
}

func openToDiffusers(name string) (string, bool) {
	if diffusers, ok := openOutside.toDiffusers(name); ok {
		return diffusers, true
	}
	rest, ok := strings.CutPrefix(name, openLayers)
	if !ok {
		return "", false
	}
	layer, rest, _ := strings.Cut(rest, ".")
	rest, ok = openLayer.toDiffusers(rest)
	return diffusersLayers + layer + "." + rest, ok
}

// fusedOf takes a fused OpenCLIP tensor's name apart: the layer's diffusers name and "weight" or "bias".
func fusedOf(name string) (prefix, kind string, ok bool) {
	rest, ok := strings.CutPrefix(name, openLayers)
	if !ok {
		return "", "", false
	}
	layer, rest, _ := strings.Cut(rest, ".")
	kind, ok = strings.CutPrefix(rest, fusedPrefix)
	return diffusersLayers + layer + ".", kind, ok && (kind == "weight" || kind == "bias")
}

// partOf takes the diffusers name of a query, key or value projection apart: the fused tensor's name and its place.
func partOf(name string) (fused string, place int, ok bool) {
	rest, ok := strings.CutPrefix(name, diffusersLayers)
	if !ok {
		return "", 0, false
	}
	layer, rest, _ := strings.Cut(rest, ".")
	for i, part := range fusedParts {
		if kind, ok := strings.CutPrefix(rest, part); ok && (kind == "weight" || kind == "bias") {
			return openLayers + layer + "." + fusedPrefix + kind, i, true
		}
	}
	return "", 0, false
}
