package clip

import (
	"html"
	"strings"

	"golang.org/x/text/width"
)

// ligatures are what ftfy takes apart.
var ligatures = strings.NewReplacer("ĳ", "ij", "Ĳ", "IJ", "ŉ", "ʼn", "Ǆ", "DŽ", "ǅ", "Dž", "ǆ", "dž", "Ǉ", "LJ", "ǈ", "Lj", "ǉ", "lj", "Ǌ", "NJ", "ǋ", "Nj", "ǌ", "nj",
	"ﬀ", "ff", "ﬁ", "fi", "ﬂ", "fl", "ﬃ", "ffi", "ﬄ", "ffl", "ﬅ", "st", "ﬆ", "st")

// quotes are what ftfy straightens.
var quotes = strings.NewReplacer("‘", "'", "’", "'", "‚", "'", "‛", "'", "ʼ", "'", "“", `"`, "”", `"`, "„", `"`, "‟", `"`)

// repairText does to a caption what open_clip's and OpenAI's tokenizers do before anything else: HTML entities are
// resolved, and of ftfy's repairs those that do not guess are made: quotes, ligatures, full- and half-width letters,
// control characters. Text that was decoded with the wrong character set stays as it is.
func repairText(text string) string {
	if !strings.Contains(text, "<") { // with a tag in it, ftfy takes the text for HTML and leaves entities alone
		text = html.UnescapeString(text)
	}
	text = width.Fold.String(quotes.Replace(ligatures.Replace(text)))
	text = strings.Map(func(r rune) rune {
		if r < ' ' && !strings.ContainsRune("\t\n\f\r", r) || r == 0x7f || r == '\ufeff' || 0x206a <= r && r <= 0x206f || 0xfff9 <= r && r <= 0xfffc {
			return -1
		}
		return r
	}, text)
	return html.UnescapeString(html.UnescapeString(text))
}
