package distill

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"
)

// method holds testdata/method.json: independent float64 values of the
// method's formulas, with an analytic network.
type method struct {
	A     map[string]float64
	Sigma float64 `json:"sigma_at_1000"`
	Grids map[string][]int
	X0    []float64
	Eps   []float64
	C     float64

	Forward map[string][]float64
	Convert []struct {
		T          int
		Prediction string
		X, U       []float64
		X0, Eps    []float64
	}
	Steps struct {
		Rows []struct {
			StudentSteps int `json:"student_steps"`
			TeacherSteps int `json:"teacher_steps"`
			Guidance     *float64
			T            int
			TNext        int       `json:"t_next"`
			TeacherTs    []int     `json:"teacher_ts"`
			XT           []float64 `json:"x_t"`
			Teacher      []float64
			Student      []float64
			MSE          float64
		}
	} `json:"distillation_steps"`
	Losses []struct{ Real, Fake, Discriminator, Generator float64 }
	Euler  map[string][]float64 `json:"euler_sampling"`
}

func loadMethod(t *testing.T) *method {
	t.Helper()
	data, err := os.ReadFile("testdata/method.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	m := &method{}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, m); err != nil {
		t.Fatal(err)
	}
	// sdxl_counts is about networks: TestSDXLCounts.
	known := []string{"A", "about", "c", "convert", "distillation_steps", "eps", "euler_sampling", "forward", "grids", "losses", "sdxl_counts", "sigma_at_1000", "x0"}
	if keys := slices.Sorted(maps.Keys(all)); !slices.Equal(keys, known) {
		t.Fatalf("fields of method.json: %v, want %v", keys, known)
	}
	if len(m.X0) == 0 || len(m.Eps) == 0 || m.C == 0 {
		t.Fatal("method.json holds no inputs")
	}
	return m
}

// net is the analytic network of method.json, fed the index t − 1.
func net(x []float64, index int, c float64) []float64 {
	out := make([]float64, len(x))
	for i := range x {
		out[i] = 0.6*math.Tanh(x[i]) + 0.3*c*math.Cos(float64(index)/300) + 0.1
	}
	return out
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.IsNaN(got) || math.Abs(got-want) > 1e-12*math.Max(1, math.Abs(want)) {
		t.Errorf("%s = %.17g, want %.17g", what, got, want)
	}
}

func nearAll(t *testing.T, what string, got, want []float64) {
	t.Helper()
	if len(got) != len(want) || len(want) == 0 {
		t.Fatalf("%s has %d elements, want %d", what, len(got), len(want))
	}
	for i := range want {
		near(t, fmt.Sprintf("%s[%d]", what, i), got[i], want[i])
	}
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestScheduleVectors(t *testing.T) {
	m, s := loadMethod(t), SDXLSchedule()
	for key, want := range m.A {
		near(t, "A["+key+"]", s.AlphaBar(number(t, key)), want)
	}
	near(t, "sigma at 1000", s.Sigma(1000), m.Sigma)
}

func TestGridVectors(t *testing.T) {
	m, s := loadMethod(t), SDXLSchedule()
	for key, want := range m.Grids {
		n := number(t, key)
		grid := s.Grid(n)
		if !slices.Equal(grid, want) {
			t.Errorf("Grid(%d) = %v, want %v", n, grid, want)
		}
		for i, at := range want {
			next := 0
			if i+1 < n {
				next = want[i+1]
			}
			if got := s.Next(n, at); got != next {
				t.Errorf("Next(%d, %d) = %d, want %d", n, at, got, next)
			}
		}
	}
}

func TestForwardVectors(t *testing.T) {
	m, s := loadMethod(t), SDXLSchedule()
	for key, want := range m.Forward {
		nearAll(t, "forward at "+key, ofForward(s, m.X0, m.Eps, number(t, key)), want)
	}
	if a, b := s.ForwardCoefficients(1000); a != 0 || b != 1 {
		t.Errorf("ForwardCoefficients(1000) = %g, %g; the input at T is pure noise", a, b)
	}
	if a, _ := s.NoisyCoefficients(1000); a == 0 {
		t.Error("NoisyCoefficients(1000) lost the old ā_T")
	}
}

func TestConversionVectors(t *testing.T) {
	m, s := loadMethod(t), SDXLSchedule()
	for _, row := range m.Convert {
		pred, err := ParsePrediction(row.Prediction)
		if err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("%s at %d: ", row.Prediction, row.T)
		a, b := s.X0Coefficients(pred, row.T)
		nearAll(t, what+"x0", combine(a, row.X, b, row.U), row.X0)
		a, b = s.EpsilonCoefficients(pred, row.T)
		nearAll(t, what+"eps", combine(a, row.X, b, row.U), row.Eps)
		if pred == Epsilon {
			nearAll(t, what+"X0FromEpsilon", ofX0FromEpsilon(s, row.X, row.U, row.T), row.X0)
			nearAll(t, what+"X0Target", ofX0FromEpsilon(s, row.X, row.U, row.T), row.X0)
		} else {
			nearAll(t, what+"EpsilonFromX0", ofEpsilonFromX0(s, row.X, row.U, row.T), row.Eps)
		}
		// (5) is (1), without the schedule fix, of (3) and (4).
		for _, next := range []int{0, 125, 499, 500, 999} {
			a, b := s.NoisyCoefficients(next)
			want := combine(a, row.X0, b, row.Eps)
			if next == row.T {
				want = row.X
			}
			nearAll(t, fmt.Sprintf("%smove to %d", what, next), ofMove(s, pred, row.X, row.U, row.T, next), want)
		}
	}
}

func TestDistillationStepVectors(t *testing.T) {
	m, s := loadMethod(t), SDXLSchedule()
	if len(m.Steps.Rows) == 0 {
		t.Fatal("no rows")
	}
	for _, row := range m.Steps.Rows {
		what := fmt.Sprintf("%d → %d at t = %d: ", row.TeacherSteps, row.StudentSteps, row.T)
		x := ofForward(s, m.X0, m.Eps, row.T)
		nearAll(t, what+"x_t", x, row.XT)
		next := StudentNext(s, row.StudentSteps, row.T)
		if next != row.TNext {
			t.Errorf("%st' = %d, want %d", what, next, row.TNext)
		}
		walk := TeacherWalk(s, row.T, next, row.TeacherSteps)
		if !slices.Equal(walk, row.TeacherTs) {
			t.Errorf("%steacher walks %v, want %v", what, walk, row.TeacherTs)
			continue
		}
		teacher := x
		for i := range walk[1:] {
			index := s.NetworkIndex(walk[i])
			u := net(teacher, index, m.C)
			if row.Guidance != nil {
				u = Guide(net(teacher, index, 0), u, *row.Guidance)
			}
			teacher = ofMove(s, Epsilon, teacher, u, walk[i], walk[i+1])
		}
		nearAll(t, what+"teacher", teacher, row.Teacher)
		u := combine(0.9, net(x, s.NetworkIndex(row.T), m.C), 0, x)
		student := ofMove(s, Epsilon, x, u, row.T, next)
		nearAll(t, what+"student", student, row.Student)
		near(t, what+"mse", MSE(student, teacher), row.MSE)
	}
}

// A batch of unlike samples ends where each sample's own walk ends.
func TestBatchWalkVectors(t *testing.T) {
	m, s := loadMethod(t), SDXLSchedule()
	type key struct{ student, teacher int }
	groups := map[key][]int{}
	for i, row := range m.Steps.Rows {
		if row.Guidance == nil {
			k := key{row.StudentSteps, row.TeacherSteps}
			groups[k] = append(groups[k], i)
		}
	}
	uneven := 0
	for k, rows := range groups {
		var from, to []int
		x := make([][]float64, len(rows))
		for i, r := range rows {
			from, to = append(from, m.Steps.Rows[r].T), append(to, m.Steps.Rows[r].TNext)
			x[i] = m.Steps.Rows[r].XT
		}
		calls, err := BatchWalk(s, Epsilon, from, to, k.teacher)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range calls {
			for i := range x {
				if call.At[i] < 1 {
					t.Errorf("%v: sample %d is called at t = %d", k, i, call.At[i])
				}
				if call.At[i] == call.To[i] {
					uneven++
					if call.A[i] != 1 || call.B[i] != 0 {
						t.Errorf("%v: a finished sample is moved by (%g, %g)", k, call.A[i], call.B[i])
					}
				}
				x[i] = combine(call.A[i], x[i], call.B[i], net(x[i], s.NetworkIndex(call.At[i]), m.C))
			}
		}
		for i, r := range rows {
			nearAll(t, fmt.Sprintf("%v sample %d", k, i), x[i], m.Steps.Rows[r].Teacher)
		}
	}
	if uneven == 0 {
		t.Error("no batch had walks of unlike lengths")
	}
	for _, bad := range [][2]int{{500, 500}, {0, 0}, {1001, 0}, {500, -1}} {
		if _, err := BatchWalk(s, Epsilon, []int{bad[0]}, []int{bad[1]}, 4); err == nil {
			t.Errorf("a walk from %d to %d was accepted", bad[0], bad[1])
		}
	}
	if _, err := BatchWalk(s, Epsilon, []int{500}, nil, 4); err == nil {
		t.Error("starts without ends were accepted")
	}
}

func TestLossVectors(t *testing.T) {
	m := loadMethod(t)
	if len(m.Losses) == 0 {
		t.Fatal("no losses")
	}
	for _, row := range m.Losses {
		what := fmt.Sprintf("logits %g, %g: ", row.Real, row.Fake)
		for _, c := range []struct {
			name      string
			got, want float64
		}{{"discriminator", DiscriminatorLoss(row.Real, row.Fake), row.Discriminator}, {"generator", GeneratorLoss(row.Fake), row.Generator}} {
			if math.Abs(c.got-c.want) > 1e-14*math.Abs(c.want) {
				t.Errorf("%s%s = %g, want %g", what, c.name, c.got, c.want)
			}
		}
	}
}

func TestEulerVectors(t *testing.T) {
	m, s := loadMethod(t), SDXLSchedule()
	for key, want := range m.Euler {
		x, walk := m.Eps, s.Euler(number(t, key))
		for i := range walk[1:] {
			x = ofMove(s, Epsilon, x, net(x, s.NetworkIndex(walk[i]), m.C), walk[i], walk[i+1])
		}
		nearAll(t, key+" steps", x, want)
	}
}
