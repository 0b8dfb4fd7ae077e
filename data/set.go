package data

// Row describes one image of a Set.
type Row struct {
	Key     string  // unique name, or "row<number>"
	Caption string  // fine caption, never empty
	Kind    string  // kind of thing, without details; may be empty
	Coarse  string  // group caption shared by many images; may be empty
	Concept string  // what is shown, without the style; may be empty
	Style   string  // may be empty
	Split   string  // "train", "eval", or empty
	Weight  float32 // expected draws per epoch; 1 where the source says nothing
}
