package scenes

// A concept is a thing that captions name. Its sprites are the pictures of it: captions never tell which one was drawn.
type concept struct {
	one, many string
	group     int      // index into groups
	codes     []string // of its sprites: Unicode code points in hexadecimal, as both sprite packages name their files
}

// Groups are what a coarse caption says of a concept.
var groups = []struct{ one, many string }{
	{"an animal", "animals"}, {"a fruit", "fruits"}, {"a dish", "dishes"}, {"a plant", "plants"},
	{"a vehicle", "vehicles"}, {"a building", "buildings"}, {"an instrument", "instruments"}, {"a thing", "things"},
}

const (
	animal = iota
	fruit
	dish
	plant
	vehicle
	building
	instrument
	thing
)

var concepts = []concept{
	{"a dog", "dogs", animal, []string{"1F436", "1F415", "1F429", "1F9AE"}},
	{"a cat", "cats", animal, []string{"1F431", "1F408", "1F63A"}},
	{"a horse", "horses", animal, []string{"1F434", "1F40E"}},
	{"a cow", "cows", animal, []string{"1F42E", "1F404", "1F402"}},
	{"a pig", "pigs", animal, []string{"1F437", "1F416"}},
	{"a rabbit", "rabbits", animal, []string{"1F430", "1F407"}},
	{"a bird", "birds", animal, []string{"1F426", "1F99C", "1F424", "1F986"}},
	{"a fish", "fish", animal, []string{"1F41F", "1F420", "1F421"}},
	{"a bear", "bears", animal, []string{"1F43B", "1F43C"}},
	{"a monkey", "monkeys", animal, []string{"1F435", "1F412"}},
	{"an elephant", "elephants", animal, []string{"1F418"}},
	{"a turtle", "turtles", animal, []string{"1F422"}},
	{"a butterfly", "butterflies", animal, []string{"1F98B"}},
	{"a penguin", "penguins", animal, []string{"1F427"}},
	{"a frog", "frogs", animal, []string{"1F438"}},
	{"a lion", "lions", animal, []string{"1F981"}},
	{"an apple", "apples", fruit, []string{"1F34E", "1F34F"}},
	{"a banana", "bananas", fruit, []string{"1F34C"}},
	{"a strawberry", "strawberries", fruit, []string{"1F353"}},
	{"an orange", "oranges", fruit, []string{"1F34A"}},
	{"a pear", "pears", fruit, []string{"1F350"}},
	{"a melon", "melons", fruit, []string{"1F349", "1F348"}},
	{"a pizza", "pizzas", dish, []string{"1F355"}},
	{"a burger", "burgers", dish, []string{"1F354"}},
	{"a cake", "cakes", dish, []string{"1F370", "1F382"}},
	{"a doughnut", "doughnuts", dish, []string{"1F369"}},
	{"an ice cream", "ice creams", dish, []string{"1F366", "1F368", "1F367"}},
	{"a loaf", "loaves", dish, []string{"1F35E", "1F956"}},
	{"a tree", "trees", plant, []string{"1F333", "1F332", "1F334"}},
	{"a flower", "flowers", plant, []string{"1F33B", "1F337", "1F339", "1F33A", "1F338", "1F33C"}},
	{"a cactus", "cacti", plant, []string{"1F335"}},
	{"a leaf", "leaves", plant, []string{"1F341", "1F343", "1F340"}},
	{"a mushroom", "mushrooms", plant, []string{"1F344"}},
	{"a car", "cars", vehicle, []string{"1F697", "1F699", "1F695", "1F698"}},
	{"a bus", "buses", vehicle, []string{"1F68C", "1F68D"}},
	{"a truck", "trucks", vehicle, []string{"1F69A", "1F69B", "1F692"}},
	{"a train", "trains", vehicle, []string{"1F682", "1F686"}},
	{"a bicycle", "bicycles", vehicle, []string{"1F6B2"}},
	{"a boat", "boats", vehicle, []string{"26F5", "1F6A4"}},
	{"a rocket", "rockets", vehicle, []string{"1F680"}},
	{"a house", "houses", building, []string{"1F3E0", "1F3E1"}},
	{"a castle", "castles", building, []string{"1F3F0", "1F3EF"}},
	{"a tent", "tents", building, []string{"26FA"}},
	{"a church", "churches", building, []string{"26EA"}},
	{"a guitar", "guitars", instrument, []string{"1F3B8"}},
	{"a drum", "drums", instrument, []string{"1F941"}},
	{"a trumpet", "trumpets", instrument, []string{"1F3BA"}},
	{"a violin", "violins", instrument, []string{"1F3BB"}},
	{"a ball", "balls", thing, []string{"26BD", "1F3C0", "26BE", "1F3BE", "1F3D0"}},
	{"a hat", "hats", thing, []string{"1F3A9", "1F452", "1F9E2"}},
	{"a shoe", "shoes", thing, []string{"1F45F", "1F45E", "1F97E"}},
	{"an umbrella", "umbrellas", thing, []string{"2614", "26F1"}},
	{"a clock", "clocks", thing, []string{"23F0", "1F570"}},
	{"a key", "keys", thing, []string{"1F511", "1F5DD"}},
	{"a book", "books", thing, []string{"1F4D5", "1F4D7", "1F4D8", "1F4D9"}},
	{"a present", "presents", thing, []string{"1F381"}},
	{"a balloon", "balloons", thing, []string{"1F388"}},
	{"a cup", "cups", thing, []string{"2615", "1F375"}},
	{"a bell", "bells", thing, []string{"1F514"}},
	{"a heart", "hearts", thing, []string{"2764", "1F499", "1F49A", "1F49B", "1F49C"}},
	{"a star", "stars", thing, []string{"2B50", "1F31F"}},
	{"a pumpkin", "pumpkins", thing, []string{"1F383"}},
	{"a robot", "robots", thing, []string{"1F916"}},
	{"a ghost", "ghosts", thing, []string{"1F47B"}},
}
