package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var nan = math.NaN()

func tinyRows() []Row {
	return []Row{
		{"real", 0, 0, Real, "FD(mini-clip)", "mini", 0.15, 0.13, 0.17, 512, nil},
		{"teacher", 32, 64, Teacher, "FD(mini-clip)", "mini", 0.875, 0.8, 0.95, 512, nil},
		{"teacher", 4, 4, Undistilled, "FD(mini-clip)", "mini", 1.5, 1.4, 1.6, 512, nil},
		{"teacher", 2, 4, Undistilled, "FD(mini-clip)", "mini", 1.25, nan, nan, 512, nil},
		{`4step_lora, "rank 8"`, 4, 4, LoRA, "FD(mini-clip)", "mini", 1.0 / 3, 0.25, 0.5, 512, nil},
	}
}

func TestCSV(t *testing.T) {
	var b bytes.Buffer
	if err := WriteCSV(&b, tinyRows()); err != nil {
		t.Fatal(err)
	}
	want := `model,steps,calls,kind,metric,convention,value,low,high,samples
real,0,0,real,FD(mini-clip),mini,0.15,0.13,0.17,512
teacher,32,64,teacher,FD(mini-clip),mini,0.875,0.8,0.95,512
teacher,4,4,undistilled,FD(mini-clip),mini,1.5,1.4,1.6,512
teacher,2,4,undistilled,FD(mini-clip),mini,1.25,,,512
"4step_lora, ""rank 8""",4,4,lora,FD(mini-clip),mini,0.3333333333333333,0.25,0.5,512
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "report")
	r := &Report{Title: "tiny", Rows: tinyRows()}
	if err := Write(dir, r); err != nil {
		t.Fatal(err)
	}
	first := map[string][]byte{}
	for _, name := range []string{"index.html", "metrics.csv", "metrics.json"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		first[name] = raw
	}
	var back struct {
		Title   string
		Metrics []Metric
		Rows    []struct {
			Model     string
			Value     float64
			Low, High *float64
		}
	}
	if err := json.Unmarshal(first["metrics.json"], &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Rows) != 5 || back.Rows[3].Low != nil || back.Rows[4].High == nil || *back.Rows[4].High != 0.5 || back.Rows[4].Value != 1.0/3 {
		t.Errorf("metrics.json reads back as %+v", back)
	}
	if err := Write(dir, r); err != nil {
		t.Fatal(err)
	}
	for name, want := range first {
		if got, _ := os.ReadFile(filepath.Join(dir, name)); !bytes.Equal(got, want) {
			t.Errorf("%s differs when written again", name)
		}
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 3 {
		t.Errorf("the folder holds %v", entries)
	}

	bad := filepath.Join(t.TempDir(), "bad")
	rows := tinyRows()
	rows[2].Value = nan
	if err := Write(bad, &Report{Title: "x", Rows: rows}); err == nil {
		t.Error("NaN was written as a number")
	}
	if _, err := os.Stat(bad); !errors.Is(err, os.ErrNotExist) {
		t.Error("a refused report left something behind")
	}
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*Report){
		"has no title":                    func(r *Report) { r.Title = " " },
		"has no rows":                     func(r *Report) { r.Rows = nil },
		"row 1 (teacher, 32 steps":        func(r *Report) { r.Rows[1].Value = math.Inf(1) },
		"give two numbers, or NaN twice":  func(r *Report) { r.Rows[1].Low = nan },
		"does not hold the value":         func(r *Report) { r.Rows[1].Low, r.Rows[1].High = 0, 0 },
		`kind "distilled" is none of`:     func(r *Report) { r.Rows[4].Kind = "distilled" },
		"impossible counts":               func(r *Report) { r.Rows[2].Calls = 3 },
		"0 samples":                       func(r *Report) { r.Rows[2].Samples = 0 },
		"appears twice":                   func(r *Report) { r.Rows = append(r.Rows, r.Rows[2]) },
		"must be named":                   func(r *Report) { r.Rows[0].Convention = "" },
		"sheet 0 (holiday) is not a PNG":  func(r *Report) { r.Sheets = []Sheet{{Title: "holiday", PNG: []byte("GIF89a..")}} },
		"sheet 0 (cut): unexpected EOF":   func(r *Report) { r.Sheets = []Sheet{{Title: "cut", PNG: []byte("\x89PNG\r\n\x1a\n")}} },
		"row 2 (teacher, 4 steps, FD(min": func(r *Report) { r.Rows[2].Value = nan },
	} {
		r := &Report{Title: "tiny", Rows: tinyRows()}
		change(r)
		if err := Write(filepath.Join(t.TempDir(), "r"), r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// walk parses the page as XML, which is stricter than HTML, with the script
// (whose text is no markup) cut out.
func walk(t *testing.T, page string, visit func(xml.StartElement)) {
	t.Helper()
	page = regexp.MustCompile(`(?s)<script>.*</script>`).ReplaceAllString(page, "")
	d := xml.NewDecoder(strings.NewReader(page))
	d.Entity = xml.HTMLEntity
	for {
		token, err := d.Token()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatalf("page is not well-formed: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok {
			visit(e)
		}
	}
}

func attribute(e xml.StartElement, name string) (string, bool) {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value, true
		}
	}
	return "", false
}

func TestPage(t *testing.T) {
	r := demoReport(t)
	raw, err := renderPage(r)
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)

	ids := map[string]bool{}
	var links []string
	counts, captions := map[string]int{}, 0
	walk(t, page, func(e xml.StartElement) {
		counts[e.Name.Local]++
		if id, ok := attribute(e, "id"); ok {
			if ids[id] {
				t.Errorf("id %q twice", id)
			}
			ids[id] = true
		}
		for _, name := range []string{"href", "src", "action", "data", "srcset", "poster"} {
			v, ok := attribute(e, name)
			if ok && !strings.HasPrefix(v, "#") && !strings.HasPrefix(v, "data:image/") {
				t.Errorf("<%s %s=%q> leaves the file", e.Name.Local, name, v)
			}
			if ok && strings.HasPrefix(v, "#") {
				links = append(links, v[1:])
			}
		}
		switch e.Name.Local {
		case "link", "iframe", "object", "embed":
			t.Errorf("<%s> may load something", e.Name.Local)
		case "th":
			if _, ok := attribute(e, "scope"); !ok {
				t.Error("a <th> without scope")
			}
		case "caption":
			captions++
		case "img":
			if alt, ok := attribute(e, "alt"); !ok || (alt == "" && !ids["viewer-image"]) {
				t.Error("an <img> without alternative text")
			}
		}
	})
	for _, id := range links {
		if !ids[id] {
			t.Errorf("link to #%s, which is not there", id)
		}
	}
	if counts["h1"] != 1 || counts["main"] != 1 || counts["svg"] < 15 || counts["dialog"] != 1 {
		t.Errorf("structure %v", counts)
	}
	if captions != counts["table"] {
		t.Errorf("%d captions of %d tables", captions, counts["table"])
	}
	if regexp.MustCompile(`(?i)https?://|url\(|@import|fetch\(|XMLHttpRequest`).MatchString(page) {
		t.Error("the page names something outside itself")
	}
	if regexp.MustCompile(`(?i)[" ,MLHV](nan|[+-]?inf)[" ,MLHV]`).MatchString(strings.Replace(page, pageJS, "", 1)) {
		t.Error("a coordinate is not a number")
	}
	for _, row := range r.Rows {
		cells := fmt.Sprintf(`<tr><th scope="row">%s</th><td class="num" data-v="%d">%d</td><td class="num" data-v="%d">%d</td><td>%s</td><td>%s</td><td>%s</td><td class="num" data-v="%s">`,
			row.Model, row.Steps, row.Steps, row.Calls, row.Calls, row.Kind, row.Metric, row.Convention, number(row.Value))
		if !strings.Contains(page, cells) {
			t.Errorf("the table of all numbers lacks %+v", row)
		}
	}
	for _, want := range []string{
		"clearly better at 32, 8, 4, 2 and 1 calls",
		"&lt;b&gt;not markup&lt;/b&gt; &amp; such", r.Commands[0].Line, r.Lineage[0].SHA256, r.Warnings[0],
		"discriminator collapsed", "discriminator balanced", r.Stages[2].Phases[2].Notes[0],
		"a castle and a rocket at night", "script-src ", "×1.21 teacher",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if !strings.Contains(page, "<script>"+pageJS+"</script>") || !strings.Contains(page, "<style>"+pageCSS+"</style>") {
		t.Error("script or style are not what the policy's hashes are of")
	}
}

func TestPublishedStandsBeside(t *testing.T) {
	rows := []Row{
		{"8step", 8, 8, Full, "FID-Whole", "lightning", 22, 21, 23, 10000, nil},
		{"teacher", 32, 64, Teacher, "FID-Whole", "lightning", 18, 17, 19, 10000, nil},
	}
	r := &Report{Title: "x", Rows: rows, Published: Lightning()}
	raw, err := renderPage(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"21.43", "×1.16 its teacher", "arXiv 2402.13929"} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(string(raw), "What distillation bought") {
		t.Error("a verdict without a rival")
	}
}

// Under another convention no published value is shown, only its ratio to its own teacher.
func TestPublishedRatios(t *testing.T) {
	r := &Report{Title: "x", Published: Lightning(), Rows: []Row{
		{"8step", 8, 8, Full, "FD-Whole", "mini-clip", 22, 21, 23, 512, nil},
		{"teacher", 32, 64, Teacher, "FD-Whole", "mini-clip", 20, 17, 21, 512, nil},
	}}
	page := func() string {
		raw, err := renderPage(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	if strings.Contains(page(), "arXiv") {
		t.Error("a publication without any metric in common is shown")
	}
	r.Metrics = []Metric{{Name: "FD-Whole", Convention: "mini-clip", Counterpart: "FID-Whole"}}
	got := page()
	for _, want := range []string{"×1.10 teacher", "×1.16 its teacher", "×1.21 its teacher", "FID-Whole [lightning]", "arXiv 2402.13929"} {
		if !strings.Contains(got, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, unwanted := range []string{"21.43", "22.30", "18.49"} {
		if strings.Contains(got, unwanted) {
			t.Errorf("the page shows %s, a value of another convention", unwanted)
		}
	}
}

// Nothing a user names may become markup or script.
func TestPageEscapes(t *testing.T) {
	evil := `</script></style><script>alert(1)</script><img src=x onerror=alert(1)>"'`
	rows := tinyRows()
	for i := range rows {
		rows[i].Model, rows[i].Metric, rows[i].Convention = evil+fmt.Sprint(i), evil, evil
	}
	r := &Report{
		Title: evil, Summary: evil, Config: evil, Warnings: []string{evil}, Facts: []Fact{{evil, evil}}, Rows: rows,
		Stages: []Stage{{evil, []Phase{{Name: evil, Notes: []string{evil}, Curves: []Curve{{evil, []Point{{1, 1}, {2, 2}}}}}}}},
	}
	raw, err := renderPage(r)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(raw), "<script"); n != 1 {
		t.Errorf("%d script elements", n)
	}
	walk(t, string(raw), func(e xml.StartElement) {
		if _, ok := attribute(e, "onerror"); ok {
			t.Error("an injected attribute")
		}
	})
}

// Degenerate but legal data must not put NaN into a drawing.
func TestPageOfDegenerateData(t *testing.T) {
	flat := []Row{
		{"a", 1, 1, Full, "FD(x)", "mini", 0, 0, 0, 2, nil},
		{"b", 1, 1, Undistilled, "FD(x)", "mini", 0, nan, nan, 2, nil},
		{"c", 1, 1, Full, "score", "mini", -3, -3, -3, 2, nil},
		{"d", 1, 1, LoRA, "score", "mini", -3, nan, nan, 2, nil},
		{"e", 2, 2, LoRA, "alone", "mini", 1e-300, nan, nan, 2, nil},
	}
	r := &Report{Title: "flat", Rows: flat, Stages: []Stage{{"s", []Phase{{Name: "p", Curves: []Curve{
		{LossCurve, []Point{{1, 0}, {2, 0}, {3, nan}}}, {DLossCurve, nil}, {"one", []Point{{5, 1}}}, {"still", []Point{{5, 1}, {5, 2}}},
		{AccuracyCurve, []Point{{1, 1}, {100, 1}}}, {"steep", []Point{{1, 1e-30}, {2, 1e30}}},
	}}}}}}
	raw, err := renderPage(r)
	if err != nil {
		t.Fatal(err)
	}
	walk(t, string(raw), func(e xml.StartElement) {
		for _, name := range []string{"points", "d", "transform", "x1", "y1", "x", "y"} {
			if v, _ := attribute(e, name); strings.Contains(v, "NaN") || strings.Contains(v, "Inf") {
				t.Errorf("<%s %s=%q>", e.Name.Local, name, v)
			}
		}
	})
}
