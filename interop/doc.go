// Package interop proves that what this project writes is what diffusers reads and draws, and the other way round.
//
// TestEncodedShards reads what `fewstep data encode` wrote with pyarrow and safetensors (testdata/read_encoded.py): every row,
// latent, deviation and embedding as a run reads it, to the bit. TestInterop is about models.
//
// The tests run where FEWSTEP_INTEROP_PYTHON names a Python that has requirements.txt: `make interop` makes one in
// the user's cache folder and runs them. On the mini pipeline and on random ones of another shape, of SDXL's structure
// and of Stable Diffusion 1's and 2's, diffusers loads our directories, single files and LoRAs without a missing or
// unexpected key and without a warning, and draws from the same starting latents the picture that `fewstep sample` draws,
// to one level of 255: the guided teacher, students of several steps, the one-step x0 model, other sizes, samplers and
// micro-conditions. Then we load what diffusers and peft save from them, and draw it.
//
// On two CPU cores SDXL's two take 43 s, and making the Python environment 65 s once (`time make interop`).
package interop
