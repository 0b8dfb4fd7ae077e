package prediction

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestOfTensors(t *testing.T) {
	for names, want := range map[string]Said{
		"a.weight":                    {},
		"a.weight v_pred":             {Target: V},
		"v_pred ztsnr":                {Target: V, ZeroSNR: true},
		"model.v_pred":                {Target: V},
		"ztsnr":                       {ZeroSNR: true},
		"edm_vpred.sigma_max":         {Foreign: "EDM's noise"},
		"edm_mean edm_std":            {Foreign: "EDM's noise"},
		"model_v_predictor.weight x0": {},
	} {
		got := OfTensors(strings.Fields(names))
		if got.Target != want.Target || got.ZeroSNR != want.ZeroSNR || got.Foreign != want.Foreign || got.Says() && got.Where == "" {
			t.Errorf("%s: %+v", names, got)
		}
	}
}

func TestOfMetadata(t *testing.T) {
	for pairs, want := range map[string]Said{
		"":                                  {},
		"modelspec.prediction_type=epsilon": {Target: Epsilon},
		"modelspec.prediction_type=v":       {Target: V},
		"modelspec.prediction_type=V":       {Target: V},
		"modelspec.prediction_type=sample":  {Target: Sample},
		"modelspec.prediction_type=flow":    {Foreign: "the prediction type flow"},
		"modelspec.predict_key=v":           {Target: V},
		"ss_v_parameterization=True":        {Target: V},
		"ss_v_parameterization=False":       {},
		"ss_zero_terminal_snr=True":         {ZeroSNR: true},
		"ss_v_parameterization=True modelspec.prediction_type=epsilon":       {Target: V}, // sd-scripts puts epsilon there by default
		"fewstep.sampler.prediction_type=sample modelspec.prediction_type=v": {Target: Sample},
	} {
		m := map[string]string{}
		for _, p := range strings.Fields(pairs) {
			key, value, _ := strings.Cut(p, "=")
			m[key] = value
		}
		got := OfMetadata(m)
		if got.Target != want.Target || got.ZeroSNR != want.ZeroSNR || got.Foreign != want.Foreign {
			t.Errorf("%s: %+v", pairs, got)
		}
	}
}

func TestOf(t *testing.T) {
	kind, notes, err := Of(Said{}, Said{Where: "a", Target: V}, Said{Where: "b", Target: Epsilon, ZeroSNR: true})
	if err != nil || kind != (Type{V, true}) || len(notes) != 1 || !strings.Contains(notes[0], "a says that the network predicts v_prediction, and b says epsilon") {
		t.Error(kind, notes, err)
	}
	if kind, notes, err := Of(); err != nil || kind != (Type{Target: Epsilon}) || notes != nil {
		t.Error(kind, notes, err)
	}
	if _, _, err := Of(Said{Target: V}, Said{Where: "here", Foreign: "EDMEulerScheduler"}); err == nil || !strings.Contains(err.Error(), "here names EDMEulerScheduler") {
		t.Error(err)
	}
}

// What is written is what is read, everywhere.
func TestWritesWhatItReads(t *testing.T) {
	const scheduler = `{"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "timestep_spacing": "leading"}`
	for _, kind := range []Type{{Epsilon, false}, {V, false}, {V, true}, {Sample, false}, {Sample, true}} {
		m := map[string]string{"modelspec.sai_model_spec": "1.0.1", "modelspec.prediction_type": "epsilon", "ss_v_parameterization": "True", "modelspec.predict_key": "epsilon"}
		kind.Describe(m)
		if got, notes, err := Of(OfMetadata(m)); got != kind || len(notes) > 0 || err != nil {
			t.Errorf("metadata of %v: %v, %v, %v: %v", kind, got, notes, err, m)
		}
		raw, err := kind.Schedule([]byte(scheduler))
		if err != nil {
			t.Fatal(err)
		}
		said, err := OfScheduler(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := Of(said); got != kind || err != nil {
			t.Errorf("scheduler of %v: %s", kind, raw)
		}
		var settings map[string]any
		if err := json.Unmarshal(raw, &settings); err != nil || settings["beta_start"] != 0.00085 || (settings["timestep_spacing"] == "trailing") != kind.ZeroSNR {
			t.Errorf("%s, %v", raw, err)
		}
		if got := OfTensors(kind.Markers()); kind.Target != Sample && (got.ZeroSNR != kind.ZeroSNR || (got.Target == V) != (kind.Target == V)) {
			t.Errorf("markers of %v: %+v", kind, got)
		}
	}
	// A plain file that says nothing goes on saying nothing.
	m := map[string]string{"format": "pt"}
	Type{Target: Epsilon}.Describe(m)
	if raw, err := (Type{Target: Epsilon}).Schedule([]byte(scheduler)); len(m) != 1 || err != nil || string(raw) != scheduler {
		t.Errorf("%v, %s", m, raw)
	}
}

func FuzzOfScheduler(f *testing.F) {
	f.Add([]byte(`{"prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "trained_betas": null}`))
	f.Add([]byte(`{"_class_name": "EDMEulerScheduler"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		said, err := OfScheduler(raw)
		if err != nil {
			return
		}
		kind, _, err := Of(said)
		if err != nil {
			return
		}
		again, err := kind.Schedule(raw)
		if err != nil {
			t.Fatal(err)
		}
		if after, err := OfScheduler(again); err != nil || after.ZeroSNR != said.ZeroSNR || after.Target != "" && after.Target != kind.Target {
			t.Errorf("%s became %s", raw, again)
		}
	})
}
