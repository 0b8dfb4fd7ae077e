package engine

import "fmt"

func (e *Engine) callTape(f Function, bind Bind, in []*Array) ([]*Array, error) {
	return nil, fmt.Errorf("not yet")
}

func (e *Engine) trainTape(f Function, bind Bind, network string, o *Optimizer, step Step, in []*Array) (*Result, error) {
	return nil, fmt.Errorf("not yet")
}
