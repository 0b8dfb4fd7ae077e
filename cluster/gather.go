package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// Gather returns the values of all ranks, by rank, once all have called it; so it is a barrier too. For each name all ranks must call
// it equally often. A message about a rank that others wait for gives the name.
func (m *Member) Gather(ctx context.Context, name string, value []byte) ([][]byte, error) {
	if m.hasLeft() {
		return nil, fmt.Errorf("%s: the ranks have left each other", name)
	}
	m.mu.Lock()
	m.sequence[name]++
	unique := name
	if n := m.sequence[name]; n > 1 {
		unique = fmt.Sprintf("%s (%d)", name, n)
	}
	m.mu.Unlock()
	if value == nil {
		value = []byte{}
	}
	for {
		var g gathered
		if err := m.call(ctx, "POST", "/gather?name="+url.QueryEscape(unique), value, &g); err != nil {
			return nil, err
		}
		if g.Missing == nil {
			return g.Values, nil
		}
	}
}

// Fact is something that must be the same on all ranks.
type Fact struct{ Name, Value string }

// Compare tells which of the facts differ between the ranks, and who has which value; the answer is the same on all.
func (m *Member) Compare(ctx context.Context, facts ...Fact) (differ []string, err error) {
	var names []string
	for _, f := range facts {
		names = append(names, f.Name)
	}
	mine, err := json.Marshal(facts)
	if err != nil {
		return nil, err
	}
	all, err := m.Gather(ctx, "comparing "+strings.Join(names, ", "), mine)
	if err != nil {
		return nil, err
	}
	values := make([][]string, len(facts)) // by fact and rank
	for rank, raw := range all {
		var theirs []Fact
		if json.Unmarshal(raw, &theirs) != nil || len(theirs) != len(facts) {
			return nil, m.Fail(CodeDiffers, &Failure{Rank: rank, Host: m.hostOf(rank), Code: CodeDiffers, Text: "compares other facts: it runs another command"})
		}
		for i, f := range theirs {
			values[i] = append(values[i], f.Value)
		}
	}
	for i, f := range facts {
		if text := m.differences(values[i]); text != "" {
			differ = append(differ, f.Name+" differs: "+text)
		}
	}
	return differ, nil
}

// Same ends the cluster unless all ranks give the same facts. The failure says what Compare tells.
func (m *Member) Same(ctx context.Context, facts ...Fact) error {
	differ, err := m.Compare(ctx, facts...)
	if err != nil || len(differ) == 0 {
		return err
	}
	return m.Fail(CodeDiffers, &Failure{Rank: -1, Code: CodeDiffers, Text: strings.Join(differ, "; ")})
}

// differences groups ranks by their values, the largest group first; "" where there is one group.
func (m *Member) differences(values []string) string {
	var order []string
	ranks := map[string][]int{}
	for rank, v := range values {
		if ranks[v] == nil {
			order = append(order, v)
		}
		ranks[v] = append(ranks[v], rank)
	}
	if len(order) == 1 {
		return ""
	}
	largest := order[0]
	for _, v := range order {
		if len(ranks[v]) > len(ranks[largest]) {
			largest = v
		}
	}
	parts := []string{m.having(ranks[largest], largest)}
	for _, v := range order {
		if v != largest {
			parts = append(parts, m.having(ranks[v], v))
		}
	}
	return strings.Join(parts, ", ")
}

func (m *Member) having(ranks []int, value string) string {
	if value == "" {
		value = "none"
	}
	if len(ranks) > 3 {
		return fmt.Sprintf("ranks %s have %s", ranges(ranks), value)
	}
	verb := "have"
	if len(ranks) == 1 {
		verb = "has"
	}
	return fmt.Sprintf("%s %s %s", rankNames(ranks, m.hostOf), verb, value)
}
