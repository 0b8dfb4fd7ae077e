package main

import (
	"encoding/json"
	"fewstep/configs"
	"fmt"
	"strings"
	"testing"
)

// Several devices share a batch and, sharded, the training state: full adversarial SDXL fits eight cards of 24 GB.
func TestPlanDevices(t *testing.T) {
	const recipe = "../../configs/sdxl/lightning.yaml"
	plan := func(args ...string) (p planned) {
		t.Helper()
		out, errs, code := runCommand(t, append([]string{"plan", recipe, "--json", "--set", "train.batch=8", "--set", "train.accumulate=64"}, args...)...)
		if err := json.Unmarshal([]byte(out), &p); err != nil || code != exitOK {
			t.Fatalf("code %d, %v: %s", code, err, errs)
		}
		return p
	}
	one := plan()
	if len(one.Spread) != 0 || one.Devices != 0 {
		t.Errorf("one device: %v, %d", one.Spread, one.Devices)
	}
	eight := plan("--devices", "8", "--set", "train.shard=sharded")
	if eight.Devices != 8 || eight.Memory != eight.Spread[configs.ShardSharded] || eight.Memory > 20e9 {
		t.Errorf("eight devices, sharded: %d bytes of %v", eight.Memory, eight.Spread)
	}
	if r := eight.Spread[configs.ShardReplicated]; r < 40e9 || r >= one.Memory {
		t.Errorf("eight devices take %d bytes each replicated, one %d", r, one.Memory)
	}
	if p := plan("--tflops", "250", "--scale", "512"); len(p.Scales) != 10 || p.Scaled == "" || p.Scales[9].Devices != 512 {
		t.Errorf("scales: %+v", p.Scales)
	}
	nodes := plan("--tflops", "250", "--nodes", "2", "--gpus", "4", "--disk", "2", "--set", "train.shard=sharded")
	if nodes.Devices != 8 || nodes.Memory != eight.Memory || len(nodes.Scales) != 4 || nodes.Scales[3].Devices != 8 {
		t.Errorf("two nodes of four: %d devices, %d bytes, scales %+v", nodes.Devices, nodes.Memory, nodes.Scales)
	}
	if s := nodes.Scales; s[3].Save <= 0 || s[2].Save != 2*s[3].Save || s[3].Phase <= 0 || s[3].Phase >= s[0].Phase {
		t.Errorf("times of saving and of the phase: %+v", s)
	}
	for want, args := range map[string][]string{
		"--nodes -1": {"--nodes", "-1"}, "--nodes 2 of --gpus 0": {"--nodes", "2", "--gpus", "0"}, "--disk 0": {"--tflops", "9", "--scale", "2", "--disk", "0"},
		"3 devices take equal parts of it": {"--devices", "3"}, "--devices 0": {"--devices", "0"}, "give --tflops": {"--scale", "8"}, "--link 0": {"--scale", "8", "--link", "0"},
	} {
		if _, errs, code := runCommand(t, append([]string{"plan", recipe}, args...)...); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%v: code %d, %s", args, code, errs)
		}
	}
}

// What --devices cannot mean is refused before anything is opened.
func TestDevicesArgument(t *testing.T) {
	for _, command := range [][]string{{"bench"}, {"run", "../../configs/mini/demo.yaml", "--dir", t.TempDir()}} {
		for _, devices := range []string{"0", "-1", "two", "1025", ""} {
			if _, errs, code := runCommand(t, append(command, "--devices", devices)...); code != exitUsage || !strings.Contains(errs, fmt.Sprintf("--devices %q", devices)) {
				t.Errorf("%v --devices %q: code %d, %s", command, devices, code, errs)
			}
		}
	}
	for want, args := range map[string][]string{"2 devices take equal parts": {"--devices", "2", "--batch", "3"}, "replicated or sharded": {"--shard", "some"},
		"choose f32 or bf16": {"--reduce", "f16"}} {
		if _, errs, code := runCommand(t, append([]string{"bench", "--backend", "cpu"}, args...)...); code != exitUsage && !strings.Contains(errs, "no such backend") || code == exitUsage && !strings.Contains(errs, want) {
			t.Errorf("%v: code %d, %s", args, code, errs)
		}
	}
}
