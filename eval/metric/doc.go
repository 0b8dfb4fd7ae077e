// Package metric turns images into numbers. It has two rulers: the conventions that papers share, with Inception
// features ([Meter], [Standards]), and mini-clip, with the CLIP of a small pipeline ([Ruler]).
//
// # Conventions with Inception features
//
// A [Standard] says what is done to an image before the network and how it is compared with its caption; a [Meter]
// does it:
//
//	s, err := metric.FindStandard("lightning")
//	m, err := metric.OpenMeter(e, s, metric.Sources{Inception: file, CLIP: folder}, 16)
//	real, err := m.Look(realImages)     // in any number of calls
//	err = m.Refer(real)                 // or m.ReferTo(statistics, nil)
//	made, err := m.Look(images)
//	captions, err := m.Captions(prompts)
//	results, err := m.Results(made, prompts, captions, stats.Resampling{})
//
// Features of images of odd sizes agree with those of clean-fid, DMD2's code, pytorch-fid and torch-fidelity to 1e-4 on
// the same random weights, what CLIP's image encoder is given with open_clip's to 1e-6 (testdata/golden.py).
//
// The name of a metric follows from the weights. Only features of pytorch-fid's published file, known by its hash, give
// FID and KID; others give FD(name) and KD(name), and "CLIP score" alone is that of the file whose hash the convention
// names. See package inception for how weights are known.
//
// Beside the distances a Meter gives precision and recall (3 nearest neighbours), and, where prompts are drawn more than
// once, their diversity. Every number has an interval; package stats says how each is made and how often it holds.
//
// # The independent network
//
// FD(nsfwjs-inception) is measured with a pretrained Keras network from an npm package, fetched on request. Of 200
// images of the mini data set at 64 pixels, against 200 others, by the convention mini:
//
//	                        FD-Whole   FD-Patch   precision   recall
//	other real images           0.20       0.28        0.82     0.92
//	blurred 3×3                 1.73       1.80        0.56     0.71
//	blurred 3×3 twice           3.68       3.20        0.41     0.44
//	noise of 25 levels          7.86       6.81        0.03     0.01
//
//	python3 scripts/fetch_nsfwjs.py
//	FEWSTEP_SLOW_TESTS=1 go test ./eval/metric -run Independent -v
//
// # Speed
//
// Inception features of batches of 16 images on two CPU cores, PyTorch 2.15 on the same network and cores beside them:
//
//	python eval/metric/bench_features.py
//
// Eight rounds with nothing else running: 27.7 to 30.5 images/s (mean 29.4); PyTorch 13.3 to 17.1 as pytorch-fid runs it,
// 25.3 to 28.0 (mean 26.3) with its memory format channels_last, which in each round was 3 to 15 % slower. Preparing a 1,024-pixel image by clean-fid's rule
// takes 11 ms of one core (go test ./data/images -bench .).
//
// # mini-clip
//
// [Network] measures images with the CLIP model that lies beside a pipeline (its clip folder), and [Ruler] has two
// Fréchet distances from real images and the CLIP score.
//
// They are not FID: the features are not Inception's, and numbers of another CLIP or another reference set cannot be
// compared with them. A pooled deep feature alone barely sees blur or noise, so a feature is made of two parts:
//
//   - what is shown: the projected embedding, of unit length, on the 32 leading principal axes of the reference
//     images' embeddings, divided by the root of their total variance;
//   - texture: the logarithm of each channel's deviation over the patch tokens of the first hidden state, less their
//     mean over the channels (so that contrast alone counts for nothing), on the 16 leading principal axes of the
//     reference, each divided by its own deviation, all by √16.
//
// So both parts of the real images have a total variance of 1, and a distance of 1 is a shift as large as their spread.
//
// FD-Whole is the distance of whole images, FD-Patch that of the central quarter enlarged twice by repeating pixels.
// [Independent] is a distance in an Inception network's features beside them, [LaplacianEnergy] and [RMS] compare pixels as
// scipy and numpy do (testdata/pixels.py).
//
// Diversity is the mean distance of two images of one prompt in the features of FD-Whole, in units of the distance of two
// random real images.
package metric
