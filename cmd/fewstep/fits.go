package main

import (
	"fmt"
	"slices"

	"fewstep/configs"
	"fewstep/internal/xla"
	"fewstep/train/cost"
)

// fits refuses a recipe that needs more of a device's memory than there is, before anything is loaded: by the arrays that
// its largest phase holds, which are counted exactly. Where only the programs' scratch space, which is estimated, is too
// much, it warns. load reads the recipe with overrides.
func (a *app) fits(c *configs.Recipe, load func(overrides ...string) (*configs.Recipe, error), d cost.Device, limit int64) error {
	m, _, err := planModel(c)
	if err != nil {
		return nil // opening the model tells better what it is
	}
	rt, phases, err := planPhases(c, m, d)
	if err != nil {
		return err
	}
	defer rt.Close()
	var most, arrays, host int64
	for _, p := range phases {
		most, arrays, host = max(most, p.Memory.Total), max(arrays, p.Memory.Arrays), max(host, p.Memory.Host*int64(max(d.Devices, 1)))
	}
	if total, available, err := xla.HostMemory(); err == nil {
		if err := a.fitsHost(host, total, available); err != nil {
			return err
		}
	}
	sheets, err := cost.Drawing(rt.Backend, c, m, d)
	if err != nil {
		return err
	}
	if sheets > limit {
		a.log.Warn("device memory may not be enough for sample sheets, which training would go on without", "planned", bytesText(sheets), "there are", bytesText(limit),
			"smaller", "eval.batch=1", "none", "eval.sheet_samples=0")
	}
	switch {
	case most <= limit:
		return nil
	case arrays <= limit:
		a.log.Warn("device memory may not be enough", "planned", bytesText(most), "there are", bytesText(limit))
		return nil
	}
	fits, err := cost.Fit(rt.Backend, load, m, d, limit)
	if err != nil {
		return err
	}
	return tooLarge(most, limit, fits)
}

// offloaded is how much of the host's memory a recipe's phases take for the state of so many devices at most.
func offloaded(c *configs.Recipe, devices int) (bytes int64, err error) {
	if c.Train.Offload == configs.OffloadNone {
		return 0, nil
	}
	m, _, err := planModel(c)
	if err != nil {
		return 0, nil // opening the model tells better what it is
	}
	rt, phases, err := planPhases(c, m, cost.Device{Devices: devices})
	if err != nil {
		return 0, err
	}
	defer rt.Close()
	for _, p := range phases {
		bytes = max(bytes, p.Memory.Host*int64(devices))
	}
	return bytes, nil
}

// fitsHost refuses offloaded state that is larger than the host's memory, which is page-locked and so not to be swapped out.
func (a *app) fitsHost(bytes, total, available int64) error {
	switch {
	case bytes > total:
		return withHint(withCode(exitRefused, fmt.Errorf("the recipe keeps %s of optimizer state in the host's memory, and there are %s", bytesText(bytes), bytesText(total))),
			"train.moments=bf16 and train.accumulate=1 make it smaller, train.offload=none leaves it on the device")
	case bytes > available:
		a.log.Warn("the host's memory may not be enough", "planned for offloaded state", bytesText(bytes), "free are", bytesText(available))
	}
	return nil
}

// fitsDevice is fits for the device that a run is about to use; devices that do not tell their memory fit everything.
func (a *app) fitsDevice(rt *xla.Runtime, c *configs.Recipe, path string, set []string, devices int) error {
	memory, err := rt.DeviceMemory(0)
	if err != nil || memory.Limit == 0 {
		return nil
	}
	cuda := rt.Kind == xla.CUDA
	load := func(more ...string) (*configs.Recipe, error) {
		return loadRecipe(path, append(slices.Clone(set), more...)...)
	}
	return a.fits(c, load, cost.Device{Split: !cuda, Flash: cuda && c.Train.Compute == "bf16", Devices: devices}, memory.Limit)
}

// tooLarge is the refusal of a recipe, with the first change after which it fits.
func tooLarge(memory, limit int64, fits []cost.Change) error {
	err := withCode(exitRefused, fmt.Errorf("the recipe takes %s of device memory, and there are %s", bytesText(memory), bytesText(limit)))
	if len(fits) == 0 {
		return withHint(err, "not even its LoRA phases with micro-batches of 1 fit; lower data.resolution, or use a larger device")
	}
	fit := fits[0]
	size := bytesText(fit.Memory)
	if fit.Host > 0 {
		size += ", and " + bytesText(fit.Host) + " of the host's memory"
	}
	hint := fmt.Sprintf("it fits with %s (%s)", fit.Effect, size)
	for _, s := range fit.Set {
		hint += " --set " + s
	}
	if fit.LoRAOnly {
		hint += "; configs/sdxl/lora-16gb.yaml is such a recipe"
	}
	return withHint(err, "%s", hint)
}
