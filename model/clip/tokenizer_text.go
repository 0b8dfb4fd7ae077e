package clip

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	startOfText = "<|startoftext|>"
	endOfText   = "<|endoftext|>"
	endOfWord   = "</w>"
)

// byteRunes spells each byte as one printable character, as in GPT-2's
// byte-level vocabulary: printable Latin-1 bytes stand for themselves, the
// others for the characters from U+0100 on.
var byteRunes = func() (runes [256]rune) {
	next := rune(0x100)
	for b := range 256 {
		if isPrintableByte(b) {
			runes[b] = rune(b)
		} else {
			runes[b] = next
			next++
		}
	}
	return runes
}()

func isPrintableByte(b int) bool {
	return '!' <= b && b <= '~' || 0xa1 <= b && b <= 0xac || 0xae <= b && b <= 0xff
}

// normalizeText composes characters (NFC), turns each run of white space into
// one blank and lowers the case, character by character.
func normalizeText(text string) string {
	text = norm.NFC.String(strings.ToValidUTF8(text, "\uFFFD"))
	var b strings.Builder
	b.Grow(len(text))
	inSpace := false
	for _, r := range text {
		if isSpace(r) {
			if !inSpace {
				b.WriteByte(' ')
			}
			inSpace = true
			continue
		}
		inSpace = false
		if r == 'İ' { // the one character whose lower case is two
			b.WriteString("i\u0307")
			continue
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func isSpace(r rune) bool { return unicode.Is(unicode.White_Space, r) }

// contractions are split off as pre-tokens of their own wherever they follow
// neither a letter run nor other punctuation, in the order of CLIP's pattern.
var contractions = []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}

// splitWords applies CLIP's pre-tokenizer to normalised text:
//
//	<|startoftext|>|<|endoftext|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+
//
// What matches nothing (white space) is dropped. The two literal tokens, reached
// only where they are not special tokens of the folder, fall into three pieces
// by the byte-level pattern that follows in the reference.
func splitWords(text string) []string {
	var words []string
	for len(text) > 0 {
		n := 0
		r, width := utf8.DecodeRuneInString(text)
		switch {
		case isSpace(r):
			text = text[width:]
			continue
		case strings.HasPrefix(text, startOfText), strings.HasPrefix(text, endOfText):
			n = strings.IndexByte(text, '>') + 1
			words = append(words, text[:2], text[2:n-2], text[n-2:n])
			text = text[n:]
			continue
		case r == '\'' && contraction(text) > 0:
			n = contraction(text)
		case unicode.IsLetter(r):
			n = runLength(text, unicode.IsLetter)
		case unicode.IsNumber(r):
			n = width
		default:
			n = runLength(text, func(r rune) bool { return !isSpace(r) && !unicode.IsLetter(r) && !unicode.IsNumber(r) })
		}
		words = append(words, text[:n])
		text = text[n:]
	}
	return words
}

func contraction(text string) int {
	for _, c := range contractions {
		if strings.HasPrefix(text, c) {
			return len(c)
		}
	}
	return 0
}

// runLength returns the length in bytes of the leading characters that satisfy
// in.
func runLength(text string, in func(rune) bool) int {
	for i, r := range text {
		if !in(r) {
			return i
		}
	}
	return len(text)
}
