package xla

// peaks are dense bf16 tensor-core peaks in TFLOP/s, from NVIDIA's data sheets.
var peaks = map[string]float64{"NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H200": 989.4, "NVIDIA H100 PCIe": 756, "NVIDIA H100 NVL": 835,
	"NVIDIA A100-SXM4-80GB": 312, "NVIDIA A100 80GB PCIe": 312, "NVIDIA L40S": 362}

// PeakTFLOPs is the device's arithmetic peak in bf16, in units of 1e12 operations per second; 0 where it is not known.
func (r *Runtime) PeakTFLOPs() float64 { return peaks[r.DeviceName()] }
