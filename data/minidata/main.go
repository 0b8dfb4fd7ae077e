// Command minidata builds the captioned images of the mini pipeline from the
// unpacked npm packages; scripts/mini_data.sh fetches them and calls it.
package main

import (
	"flag"
	"fmt"
	"os"

	"fewstep/data"
)

func main() {
	src := flag.String("src", "", "`folder` with the unpacked packages")
	out := flag.String("out", "", "parquet `file` to write")
	size := flag.Int("size", 64, "image side in pixels")
	keep := flag.Int("keep", 0, "choose about this many images that stand for all (0 = all)")
	flag.Parse()
	if *src == "" || *out == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "minidata: usage: minidata -src folder -out file.parquet [-size 64] [-keep n]")
		os.Exit(2)
	}
	stats, err := data.BuildMini(*src, *out, data.MiniOptions{Size: *size, Keep: *keep})
	if err != nil {
		fmt.Fprintln(os.Stderr, "minidata:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: %d rows (%d train, %d eval), %d fine, %d kind and %d coarse captions\n",
		*out, stats.Rows, stats.Train, stats.Eval, stats.Captions, stats.Kinds, stats.Coarse)
}
