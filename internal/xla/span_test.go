package xla

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// A program of two local devices becomes one of three, among other things that stay as they are.
func TestSpanning(t *testing.T) {
	number := func(b []byte, field protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
	}
	message := func(b []byte, field protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
	}
	build := number(number(message(number(nil, 1, 7), 9, []byte{8, 2}), 4, 2), 5, 1)
	options := number(message(number(nil, 2, 1), 3, build), 5, 9)
	const code = `module @sum attributes {stablehlo.num_replicas = 2} {
    }) { replica_groups = dense<[[0, 1]]> : tensor<1x2xi64> } : (tensor<2xf32>) -> tensor<2xf32>`
	s := &Span{IDs: []int64{4, 300, 5}, First: 1}
	gotCode, gotOptions, err := s.spanning(code, options)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.NewReplacer("num_replicas = 2", "num_replicas = 3", "[[0, 1]]> : tensor<1x2x", "[[0, 1, 2]]> : tensor<1x3x").Replace(code); gotCode != want {
		t.Errorf("the program became\n%s\nwant\n%s", gotCode, want)
	}
	ids := protowire.AppendVarint(protowire.AppendVarint(protowire.AppendVarint(nil, 4), 300), 5)
	assignment := message(number(number(nil, 1, 3), 2, 1), 3, message(nil, 1, ids))
	want := message(number(number(nil, 2, 1), 5, 9), 3, message(number(number(number(nil, 1, 7), 5, 1), 4, 3), 9, assignment))
	if !slices.Equal(gotOptions, want) {
		t.Errorf("the options became\n%x\nwant\n%x", gotOptions, want)
	}
	for _, bad := range [][]byte{{}, {0xff}, number(nil, 2, 1), message(nil, 3, []byte{0xff})} {
		if _, _, err := s.spanning(code, bad); err == nil {
			t.Errorf("options %x were taken", bad)
		}
	}
}

func TestSpanOf(t *testing.T) {
	all := []place{{5, 1}, {9, 0}, {2, 0}, {3, 1}, {7, 2}}
	s, err := spanOf(slices.Clone(all), []place{{3, 1}, {5, 1}})
	if err != nil || !slices.Equal(s.IDs, []int64{2, 9, 3, 5, 7}) || s.First != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := spanOf(slices.Clone(all), []place{{5, 1}, {3, 1}}); err == nil {
		t.Error("devices in another order than their ids were taken")
	}
}

func TestProcessesAreChecked(t *testing.T) {
	for _, p := range []Processes{{0, 0, nil}, {2, 2, nil}, {-1, 2, nil}, {0, 2, nil}} {
		if err := (Options{Processes: &p}).Validate(); err == nil || !strings.Contains(err.Error(), "process") {
			t.Errorf("%+v: %v", p, err)
		}
	}
	rt, problems := openKind(DefaultSearch(), CPU, Options{Processes: &Processes{Count: 2, Store: nil}})
	if rt == nil {
		t.Skip(problems)
	}
	defer rt.Close()
	if s, err := rt.Span(); err != nil || len(s.IDs) != 1 { // it has no collectives over processes
		t.Errorf("on the CPU the devices of all processes are %+v, %v", s, err)
	}
}
