package nn

// StateDict are names and shapes of a network's parameters, in PyTorch's layout.
type StateDict map[string][]int

// Norm adds the weight and the bias of a normalisation over width channels.
func (d StateDict) Norm(name string, width int) {
	d[name+".weight"], d[name+".bias"] = []int{width}, []int{width}
}

// Matrix adds the weight of a linear layer without a bias.
func (d StateDict) Matrix(name string, in, out int) { d[name+".weight"] = []int{out, in} }

// Linear adds a linear layer.
func (d StateDict) Linear(name string, in, out int) {
	d.Matrix(name, in, out)
	d[name+".bias"] = []int{out}
}

// Conv adds a convolution with a square kernel.
func (d StateDict) Conv(name string, in, out, kernel int) {
	d[name+".weight"], d[name+".bias"] = []int{out, in, kernel, kernel}, []int{out}
}
