// Package eval measures models and makes reports of them: the protocol, the rows of the table, the sample sheets and
// the page.
//
// # One ruler
//
// Every row of a table is made alike: the same prompts, the same starting noise for each prompt, the same real images to
// compare with, the same [Judge]. All follow from the settings and their seed, so the same models give the same bytes.
// Image i is drawn for prompt i from noise (seed, i), and any noise that a sampler adds later follows from (seed, i) and
// the call: neither the batch nor the device nor what was drawn before matters. Between batches of 1, 3 and
// 8 the noise is the same to the bit (TestNoisePerPrompt) and the pictures are to one grey level
// (TestImagesDoNotDependOnTheBatch).
//
// # Protocols
//
//   - mini: prompts are drawn from all rows of a captioned data set as in training; distances are measured from its
//     training rows, and the first row of the table is the floor, its held-out images.
//   - coco10k: the first 10,000 images of COCO-2014's validation set that captions_val2014.json names, in the order of
//     its annotations, each with the annotation that stands first; or the first 10,000 rows of a parquet file. Distances
//     are measured from those same images, where the JSON file names their files and the reference is their folder.
//   - captions: all of such a file, one image or several of every caption: several have a diversity.
//
// The last two measure from the real images that are given (a folder in the order of its names, or a captioned parquet
// file) or from saved statistics of them, and leave distances out where neither is.
//
// # Conventions
//
// A [Judge] is a convention: mini-clip, by the CLIPModel beside the pipeline (package metric, [metric.Ruler]), or one of
// [metric.Standards] with Inception features and a CLIP of one's own. Judges see images of 8 bits, as PNG files hold them;
// those that can are shown real images in their own sizes. The names of the metrics follow from the weights in use.
//
// # Any model is a row
//
// A [RowSpec] is a diffusers directory, with another UNet or a LoRA over it, a folder of images made elsewhere, or all
// that a run has exported; each with its own steps, guidance, prediction type and sampler (package scheduler, which
// follows diffusers' schedulers). [Evaluation.Follow] measures a run's models as it exports them and only reads its
// directory.
//
// # Opponents
//
// A run's report judges its models, at equal network calls, against the undistilled teacher, the first stage's student at
// as few steps with no further training ([Earlier]), and the models of other runs. These have the figures of their own
// report where both tables have the same protocol digest (prompts, noise, real images, the networks that measure, the
// arithmetic that draws), and are measured as they were exported where they have not ([Table.AddRival], the recipe's key
// eval.rivals). A rival must distil the same base model.
//
// The convention mini-clip also tells, of each row, the Laplacian's energy, the difference from the teacher's image of the
// same prompt and noise, in pixels and in the CLIP's features, and the distance in an independent network, where the
// recipe's key eval.inception names one whose file is there. The teacher's row is therefore measured first, and what
// comparing takes of its first 512 images is kept beside the row.
//
// # Acceptance
//
// [Evaluation.Accept] asks whether a benchmark can tell good from bad before anything is judged by it: real images as they
// are and damaged, the teacher, and its network at 8 calls, with stated criteria. A data set that can draw its images
// without half of their objects has a method WithoutHalf(row, resolution).
//
// # The assembly line
//
// Encoding prompts, denoising, decoding, looking, and filing PNGs are stations of a line (stage.go), each a goroutine
// behind a queue of one or two batches. With stations behind the first that together take longer than it does, the line
// takes as long as its slowest station (TestLineOverlaps, on a synthetic clock). Denoising only queues programs on the
// device: prompts are encoded some batches ahead, and a batch's network calls are queued before the latents and pixels of
// the batch before are read, so that the device finds work whatever the host waits for.
//
// The numbers of a row are made while the next one is drawn (TestMeasuringBehind). By a convention with Inception features
// those of 5,000 images from 5,000 others take 150 s of two cores: each Fréchet distance with its interval 38 s, KID 57 s,
// precision and recall 16 s.
//
// Time per image is that in which one of the stations that draw is at work (clock.go). On two CPU cores, where all
// stations share the processor, that was 98 % of a row's time at 8 steps of the mini pipeline and 97 % at 1 step:
//
//	fewstep eval --model assets/mini --steps 8,1 --samples 256 --batch 16 --out DIR --keep-images DIR/images
//
// (field busy of DIR/timing.jsonl).
//
// On an H100, SDXL's size, random weights, 1024 pixels, 4 calls, batches of 4: drawing, looking at images (Inception on whole
// and patch, scores by a CLIP of ViT-L/14's size) and keeping PNGs ran at 95.1, 96.0 and 95.7 % of the speed of bare drawing,
// 11.9 images a second, in three rounds of 64 images each. The last image of a round was drawn after 97.6, 98.4 and 98.0 %
// of that speed; the rest of the time is the end of a round, when the last batch is looked at and nothing is drawn beside it.
//
//	go test -c -o eval.test ./eval
//	./eval.test -test.run TestEvaluationSpeed -test.v -speed-model sdxl.safetensors -speed-images 64 -speed-batch 4
//
// # Differences of rows
//
// All rows are drawn from the same noise, so two of them err alike and their difference is known better than either value.
// Each value is kept with the influences of up to 512 of its samples, from which the report makes the interval of a
// difference ([stats.Difference]): a model is clearly better or worse where it excludes zero. On data of known distance it
// told 199 of 200 pairs apart whose own intervals touched.
//
// # What is kept, and what a clock may enter
//
// Rows are saved as they are finished and found again if model, protocol and settings are the same; with a folder for
// images a row goes on from the images that are there. The report that a run ends with depends on its results alone, so
// that a run that was killed and continued has the same one to the byte. Time per image is therefore noted in
// timing.jsonl, as the time of training steps is, and comes onto the page when 'fewstep report' writes it again (as 'make
// demo' does at its end), or in the folder of 'fewstep eval --out', which promises no such thing.
//
// # What is not a number
//
// Images with NaN, images of other sizes than the row's, files that are not images, captions that are empty or too few
// for the protocol, images of other settings in a kept folder, and values that are not finite are errors that name the
// image, file or row. A kept image that is broken is named, counted and drawn again.
package eval
