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
		in := pointwise(s, x, branch{"branch1x1", 64}, branch{"branch5x5_1", 48}, branch{"branch3x3dbl_1", 64}, branch{"branch_pool", pool})
		five := conv(s, "branch5x5_2", relu(in[1]), 64, kernel{5, 5}, 1, same)
		three := conv(s, "branch3x3dbl_2", relu(in[2]), 96, kernel{3, 3}, 1, same)
		three = conv(s, "branch3x3dbl_3", three, 96, kernel{3, 3}, 1, same)
		return concat(relu(in[0]), five, three, relu(averagePool(in[3])))
	})
}

func mixedB(name string) nn.Block {
	return module("b", name, func(s *nn.Scope, x *graph.Node) *graph.Node {
		three := relu(pointwise(s, x, branch{"branch3x3dbl_1", 64})[0])
		three = conv(s, "branch3x3dbl_2", three, 96, kernel{3, 3}, 1, same)
		three = conv(s, "branch3x3dbl_3", three, 96, kernel{3, 3}, 2, valid)
		return concat(conv(s, "branch3x3", x, 384, kernel{3, 3}, 2, valid), three, maxPool(x, 2, valid))
	})
}

func mixedC(name string, width int) nn.Block {
	return module(fmt.Sprintf("c(%d)", width), name, func(s *nn.Scope, x *graph.Node) *graph.Node {
		in := pointwise(s, x, branch{"branch1x1", 192}, branch{"branch7x7_1", width}, branch{"branch7x7dbl_1", width}, branch{"branch_pool", 192})
		seven := conv(s, "branch7x7_2", relu(in[1]), width, kernel{1, 7}, 1, same)
		seven = conv(s, "branch7x7_3", seven, 192, kernel{7, 1}, 1, same)
		double := conv(s, "branch7x7dbl_2", relu(in[2]), width, kernel{7, 1}, 1, same)
		double = conv(s, "branch7x7dbl_3", double, width, kernel{1, 7}, 1, same)
		double = conv(s, "branch7x7dbl_4", double, width, kernel{7, 1}, 1, same)
		double = conv(s, "branch7x7dbl_5", double, 192, kernel{1, 7}, 1, same)
		return concat(relu(in[0]), seven, double, relu(averagePool(in[3])))
	})
}

func mixedD(name string) nn.Block {
	return module("d", name, func(s *nn.Scope, x *graph.Node) *graph.Node {
		in := pointwise(s, x, branch{"branch3x3_1", 192}, branch{"branch7x7x3_1", 192})
		three := conv(s, "branch3x3_2", relu(in[0]), 320, kernel{3, 3}, 2, valid)
		seven := conv(s, "branch7x7x3_2", relu(in[1]), 192, kernel{1, 7}, 1, same)
		seven = conv(s, "branch7x7x3_3", seven, 192, kernel{7, 1}, 1, same)
		seven = conv(s, "branch7x7x3_4", seven, 192, kernel{3, 3}, 2, valid)
		return concat(three, seven, maxPool(x, 2, valid))
	})
}

func mixedE(name string, pool LastPool) nn.Block {
	return module("e("+string(pool)+")", name, func(s *nn.Scope, x *graph.Node) *graph.Node {
		branches := []branch{{"branch1x1", 320}, {"branch3x3_1", 384}, {"branch3x3dbl_1", 448}}
		pooled := branch{"branch_pool", 192}
		var smoothed *graph.Node
		var in []*graph.Node
		switch pool {
		case Max:
			in = pointwise(s, x, branches...)
			smoothed = pointwise(s, maxPool(x, 1, same), pooled)[0]
		case Average:
			in = pointwise(s, x, append(branches, pooled)...)
			smoothed = averagePool(in[3])
		default:
			panic(fmt.Errorf("the last module cannot pool by %q, only by %q and %q", pool, Max, Average))
		}
		three := relu(in[1])
		double := conv(s, "branch3x3dbl_2", relu(in[2]), 384, kernel{3, 3}, 1, same)
		return concat(
			relu(in[0]),
			conv(s, "branch3x3_2a", three, 384, kernel{1, 3}, 1, same),
			conv(s, "branch3x3_2b", three, 384, kernel{3, 1}, 1, same),
			conv(s, "branch3x3dbl_3a", double, 384, kernel{1, 3}, 1, same),
			conv(s, "branch3x3dbl_3b", double, 384, kernel{3, 1}, 1, same),
			relu(smoothed))
	})
}
