package report

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

var shotsDir = flag.String("shots", "", "write screenshots and a PDF of the page that is tested into this folder")

// browser opens the demonstration page in a headless Chromium. Every test ends with a look at what the page did: it
// must neither complain nor ask the network for anything.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if found, err := exec.LookPath(name); err == nil && path == "" {
			path = found
		}
	}
	if path == "" {
		t.Skip("no chromium on this machine: install it (Debian: apt-get install chromium) to test the page in a browser")
	}
	dir := t.TempDir()
	if err := Write(dir, demoReport(t)); err != nil {
		t.Fatal(err)
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.Flag("disable-gpu", true))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's sandbox does not work for root
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)

	address := "file://" + filepath.Join(dir, "index.html")
	var mu sync.Mutex
	var complaints, requests []string
	err := chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			if e.Request.URL != address && !strings.HasPrefix(e.Request.URL, "data:") {
				requests = append(requests, e.Request.URL)
			}
		case *runtime.EventExceptionThrown:
			complaints = append(complaints, e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			complaints = append(complaints, fmt.Sprintf("console.%s", e.Type))
		case *log.EventEntryAdded:
			complaints = append(complaints, e.Entry.Text)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	do(t, ctx, command(network.Enable, network.EnableParams{}), command(log.Enable, cdp.Empty{}), command(runtime.Enable, cdp.Empty{}), width(1280), chromedp.Navigate(address), chromedp.WaitReady(chromedp.CSS("body")))
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		if len(complaints) > 0 || len(requests) > 0 {
			t.Errorf("the page complained %q and asked for %q", complaints, requests)
		}
	})
	return ctx
}

func do(t *testing.T, ctx context.Context, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	for _, a := range actions {
		get(t, ctx, a)
	}
}

func get[T any](t *testing.T, ctx context.Context, action chromedp.Action[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// command is a command of the browser's protocol as an action without a result.
func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, c, params)
		return err
	})
}

// ask evaluates a JavaScript expression.
func ask[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	return get(t, ctx, chromedp.Evaluate[T](expression))
}

func width(px int64) chromedp.Action[chromedp.Void] {
	return command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: px, Height: 800, DeviceScaleFactor: 1, Mobile: px < 600})
}

func media(kind, scheme string) chromedp.Action[chromedp.Void] {
	return command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: kind, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

// shot keeps what the action photographs.
func shot(t *testing.T, ctx context.Context, name string, action chromedp.Action[[]byte]) {
	t.Helper()
	if *shotsDir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(*shotsDir, name), get(t, ctx, action), 0o644); err != nil {
		t.Fatal(err)
	}
}

// beyond lists what reaches over the window's edge although nothing lets it scroll there.
const beyond = `[...document.body.querySelectorAll("*")].filter(e => {
	const box = e.getBoundingClientRect(), s = getComputedStyle(e);
	if (box.width === 0 || s.position === "absolute" || e.closest(".scroll, nav ul, pre, svg, .sr, dialog") !== null && !e.matches(".scroll, nav ul, pre, svg")) return false;
	return box.right > innerWidth + 0.5 || box.left < -0.5;
}).map(e => e.tagName + "." + e.className).slice(0, 5).join(" ")`

// illegible lists text whose contrast with what lies behind it is below WCAG's 4.5.
const illegible = `(() => {
	const parse = c => c.match(/[\d.]+/g).map(Number);
	const light = ([r, g, b]) => [r, g, b].map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
	const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
	const bad = new Set();
	for (const e of document.body.querySelectorAll("*")) {
		if (e.closest("dialog, script, style, .sr, .hint, .skip") || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.getClientRects().length === 0) continue;
		const s = getComputedStyle(e), a = light(parse(e.closest("svg") ? s.fill : s.color)), b = light(behind(e));
		if ((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5) bad.add(e.tagName + "." + (e.className.baseVal ?? e.className));
	}
	return [...bad].join(" ");
})()`

func TestBrowserLayout(t *testing.T) {
	ctx := browser(t)
	for _, scheme := range []string{"light", "dark"} {
		for _, px := range []int64{360, 768, 1280} {
			do(t, ctx, media("screen", scheme), width(px))
			if got := ask[int64](t, ctx, `document.documentElement.scrollWidth`); got > px {
				t.Errorf("at %d pixels the page is %d wide", px, got)
			}
			if got := ask[string](t, ctx, beyond); got != "" {
				t.Errorf("at %d pixels, beyond the edge: %s", px, got)
			}
			if got := ask[string](t, ctx, illegible); got != "" {
				t.Errorf("at %d pixels, %s: too little contrast: %s", px, scheme, got)
			}
			if got := ask[float64](t, ctx, `Math.min(...[...document.querySelectorAll("button, summary, nav a")].filter(e => e.offsetParent && !e.closest("dialog")).map(e => e.getBoundingClientRect().height))`); got < 24 {
				t.Errorf("at %d pixels, something to press is %g pixels high", px, got)
			}
			shot(t, ctx, fmt.Sprintf("%s-%d.png", scheme, px), chromedp.FullScreenshot(100))
		}
	}
	dark := ask[string](t, ctx, `getComputedStyle(document.body).backgroundColor`)
	do(t, ctx, media("screen", "light"))
	if light := ask[string](t, ctx, `getComputedStyle(document.body).backgroundColor`); light != "rgb(255, 255, 255)" || dark == light {
		t.Errorf("the page is %s in light mode and %s in dark mode", light, dark)
	}
}

func TestBrowserEnlarge(t *testing.T) {
	ctx := browser(t)
	state := func() string {
		t.Helper()
		return ask[string](t, ctx, `[viewer.open, document.getElementById("viewer-image").src === document.querySelector(".enlarge img").src,
			document.getElementById("viewer-title").textContent, document.activeElement === document.querySelector(".enlarge"),
			document.querySelector(".stage").classList.contains("actual")].join("|")`)
	}
	const opened, closed = "true|true|Every step count beside the teacher|false|false", "false|true|Every step count beside the teacher|true|false"
	expect := func(what, want string) {
		t.Helper()
		if got := state(); got != want {
			t.Errorf("%s: open|same image|title|focus returned|actual size = %s, want %s", what, got, want)
		}
	}
	for _, px := range []int64{1280, 360} {
		do(t, ctx, width(px), chromedp.Click(chromedp.CSS(".enlarge")), chromedp.WaitVisible(chromedp.CSS("#viewer")))
		fit, actual := opened, strings.Replace(opened, "false|false", "false|true", 1)
		if px < 600 { // to fit the window would enlarge nothing
			fit, actual = actual, fit
		}
		expect("a click on the sheet", fit)
		if got := ask[string](t, ctx, `(() => { const b = viewer.getBoundingClientRect(); return [b.left, b.top, b.width === innerWidth].join("|"); })()`); got != "0|0|true" {
			t.Errorf("the dialog does not fill the window: left|top|as wide = %s", got)
		}
		shot(t, ctx, fmt.Sprintf("enlarged-%d.png", px), chromedp.CaptureScreenshot())
		do(t, ctx, chromedp.Click(chromedp.CSS("#viewer-zoom")))
		expect("the button beside Close", actual)
		do(t, ctx, chromedp.Click(chromedp.CSS("#viewer-close")))
		if got := state(); !strings.HasPrefix(got, "false|") {
			t.Errorf("the button to close: %s", got)
		}
	}
	// The same without a mouse.
	do(t, ctx, width(1280), chromedp.Focus(chromedp.CSS(".enlarge")), chromedp.KeyEvent(kb.Enter))
	expect("Enter on the sheet", opened)
	do(t, ctx, chromedp.KeyEvent(kb.Escape))
	expect("Escape", closed)
	do(t, ctx, chromedp.KeyEvent(" "))
	expect("the space bar", opened)
	for range 4 { // the focus stays in the dialog
		do(t, ctx, chromedp.KeyEvent(kb.Tab))
		if inside := ask[bool](t, ctx, `document.activeElement === document.body || viewer.contains(document.activeElement)`); !inside {
			t.Error("Tab leaves the open dialog")
		}
	}
	do(t, ctx, chromedp.Focus(chromedp.CSS("#viewer-close")), chromedp.KeyEvent(kb.Enter))
	expect("Enter on Close", closed)
}

func TestBrowserSort(t *testing.T) {
	ctx := browser(t)
	column := func(k int) []string {
		return strings.Split(ask[string](t, ctx, fmt.Sprintf(`[...document.querySelector(".sortable").tBodies[0].rows].map(r => r.cells[%d].dataset.v ?? r.cells[%d].textContent).join("|")`, k, k)), "|")
	}
	sorted := func(k int, want string) {
		t.Helper()
		got := ask[string](t, ctx, `[...document.querySelectorAll(".sortable th[aria-sort]")].map(h => h.cellIndex + h.getAttribute("aria-sort")).join("|")`)
		if got != fmt.Sprint(k)+want {
			t.Errorf("aria-sort %q, want column %d %s", got, k, want)
		}
		for i, v := range column(k)[1:] {
			var a, b float64
			fmt.Sscan(column(k)[i], &a)
			fmt.Sscan(v, &b)
			if want == "ascending" && a > b || want == "descending" && a < b {
				t.Fatalf("column %d is not %s: %g before %g", k, want, a, b)
			}
		}
	}
	before := column(6)
	button := `.sortable th:nth-child(7) button`
	do(t, ctx, chromedp.Click(chromedp.CSS(button)))
	sorted(6, "ascending")
	do(t, ctx, chromedp.Click(chromedp.CSS(button)))
	sorted(6, "descending")
	do(t, ctx, chromedp.Focus(chromedp.CSS(`.sortable th:nth-child(2) button`)), chromedp.KeyEvent(kb.Enter))
	sorted(1, "ascending")
	if said := ask[string](t, ctx, `document.getElementById("sorted").textContent`); said != "Sorted by steps, ascending" {
		t.Errorf("a screen reader is told %q", said)
	}
	after := column(6)
	slices.Sort(before)
	slices.Sort(after)
	if !slices.Equal(before, after) {
		t.Error("sorting changed the rows")
	}
}

// TestBrowserAccessibility looks at the page as a screen reader does: everything has a role with a name.
func TestBrowserAccessibility(t *testing.T) {
	ctx := browser(t)
	tree := get(t, ctx, func(ctx context.Context, target *chromedp.Target) (accessibility.GetFullAXTreeResult, error) {
		return cdp.Call(ctx, target, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	})
	text := func(v *accessibility.Value) string {
		if v == nil {
			return ""
		}
		return strings.Trim(string(v.Value), `"`)
	}
	counts := map[string]int{}
	for _, n := range tree.Nodes {
		if n.Ignored {
			continue
		}
		role := text(n.Role)
		counts[role]++
		switch role {
		case "button", "link", "image", "table", "region", "navigation", "columnheader", "rowheader", "heading", "dialog":
			if strings.TrimSpace(text(n.Name)) == "" {
				t.Errorf("a %s without a name", role)
			}
		}
	}
	for role, least := range map[string]int{"main": 1, "navigation": 1, "heading": 20, "table": 7, "columnheader": 30, "rowheader": 50, "image": 15, "button": 11} {
		if counts[role] < least {
			t.Errorf("%d of role %s, want at least %d", counts[role], role, least)
		}
	}
	// Headings go down one level at a time.
	if got := ask[string](t, ctx, `(() => { let last = 0; for (const h of document.querySelectorAll("h1, h2, h3, h4")) { const n = +h.tagName[1]; if (n > last + 1) return h.textContent; last = n; } return ""; })()`); got != "" {
		t.Errorf("the heading %q skips a level", got)
	}
}

func TestBrowserPrint(t *testing.T) {
	ctx := browser(t)
	do(t, ctx, media("print", "dark"), width(700))
	if got := ask[string](t, ctx, illegible); got != "" {
		t.Errorf("on paper, too little contrast: %s", got)
	}
	if got := ask[int](t, ctx, `[...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1).length`); got != 0 {
		t.Errorf("%d tables are cut off on paper: %s", got, ask[string](t, ctx, `[...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.ariaLabel + " " + e.scrollWidth + " of " + e.clientWidth).join("; ")`))
	}
	pdf := get(t, ctx, chromedp.PrintToPDF(chromedp.PDFPaper(chromedp.PaperA4), chromedp.PDFPreferCSSPageSize(), chromedp.PDFPrintBackground()))
	if pages := strings.Count(string(pdf), "/Type /Page\n"); pages < 3 || pages > 24 {
		t.Errorf("the report prints on %d pages", pages)
	}
	if closed := ask[int](t, ctx, `document.querySelectorAll("details:not([open])").length`); closed != 0 {
		t.Errorf("%d parts of the page are not on paper", closed)
	}
	if *shotsDir != "" {
		if err := os.WriteFile(filepath.Join(*shotsDir, "print.pdf"), pdf, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
