// Package prediction says what a diffusion network predicts, and of which noise. A checkpoint tells it in many places, and
// each program reads another: this package reads them all, makes one value of them, and writes them all.
//
//	tensors v_pred, ztsnr             ComfyUI, A1111, InvokeAI: markers without values
//	tensors edm_vpred.*, edm_mean     EDM's noise (CosXL, Playground)
//	modelspec.prediction_type, .predict_key, ss_v_parameterization, ss_zero_terminal_snr
//	                                  metadata of Stability AI's standard and of sd-scripts
//	scheduler_config.json             diffusers: _class_name, prediction_type, rescale_betas_zero_snr and others
package prediction

import (
	"encoding/json"
	"fewstep/internal/text"
	"fmt"
	"slices"
	"strings"
)

// Targets of a network, by diffusers' names.
const (
	Epsilon = "epsilon"      // the noise
	V       = "v_prediction" // √ā·ε − √(1−ā)·x0
	Sample  = "sample"       // the clean latent
)

// Markers are the tensors without values that say what a network predicts.
const (
	MarkerV       = "v_pred"
	MarkerZeroSNR = "ztsnr"
)

// Type is what a network predicts, of which noise.
type Type struct {
	Target  string // Epsilon, V or Sample
	ZeroSNR bool   // the schedule is rescaled so that nothing of the picture is left at its end
}

func (t Type) String() string {
	if t.ZeroSNR {
		return t.Target + " with zero terminal SNR"
	}
	return t.Target
}

// Said is what one place says; the zero value says nothing.
type Said struct {
	Where   string // for messages: "the tensor v_pred"
	Target  string // "" = not said
	ZeroSNR bool   // said to be so
	Foreign string // what it names that cannot be sampled here, such as "EDMEulerScheduler"
}

// Says says whether it says anything.
func (s Said) Says() bool { return s.Target != "" || s.ZeroSNR || s.Foreign != "" }

// OfTensors is what the names of a file's tensors say.
func OfTensors(names []string) Said {
	var s Said
	for _, name := range names {
		last := name[strings.LastIndexByte(name, '.')+1:]
		switch {
		case last == MarkerV:
			s.Target, s.Where = V, "the tensor "+name
		case last == MarkerZeroSNR:
			s.ZeroSNR = true
			if s.Where == "" {
				s.Where = "the tensor " + name
			}
		case strings.Contains(name, "edm_vpred."), last == "edm_mean", last == "edm_std":
			s.Foreign, s.Where = "EDM's noise", "the tensor "+name
		}
	}
	return s
}

// IsMarker says whether a tensor is there for what OfTensors reads, and holds no weights.
func IsMarker(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	return last == MarkerV || last == MarkerZeroSNR
}

// spellings of targets in metadata and configs.
var spellings = map[string]string{
	"epsilon": Epsilon, "eps": Epsilon, "noise": Epsilon,
	"v": V, "v_prediction": V, "v-prediction": V, "v_pred": V, "vpred": V, "velocity": V,
	"sample": Sample, "x0": Sample, "original_sample": Sample,
}

func parse(value string) (target, foreign string) {
	if t, ok := spellings[strings.ToLower(strings.TrimSpace(value))]; ok {
		return t, ""
	}
	return "", "the prediction type " + value
}

// Metadata keys.
const (
	keyType  = "modelspec.prediction_type"
	keyOlder = "modelspec.predict_key"
	keyV     = "ss_v_parameterization"
	keyZero  = "ss_zero_terminal_snr"
	keyOwn   = "fewstep.sampler.prediction_type"
)

// OfMetadata is what a safetensors file's string map says.
func OfMetadata(m map[string]string) Said {
	var s Said
	for _, key := range []string{keyOwn, keyType, keyOlder} {
		if value := m[key]; value != "" && s.Target == "" && s.Foreign == "" {
			s.Where = "the metadata's " + key
			s.Target, s.Foreign = parse(value)
		}
	}
	if isTrue(m[keyV]) && s.Foreign == "" && s.Target != V {
		s.Where, s.Target = "the metadata's "+keyV, V
	}
	if isTrue(m[keyZero]) {
		s.ZeroSNR = true
		if s.Where == "" {
			s.Where = "the metadata's " + keyZero
		}
	}
	return s
}

func isTrue(v string) bool { return strings.EqualFold(v, "true") || v == "1" }

// discrete are diffusers' schedulers over the discrete noise schedule that SDXL was trained with. They differ in how they
// step, not in what the network has learned.
var discrete = []string{
	"DDIMScheduler", "DDIMInverseScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler",
	"DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverSDEScheduler",
	"DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
	"IPNDMScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler",
	"PNDMScheduler", "SASolverScheduler", "TCDScheduler", "UniPCMultistepScheduler",
}

// SchedulerConfig is Said.Where of OfScheduler.
const SchedulerConfig = "scheduler_config.json"

// OfScheduler is what a scheduler_config.json says. A config of a scheduler over another noise, or of one that this
// project does not know, names it as Foreign.
func OfScheduler(raw []byte) (Said, error) {
	c := struct {
		Class    string          `json:"_class_name"`
		Target   *string         `json:"prediction_type"`
		Rescale  bool            `json:"rescale_betas_zero_snr"`
		Flow     bool            `json:"use_flow_sigmas"`
		Timestep string          `json:"timestep_type"`
		Betas    json.RawMessage `json:"trained_betas"`
	}{}
	if err := text.JSON(raw, &c); err != nil {
		return Said{}, fmt.Errorf("scheduler config: %w", err)
	}
	s := Said{Where: SchedulerConfig, ZeroSNR: c.Rescale}
	switch {
	case strings.HasPrefix(c.Class, "EDM"):
		s.Foreign = "EDM's noise (" + c.Class + ")"
	case strings.Contains(c.Class, "Flow"):
		s.Foreign = "flow matching (" + c.Class + ")"
	case c.Class != "" && !slices.Contains(discrete, c.Class):
		s.Foreign = "the scheduler " + c.Class
	case c.Flow:
		s.Foreign = "flow matching (use_flow_sigmas)"
	case c.Timestep == "continuous":
		s.Foreign = "EDM's noise (timestep_type continuous)"
	case len(c.Betas) > 0 && string(c.Betas) != "null":
		s.Foreign = "a noise schedule of its own (trained_betas)"
	case c.Target != nil:
		s.Target, s.Foreign = parse(*c.Target)
	}
	return s, nil
}

// Of makes one value of what several places say, the first of which counts where they contradict each other; notes tell
// of that. What nobody says is ε-prediction on the schedule as it is. The error names what cannot be sampled.
func Of(said ...Said) (t Type, notes []string, err error) {
	var by Said
	for _, s := range said {
		if s.Foreign != "" {
			return t, nil, fmt.Errorf("%s names %s: only epsilon, v and sample prediction over SDXL's discrete noise schedule can be sampled and trained", s.Where, s.Foreign)
		}
		t.ZeroSNR = t.ZeroSNR || s.ZeroSNR
		switch {
		case s.Target == "":
		case by.Target == "":
			by = s
		case s.Target != by.Target:
			notes = append(notes, fmt.Sprintf("%s says that the network predicts %s, and %s says %s: the first is taken", by.Where, by.Target, s.Where, s.Target))
		}
	}
	t.Target = by.Target
	if t.Target == "" {
		t.Target = Epsilon
	}
	return t, notes, nil
}

// Describe puts the type into a file's metadata, under every key that is there and, unless it is plain ε-prediction, under
// the standard's.
func (t Type) Describe(m map[string]string) {
	target := t.Target
	if target == V {
		target = "v" // the standard's word
	}
	if _, ok := m[keyType]; ok || t.Target != Epsilon || m["modelspec.sai_model_spec"] != "" {
		m[keyType] = target
	}
	if _, ok := m[keyOlder]; ok {
		m[keyOlder] = target
	}
	if _, ok := m[keyOwn]; ok {
		m[keyOwn] = t.Target
	}
	title := map[bool]string{true: "True", false: "False"}
	if _, ok := m[keyV]; ok {
		m[keyV] = title[t.Target == V]
	}
	if _, ok := m[keyZero]; ok || t.ZeroSNR {
		m[keyZero] = title[t.ZeroSNR]
	}
}

// Markers are the tensors that a single file of this type has beside its weights.
func (t Type) Markers() (names []string) {
	if t.Target == V {
		names = append(names, MarkerV)
	}
	if t.ZeroSNR {
		names = append(names, MarkerZeroSNR)
	}
	return names
}

// Schedule puts the type into a scheduler_config.json, all else of which stays; raw is returned where it says so already.
func (t Type) Schedule(raw []byte) ([]byte, error) {
	said, err := OfScheduler(raw)
	if err != nil {
		return nil, err
	}
	if (said.Target == t.Target || said.Target == "" && t.Target == Epsilon) && said.ZeroSNR == t.ZeroSNR {
		return raw, nil
	}
	settings := map[string]any{}
	if err := text.JSON(raw, &settings); err != nil {
		return nil, err
	}
	settings["prediction_type"], settings["rescale_betas_zero_snr"] = t.Target, t.ZeroSNR
	if t.ZeroSNR {
		settings["timestep_spacing"] = "trailing" // other grids leave the last timestep out, where the rescaling matters
	}
	out, err := json.MarshalIndent(settings, "", "  ")
	return append(out, '\n'), err
}
