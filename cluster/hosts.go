package cluster

import (
	"fmt"
	"strconv"
	"strings"
)

// mostHosts bounds what a list of hosts may expand to.
const mostHosts = 1 << 16

// expandHosts expands Slurm's lists of hosts, in their order: "gpu[01-03,7],login" is gpu01, gpu02, gpu03, gpu7, login.
// Several brackets in a name multiply, the last one fastest.
func expandHosts(list string) ([]string, error) {
	var out []string
	for list != "" {
		names := []string{""}
		i := 0
		for i < len(list) && list[i] != ',' {
			if list[i] != '[' {
				for n := range names {
					names[n] += list[i : i+1]
				}
				i++
				continue
			}
			end := strings.IndexByte(list[i:], ']')
			if end < 0 {
				return nil, fmt.Errorf("%q: a bracket is not closed", list)
			}
			numbers, err := expandNumbers(list[i+1 : i+end])
			if err != nil {
				return nil, fmt.Errorf("%q: %w", list, err)
			}
			if len(names)*len(numbers) > mostHosts {
				return nil, fmt.Errorf("%q: more than %d hosts", list, mostHosts)
			}
			var longer []string
			for _, name := range names {
				for _, n := range numbers {
					longer = append(longer, name+n)
				}
			}
			names, i = longer, i+end+1
		}
		for _, name := range names {
			if name == "" || strings.ContainsAny(name, " ]") {
				return nil, fmt.Errorf("%q is no list of hosts", list)
			}
		}
		if out = append(out, names...); len(out) > mostHosts {
			return nil, fmt.Errorf("more than %d hosts", mostHosts)
		}
		list = strings.TrimPrefix(list[i:], ",")
	}
	return out, nil
}

// expandNumbers expands "01-03,7", keeping leading zeros.
func expandNumbers(text string) ([]string, error) {
	var out []string
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, err := strconv.Atoi(first)
		if err != nil {
			return nil, fmt.Errorf("%q is no number", first)
		}
		b, err := strconv.Atoi(last)
		if err != nil {
			return nil, fmt.Errorf("%q is no number", last)
		}
		if a < 0 || b < a || b-a >= mostHosts {
			return nil, fmt.Errorf("%q is no range", part)
		}
		for n := a; n <= b; n++ {
			out = append(out, fmt.Sprintf("%0*d", len(first), n))
		}
	}
	return out, nil
}
