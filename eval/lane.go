package eval

import (
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/model/family"
	"fewstep/model/pipeline"
)

// lane is a device that draws, with the networks that are on it.
type lane struct {
	engine   *engine.Engine
	encoders *encoder.Encoders // of the pipeline last used
	model    *engine.Params    // last used: rows of the same weights follow each other
	negative family.Conditions // what guidance leads away from

	ready     bool // for the row that is drawn
	of        *pipeline.Pipeline
	weights   string // which the model's are
	freeModel func()
}

func (l *lane) free() {
	if l.model != nil {
		l.freeModel()
		l.model = nil
	}
	if l.encoders != nil {
		l.encoders.Free()
		l.encoders = nil
	}
}

// encode loads the encoders of a pipeline, for batches of n.
func (l *lane) encode(p *pipeline.Pipeline, n int) (err error) {
	if l.of == p && l.encoders != nil {
		return nil
	}
	if l.encoders != nil {
		l.encoders.Free()
		l.encoders = nil
	}
	l.encoders, err = encoder.Load(p, l.engine, n, encoder.TextPart, encoder.VAEPart)
	l.of = p
	return err
}

// load loads an entry's parameters. Those of the row before stay where they are the same.
func (l *lane) load(e Entry) (err error) {
	weights := e.Digest
	if weights == "" && e.undistilled() {
		weights = baseModel
	}
	if l.model != nil && weights != "" && weights == l.weights {
		return nil
	}
	if l.model != nil {
		l.freeModel()
		l.model = nil
	}
	l.model, l.freeModel, err = e.Load(l.engine)
	l.weights = weights
	return err
}
