package inception

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/gomlx/core/graph"
)

// The modules concatenate the channels of branches, in torchvision's order and under its names.

func concat(branches ...*graph.Node) *graph.Node { return graph.Concatenate(branches, -1) }

func mixedA(name string, pool int) nn.Block {
	return module(fmt.Sprintf("a(%d)", pool), name, func(s *nn.Scope, x *graph.Node) *graph.Node {
		five := conv(s, "branch5x5_1", x, 48, kernel{1, 1}, 1, same)
		five = conv(s, "branch5x5_2", five, 64, kernel{5, 5}, 1, same)
		three := conv(s, "branch3x3dbl_1", x, 64, kernel{1, 1}, 1, same)
		three = conv(s, "branch3x3dbl_2", three, 96, kernel{3, 3}, 1, same)
		three = conv(s, "branch3x3dbl_3", three, 96, kernel{3, 3}, 1, same)
		return concat(conv(s, "branch1x1", x, 64, kernel{1, 1}, 1, same), five, three,
			conv(s, "branch_pool", averagePool(x), pool, kernel{1, 1}, 1, same))
	})
}

func mixedB(name string) nn.Block {
	return module("b", name, func(s *nn.Scope, x *graph.Node) *graph.Node {
		three := conv(s, "branch3x3dbl_1", x, 64, kernel{1, 1}, 1, same)
		three = conv(s, "branch3x3dbl_2", three, 96, kernel{3, 3}, 1, same)
		three = conv(s, "branch3x3dbl_3", three, 96, kernel{3, 3}, 2, valid)
		return concat(conv(s, "branch3x3", x, 384, kernel{3, 3}, 2, valid), three, maxPool(x, 2, valid))
	})
}

func mixedC(name string, width int) nn.Block {
	return module(fmt.Sprintf("c(%d)", width), name, func(s *nn.Scope, x *graph.Node) *graph.Node {
		seven := conv(s, "branch7x7_1", x, width, kernel{1, 1}, 1, same)
		seven = conv(s, "branch7x7_2", seven, width, kernel{1, 7}, 1, same)
		seven = conv(s, "branch7x7_3", seven, 192, kernel{7, 1}, 1, same)
		double := conv(s, "branch7x7dbl_1", x, width, kernel{1, 1}, 1, same)
		double = conv(s, "branch7x7dbl_2", double, width, kernel{7, 1}, 1, same)
		double = conv(s, "branch7x7dbl_3", double, width, kernel{1, 7}, 1, same)
		double = conv(s, "branch7x7dbl_4", double, width, kernel{7, 1}, 1, same)
		double = conv(s, "branch7x7dbl_5", double, 192, kernel{1, 7}, 1, same)
		return concat(conv(s, "branch1x1", x, 192, kernel{1, 1}, 1, same), seven, double,
			conv(s, "branch_pool", averagePool(x), 192, kernel{1, 1}, 1, same))
	})
}

func mixedD(name string) nn.Block {
	return module("d", name, func(s *nn.Scope, x *graph.Node) *graph.Node {
		three := conv(s, "branch3x3_1", x, 192, kernel{1, 1}, 1, same)
		three = conv(s, "branch3x3_2", three, 320, kernel{3, 3}, 2, valid)
		seven := conv(s, "branch7x7x3_1", x, 192, kernel{1, 1}, 1, same)
		seven = conv(s, "branch7x7x3_2", seven, 192, kernel{1, 7}, 1, same)
		seven = conv(s, "branch7x7x3_3", seven, 192, kernel{7, 1}, 1, same)
		seven = conv(s, "branch7x7x3_4", seven, 192, kernel{3, 3}, 2, valid)
		return concat(three, seven, maxPool(x, 2, valid))
	})
}

func mixedE(name string, pool LastPool) nn.Block {
	return module("e("+string(pool)+")", name, func(s *nn.Scope, x *graph.Node) *graph.Node {
		three := conv(s, "branch3x3_1", x, 384, kernel{1, 1}, 1, same)
		double := conv(s, "branch3x3dbl_1", x, 448, kernel{1, 1}, 1, same)
		double = conv(s, "branch3x3dbl_2", double, 384, kernel{3, 3}, 1, same)
		var smoothed *graph.Node
		switch pool {
		case Max:
			smoothed = maxPool(x, 1, same)
		case Average:
			smoothed = averagePool(x)
		default:
			panic(fmt.Errorf("the last module cannot pool by %q, only by %q and %q", pool, Max, Average))
		}
		return concat(
			conv(s, "branch1x1", x, 320, kernel{1, 1}, 1, same),
			conv(s, "branch3x3_2a", three, 384, kernel{1, 3}, 1, same),
			conv(s, "branch3x3_2b", three, 384, kernel{3, 1}, 1, same),
			conv(s, "branch3x3dbl_3a", double, 384, kernel{1, 3}, 1, same),
			conv(s, "branch3x3dbl_3b", double, 384, kernel{3, 1}, 1, same),
			conv(s, "branch_pool", smoothed, 192, kernel{1, 1}, 1, same))
	})
}
