// Package methods lists the methods by which phases train.
package methods

import (
	"fmt"

	"fewstep/configs"
	"fewstep/distill/method"
	"fewstep/distill/method/adversarial"
	"fewstep/distill/method/lcm"
	"fewstep/distill/method/mse"
	"fewstep/distill/method/x0"
)

// All are the methods by their kinds in recipes, whose table is in package configs.
var All = map[string]method.Method{
	configs.KindMSE:         mse.Method{},
	configs.KindAdversarial: adversarial.Method{},
	configs.KindX0:          x0.Method{},
	configs.KindLCM:         lcm.Method{},
}

// Of returns the method of a kind of phase.
func Of(kind string) (method.Method, error) {
	if m, ok := All[kind]; ok {
		return m, nil
	}
	return nil, fmt.Errorf("no method trains phases of kind %q: package methods lists none", kind)
}
