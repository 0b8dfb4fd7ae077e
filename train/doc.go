// Package train walks a recipe's ladder over a run directory: it starts, continues, or reports that nothing is left.
//
//	r, err := train.Open(ctx, recipe, train.Options{Dir: dir, Backend: backend, Log: log})
//	defer r.Close()
//	worked, err := r.Walk(ctx) // false = the ladder was done before
//
// # Who does what
//
//   - [Run] (run.go, ladder.go) walks: it asks the directory where the ladder stands (place.go), trains the next phase, and goes
//     on with the one after it.
//   - [Setup] (setup.go) is what a run was opened with. The others read it.
//   - ranks (ranks.go) are the processes that train together. Rank 0 decides, and tells the others.
//   - models (models.go) give each phase the weights that it begins with, and make full models of LoRAs.
//   - loader (loader.go) gives samples: rows in their order, with what VAE and text encoders make of them, which was encoded
//     before (encoding.go, encoded.go, dealt.go, prepared.go) or is while the run trains (live.go).
//   - phase (phase.go) is a phase while it trains: when it saves, what it tells, when it stops (update.go, numbers.go,
//     checkpoint.go).
//   - worker (worker.go) is its part on one device: a session of package method and the device's part of every micro-batch.
//
// # What a run promises
//
// Samples are numbered, and everything random follows from the seed and a sample's number. A run that was killed at any byte and
// continued ends with the same bytes as one that was not (TestKilledRunEndsTheSame), and so does one that was interrupted
// (TestQueuedUpdatesChangeNothing). Checkpoints and results hold finite numbers only.
//
// # Interruption
//
// Once the context of [Open] or [Run.Walk] has ended, they return as soon as what was trained is saved. An update under
// way is left before its next micro-batch, and its samples are trained on again, as long as it has changed no network
// (TestUpdateIsLeft); after that it is completed: an adversarial one once its discriminator is updated. They wait for no
// compilation where nothing would be lost by that (TestRunInterruptedWhileCompiling).
package train
