// Command minidata builds the sprites of scenes or a set of captioned emoji from
// the unpacked npm packages, or trains tokenizers on the captions of a data set;
// scripts/mini_data.sh fetches the packages and calls it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"fewstep/data"
	"fewstep/model/clip"
)

func main() {
	src := flag.String("src", "", "`folder` with the unpacked packages")
	out := flag.String("out", "", "parquet `file` to write")
	size := flag.Int("size", 64, "image side in pixels")
	keep := flag.Int("keep", 0, "choose about this many images that stand for all (0 = all)")
	tokenizers := flag.String("tokenizers", "", "instead, train tokenizer/ and tokenizer_2/ below this `folder` on the captions of the file given by -out")
	sprites := flag.Bool("sprites", false, "instead, write the sprites of scenes to the zip file given by -out")
	length := flag.Int("length", 32, "tokens of the text encoders' input")
	vocab := flag.Int("vocab", 2048, "most entries of a trained vocabulary")
	flag.Parse()
	if *tokenizers != "" && *out != "" {
		if err := trainTokenizers(*out, *tokenizers, *vocab, *length); err != nil {
			fmt.Fprintln(os.Stderr, "minidata:", err)
			os.Exit(1)
		}
		return
	}
	if *src == "" || *out == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "minidata: usage: minidata -src folder -out file.parquet [-size 64] [-keep n]")
		os.Exit(2)
	}
	if *sprites {
		n, err := data.BuildSprites(*src, *out)
		if err != nil {
			fmt.Fprintln(os.Stderr, "minidata:", err)
			os.Exit(1)
		}
		fmt.Printf("%s: %d sprites\n", *out, n)
		return
	}
	stats, err := data.BuildMini(*src, *out, data.MiniOptions{Size: *size, Keep: *keep})
	if err != nil {
		fmt.Fprintln(os.Stderr, "minidata:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: %d rows (%d train, %d eval), %d fine, %d kind and %d coarse captions\n",
		*out, stats.Rows, stats.Train, stats.Eval, stats.Captions, stats.Kinds, stats.Coarse)
}

func trainTokenizers(dataset, dir string, size, length int) error {
	set, err := data.Open(context.Background(), dataset, data.Options{})
	if err != nil {
		return err
	}
	var captions []string
	for i := range set.Len() {
		r := set.Row(i)
		captions = append(captions, r.Caption, r.Kind, r.Coarse)
	}
	v, err := clip.TrainBPE(captions, size)
	if err != nil {
		return err
	}
	for folder, pad := range map[string]string{"tokenizer": "<|endoftext|>", "tokenizer_2": "!"} {
		if err := v.Write(filepath.Join(dir, folder), length, pad); err != nil {
			return err
		}
	}
	t, err := clip.LoadTokenizer(filepath.Join(dir, "tokenizer"))
	if err != nil {
		return err
	}
	longest, text, cut := 0, "", 0
	for _, c := range captions {
		_, eos := t.Encode(c)
		if eos == length-1 {
			cut++
		}
		if eos+1 > longest {
			longest, text = eos+1, c
		}
	}
	fmt.Printf("%s: %d tokens; longest caption %d of %d (%q), %d as long\n", dir, len(v.Tokens), longest, length, text, cut)
	return nil
}
