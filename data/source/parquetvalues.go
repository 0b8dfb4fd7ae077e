package source

import (
	"errors"
	"io"
	"math"

	"github.com/parquet-go/parquet-go"
)

// columnReader gives a column's values row by row.
type columnReader struct {
	pages    parquet.Pages
	page     parquet.Page
	values   parquet.ValueReader
	buffer   []parquet.Value
	at, n    int
	repeated bool
	ended    bool
}

// peek is the next value; io.EOF after the last.
func (c *columnReader) peek() (parquet.Value, error) {
	for c.at == c.n {
		if c.ended {
			return parquet.Value{}, io.EOF
		}
		if c.values == nil {
			page, err := c.pages.ReadPage()
			if errors.Is(err, io.EOF) {
				c.ended = true
				continue
			}
			if err != nil {
				return parquet.Value{}, err
			}
			c.page, c.values = page, page.Values()
		}
		n, err := c.values.ReadValues(c.buffer)
		for i := range n {
			if c.repeated || c.buffer[i].Kind() == parquet.FixedLenByteArray {
				c.buffer[i] = c.buffer[i].Clone() // kept beyond its page
			}
		}
		c.at, c.n = 0, n
		if errors.Is(err, io.EOF) || err == nil && n == 0 {
			if n == 0 {
				parquet.Release(c.page)
			} // else its bytes are still needed; the collector takes it
			c.page, c.values = nil, nil
		} else if err != nil {
			return parquet.Value{}, err
		}
	}
	return c.buffer[c.at], nil
}

// row gives the values of the next row.
func (c *columnReader) row(to []parquet.Value) ([]parquet.Value, error) {
	to = to[:0]
	for {
		v, err := c.peek()
		if errors.Is(err, io.EOF) && len(to) > 0 {
			return to, nil
		}
		if err != nil {
			return to, err
		}
		if len(to) > 0 && (!c.repeated || v.RepetitionLevel() == 0) {
			return to, nil
		}
		to = append(to, v)
		c.at++
		if !c.repeated {
			return to, nil
		}
	}
}

func (c *columnReader) close() {
	if c.page != nil {
		parquet.Release(c.page)
	}
	c.pages.Close()
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// number reads a weight: a float of 16 to 64 bits or an integer.
func number(v parquet.Value) float32 {
	switch v.Kind() {
	case parquet.Float:
		return v.Float()
	case parquet.Double:
		return float32(v.Double())
	case parquet.Int32:
		return float32(v.Int32())
	case parquet.Int64:
		return float32(v.Int64())
	case parquet.FixedLenByteArray:
		if b := v.ByteArray(); len(b) == 2 {
			return half(uint16(b[0]) | uint16(b[1])<<8)
		}
	}
	return float32(math.NaN())
}

// half reads an IEEE number of 16 bits.
func half(h uint16) float32 {
	sign, exponent, fraction := float64(1), int(h>>10&31), float64(h&1023)
	if h>>15 == 1 {
		sign = -1
	}
	switch exponent {
	case 0:
		return float32(sign * fraction * math.Exp2(-24))
	case 31:
		if fraction != 0 {
			return float32(math.NaN())
		}
		return float32(math.Inf(int(sign)))
	}
	return float32(sign * (1 + fraction/1024) * math.Exp2(float64(exponent-15)))
}

// plain is a value as filters take it.
func plain(values []parquet.Value) any {
	if len(values) == 0 || values[0].IsNull() {
		return nil
	}
	switch v := values[0]; v.Kind() {
	case parquet.Boolean:
		return v.Boolean()
	case parquet.Int32:
		return int64(v.Int32())
	case parquet.Int64:
		return v.Int64()
	case parquet.Float:
		return float64(v.Float())
	case parquet.Double:
		return v.Double()
	case parquet.ByteArray:
		return string(v.ByteArray())
	}
	return nil
}
