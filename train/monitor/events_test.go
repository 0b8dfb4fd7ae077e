package monitor

import (
	"bytes"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The golden files were made by TensorBoard's own writer and read back by its
// EventAccumulator: testdata/make_events.py, tensorboard 2.20.0.
func TestEventsAreTensorBoards(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "events")
	clock := func() time.Time { return time.Unix(1700000000, 250e6) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	e, err := openEvents(dir, 0, clock)
	must(err)
	r := Record{Kind: KindStep, Stage: "8to4", Phase: "lora-cond", Position: 16, Took: 250 * time.Millisecond,
		Values: Values{LossD: 1.5, Accuracy: 0.5, Gap: 0}}
	must(e.Update(r))
	r.Position, r.Took, r.Values = 32, 0, Values{LossD: math.NaN(), Accuracy: 0.75, Gap: -2}
	must(e.Update(r))
	var s message
	s.bytes(1, imageValue("sheet", 300, 2, []byte("\x89PNG not really")))
	must(e.summary(32, s))
	must(e.Text("note", 32, "größer **than** "+strings.Repeat("x", 200)))
	must(e.Scalar("acc", 48, 1))
	must(e.Close())

	e, err = openEvents(dir, 32, clock)
	must(err)
	r.Position, r.Values = 48, Values{Accuracy: 0.875}
	must(e.Update(r))
	must(e.Scalar("fid", 3<<40, 12.5))
	must(e.Close())

	for _, name := range []string{"events.out.tfevents.0000000001.fewstep", "events.out.tfevents.0000000002.fewstep"} {
		want, err := os.ReadFile(filepath.Join("testdata", "events", name))
		must(err)
		got, err := os.ReadFile(filepath.Join(dir, name))
		must(err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from TensorBoard's:\n%q\n%q", name, got, want)
		}
	}
}

// The checksum of RFC 3720, B.4: CRC-32C of 32 zero bytes is 0x8a9136aa.
func TestMaskedCRC(t *testing.T) {
	crc := uint32(0x8a9136aa)
	if got, want := maskedCRC(make([]byte, 32)), (crc>>15|crc<<17)+0xa282ead8; got != want {
		t.Errorf("got %#x, want %#x", got, want)
	}
}

func TestEventsImage(t *testing.T) {
	dir := t.TempDir()
	e, err := OpenEvents(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	img := image.NewRGBA(image.Rect(5, 5, 12, 8))
	if err := e.Image("sheet", 1, img); err != nil {
		t.Fatal(err)
	}
	if err := e.Update(Record{Position: 1}); err != nil { // nothing to write but the phase
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Scalar("x", 1, 1); err == nil {
		t.Error("writing after Close must fail")
	}
	b, _ := os.ReadFile(filepath.Join(dir, "events.out.tfevents.0000000001.fewstep"))
	at := bytes.Index(b, []byte("\x89PNG"))
	if at < 0 {
		t.Fatal("no PNG")
	}
	c, err := png.DecodeConfig(bytes.NewReader(b[at:]))
	if err != nil || c.Width != 7 || c.Height != 3 {
		t.Errorf("%+v, %v", c, err)
	}
	if err := e.Image("sheet", 1, image.NewRGBA(image.Rectangle{})); err == nil {
		t.Error("an empty image must be refused")
	}
}
