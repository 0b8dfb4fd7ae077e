package data

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// coarseWords names each emoji subgroup in everyday words. Several subgroups
// share a name on purpose: a coarse caption stands for many different images.
// A subgroup that is missing here is left out of the mini data.
var coarseWords = map[string]string{
	"face-smiling": "face", "face-affection": "face", "face-tongue": "face", "face-hand": "face",
	"face-neutral-skeptical": "face", "face-sleepy": "face", "face-unwell": "face", "face-hat": "face",
	"face-glasses": "face", "face-concerned": "face", "face-negative": "face", "face-costume": "creature",
	"cat-face": "animal", "monkey-face": "animal", "animal-mammal": "animal", "animal-amphibian": "animal",
	"animal-reptile": "reptile", "animal-bird": "bird", "animal-marine": "sea animal", "animal-bug": "insect",
	"heart": "heart", "emotion": "symbol",
	"hand-fingers-open": "hand", "hand-fingers-partial": "hand", "hand-single-finger": "hand",
	"hand-fingers-closed": "hand", "hands": "hand", "hand-prop": "hand", "body-parts": "body part",
	"person": "person", "person-gesture": "person", "person-role": "worker", "person-fantasy": "fantasy character",
	"person-activity": "active person", "person-sport": "sports person", "person-resting": "resting person",
	"family": "couple", "person-symbol": "symbol",
	"plant-flower": "flower", "plant-other": "plant",
	"food-fruit": "fruit", "food-vegetable": "vegetable", "food-prepared": "food", "food-asian": "food",
	"food-sweet": "dessert", "drink": "drink", "dishware": "kitchen tool",
	"place-map": "map", "place-geographic": "landscape", "place-building": "building",
	"place-religious": "building", "place-other": "landscape",
	"transport-ground": "vehicle", "transport-water": "boat", "transport-air": "aircraft",
	"hotel": "object", "time": "clock", "sky & weather": "sky",
	"event": "celebration", "award-medal": "medal", "sport": "sports equipment", "game": "game",
	"arts & crafts": "art", "clothing": "clothing", "sound": "sound", "music": "music",
	"musical-instrument": "musical instrument", "phone": "electronic device", "computer": "electronic device",
	"light & video": "camera or light", "book-paper": "book or paper", "money": "money", "mail": "mail",
	"writing": "writing tool", "office": "office supply", "lock": "lock or key", "tool": "tool",
	"science": "science", "medical": "medicine", "household": "household object", "other-object": "object",
	"transport-sign": "sign", "warning": "warning sign", "arrow": "arrow", "religion": "religious symbol",
	"zodiac": "zodiac sign", "av-symbol": "button", "gender": "symbol", "math": "math symbol",
	"punctuation": "punctuation mark", "currency": "symbol", "other-symbol": "symbol", "keycap": "keycap",
	"alphanum": "button", "geometric": "shape", "flag": "flag", "country-flag": "flag", "subdivision-flag": "flag",
}

// subgroupKinds gives the middle caption of a whole subgroup where kindTable
// has nothing more exact.
var subgroupKinds = map[string]string{
	"face-smiling": "happy face", "face-affection": "loving face", "face-tongue": "face with tongue",
	"face-hand": "face with hands", "face-neutral-skeptical": "neutral face", "face-sleepy": "sleepy face",
	"face-unwell": "sick face", "face-hat": "face with hat", "face-glasses": "face with glasses",
	"face-concerned": "sad face", "face-negative": "angry face", "cat-face": "cat face", "monkey-face": "monkey",
	"hand-fingers-open": "open hand", "hand-fingers-partial": "hand sign", "hand-single-finger": "pointing finger",
	"hand-fingers-closed": "fist", "hands": "two hands", "country-flag": "country flag",
	"subdivision-flag": "country flag", "zodiac": "zodiac sign", "place-religious": "place of worship",
	"food-asian": "asian food",
}

// kindTable maps words of a concept to the kind of thing that it shows:
// "subgroup prefix / kind: phrase, phrase…", the first matching line wins.
// A phrase matches whole words. An empty prefix matches every subgroup.
const kindTable = `
face-negative/skull: skull
hand-fingers-closed/thumb: thumbs
face-concerned/surprised face: open mouth, hushed, astonished, flushed, screaming, fearful, anguished
face-concerned/crying face: crying, tears
face-costume/alien: alien
face-costume/monster: ogre, goblin
animal/dog: dog, poodle
animal/cat: cat
animal/big cat: tiger, leopard, lion
animal/mouse: mouse, rat, hamster
animal/cattle: cow, ox, buffalo, bison
animal/rabbit: rabbit
animal/monkey: monkey, gorilla, orangutan
animal/pig: pig, boar
animal/horse: horse, unicorn, donkey, zebra
animal/goat: goat, ram, ewe
animal/camel: camel, llama
animal/bear: bear, panda, koala
animal/deer: deer, moose
animal/elephant: elephant, mammoth
animal/fox or wolf: fox, wolf
animal/small mammal: chipmunk, raccoon, beaver, hedgehog, otter, badger, skunk
animal/dragon: dragon
animal/dinosaur: sauropod, t-rex
animal/whale: whale, dolphin
animal/fish: fish, blowfish, shark
animal/octopus: octopus, squid
animal/shellfish: crab, lobster, shrimp
animal/shell: shell, oyster
animal/chick: chick
animal/chicken: chicken, rooster, turkey
animal/water bird: duck, swan, goose, flamingo
animal/small bird: bird, dove
animal/beetle: beetle, cockroach
animal/flying insect: fly, mosquito, honeybee, butterfly
animal/spider: spider
heart/heart with a sign: heart with arrow, heart with ribbon, broken heart, mending heart, heart on fire, love letter
heart/several hearts: hearts, beating heart, growing heart, sparkling heart
heart/plain heart: red heart, blue heart, green heart, yellow heart, purple heart, black heart, white heart, brown heart, orange heart, light blue heart, grey heart, pink heart
emotion/speech bubble: speech, thought, anger bubble
plant/tree: tree
plant/leaf: leaf, shamrock, herb, clover
plant/nest: nest
plant/red flower: rose, tulip, hibiscus, wilted flower
plant/pink flower: cherry blossom, lotus, blossom
event/decorated tree: tree, decoration
food/apple: apple
food/citrus fruit: tangerine, lemon, lime
food/berries: strawberry, blueberries, cherries, grapes
food/melon: melon, watermelon
food/pepper: pepper
food/mushroom: mushroom
food/root vegetable: carrot, potato, ginger root, root vegetable
food/nuts: peanuts, chestnut, beans
food/sandwich: sandwich, hamburger, hot dog, taco, burrito, stuffed flatbread
food/bread: bread, croissant, bagel, pretzel, flatbread
food/meat: meat, poultry, bacon
food/bowl of food: bowl, salad, pot of food, cooked rice, curry rice, fondue, spaghetti
food/rice: rice
food/pan of food: cooking, pan
food/breakfast: pancakes, waffle, egg, butter
food/ice cream: ice cream, shaved ice
food-sweet/cake: cake, shortcake, cupcake, pie
food/sweets: candy, lollipop, chocolate, cookie, doughnut
drink/cup: teacup, hot beverage, sake, teapot, mate
drink/beer: beer
drink/glass: glass, glasses, drink
drink/bottle: bottle
drink/cup with straw: straw, bubble tea, beverage box
dishware/cutlery: fork, spoon, knife, chopsticks
dishware/jar: jar, amphora
place-building/house: house, houses, hut
place-building/castle: castle
place-building/monument: tower, statue
place-building/office building: office, hospital, bank, hotel, school, store, post office
place/mountain: mountain, fuji, volcano
place/beach: beach, island
place/sunrise: sunrise, sunset, dusk
place/city: cityscape, bridge, night, foggy
place/tent: tent, camping
place/amusement park: carousel, ferris, roller, slide
place-map/globe: globe
transport-ground/train: train, locomotive, railway car, metro, rail, tram, monorail, mountain railway
transport-ground/bus stop: bus stop
transport-ground/bus: bus, trolleybus, minibus
transport-ground/police light: police car light
transport-ground/police car: police
transport-ground/taxi: taxi
transport-ground/car: car, automobile, sport utility
transport-ground/truck: truck, lorry, ambulance, fire engine, tractor
transport-ground/bike: bicycle, motorcycle, scooter
transport-ground/traffic light: traffic light
transport-ground/wheelchair: wheelchair
transport-ground/skate: skate, skateboard
transport-ground/road: motorway, railway track, construction, stop sign
transport-water/ship: ship, ferry
transport-water/motor boat: speedboat, motor boat
transport-water/small boat: canoe, sailboat
transport-air/airplane: airplane
transport-air/cable car: railway, cableway, tramway
transport-air/spacecraft: rocket, satellite, saucer
time/clock face: o'clock, thirty
time/hourglass: hourglass
time/watch: clock, watch, stopwatch
sky/moon: moon
sky/cloud: cloud
sky/sun: sun
sky/umbrella: umbrella
sky/star: star
sky/snow: snowman, snowflake
sky/storm: tornado, cyclone
sky/water: wave, droplet
event/fireworks: fireworks, sparkler, firecracker
event/party: balloon, popper, confetti
event/gift: gift, ribbon
event/ticket: ticket, tickets
award/medal: medal
sport/ball: basketball, football, volleyball, softball, baseball, soccer, bowling, tennis
sport/stick game: cricket, hockey, lacrosse, ping pong, badminton
sport/winter sport: skis, sled, curling, ice skate
game/card suit: suit
game/cards: cards, joker, mahjong
game/game controller: video game, joystick
game/ball: 8 ball, mirror ball, crystal ball
game/toy: bear, dolls, yo-yo, kite, pinata
arts/yarn: thread, yarn, knot
clothing/hat: hat, cap, crown, helmet
clothing/shoe: shoe, boot, sandal, shoes
clothing/glasses: glasses, sunglasses, goggles
clothing/bag: purse, handbag, bag, bags, backpack
clothing/dress: dress, kimono, sari, woman's clothes
clothing/swimsuit: bikini, swimsuit, briefs, shorts
clothing/coat: coat, vest
clothing/shirt: t-shirt, jeans, necktie, scarf
clothing/jewel: ring, gem, beads
sound/bell: bell
sound/loudspeaker: speaker, loudspeaker, megaphone
music/microphone: microphone
music/notes: note, notes, score
music/knobs: slider, knobs
musical-instrument/guitar: guitar, violin, banjo, harp
musical-instrument/wind instrument: saxophone, trumpet, flute
musical-instrument/drum: drum, maracas
musical-instrument/keyboard: keyboard, accordion
phone/phone: phone, telephone
computer/disk: disk, dvd
computer/battery: battery
computer/computer: laptop, desktop
computer/computer mouse: mouse, trackball
light/camera: camera
light/film: film, videocassette, clapper
light/magnifying glass: magnifying
light/lamp: lantern, bulb, flashlight, candle, lamp
book/book: book, books, notebook, ledger
book/paper: page, scroll, newspaper, tabs
money/banknote: banknote
money/money: money, coin, card
mail/mailbox: mailbox, postbox
mail/envelope: envelope, e-mail
mail/box: tray, package, ballot
writing/pen: pen, nib, pencil, crayon, paintbrush
office/folder: folder, dividers
office/calendar: calendar
office/chart: chart
office/pin: pushpin, paperclip, paperclips
office/ruler: ruler
office/notepad: notepad, clipboard, card index
office/box: box, cabinet, briefcase, wastebasket
lock/lock: locked, unlocked
lock/key: key
tool/hammer or axe: hammer, pick, axe
tool/sword: dagger, swords
tool/chain: chain, chains, link
tool/hand tool: wrench, screwdriver, saw, clamp
science/telescope: telescope, microscope, antenna
science/glassware: tube, dish, alembic
household/furniture: chair, couch, bed, door, window, mirror
household/bathroom: toilet, shower, bathtub, plunger
household/cleaning: soap, sponge, broom, bucket, bottle, bubbles
other/grave: headstone, coffin, urn
other/amulet: amulet, hamsa
warning/prohibition sign: no, prohibited, non-potable
warning/yellow sign: radioactive, biohazard, warning, crossing
transport-sign/restroom sign: room, restroom, closet
transport-sign/airport sign: passport, customs, baggage, luggage
arrow/word arrow: back, end, on, soon, top
arrow/curved arrow: curving, clockwise, counterclockwise
arrow/straight arrow: arrow
religion/cross: cross
religion/star: star, six-pointed
av-symbol/play button: play, pause, stop, record, eject
av-symbol/double arrow button: fast-forward, fast, track
av-symbol/arrow button: upwards, downwards, reverse, repeat, shuffle
av-symbol/sun symbol: dim, bright
alphanum/blood type: a button, b button, o button, ab button
alphanum/japanese button: japanese
alphanum/input button: input
alphanum/word button: button
other-symbol/check mark: check
other-symbol/cross mark: cross mark
other-symbol/star: star, asterisk, sparkle
other-symbol/loop: loop
punctuation/question mark: question
punctuation/exclamation mark: exclamation
geometric/circle: circle
geometric/square: square
geometric/diamond: diamond
geometric/triangle: triangle
keycap/number: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
body/arm or leg: arm, leg, biceps, foot
body/ear: ear
body/mouth: mouth, lip, tongue
body/inner organ: heart, lungs, brain
body/eye: eye, eyes
person-symbol/silhouette: silhouette, family, footprints, speaking
family/family: family
family/couple with heart: couple, kiss, kissing
family/people holding hands: holding hands
`

type kindRule struct {
	prefix, kind string
	phrases      []string
}

var kindRules = parseKindTable(kindTable)

func parseKindTable(table string) []kindRule {
	var rules []kindRule
	for line := range strings.Lines(table) {
		prefix, rest, ok := strings.Cut(strings.TrimSpace(line), "/")
		if !ok {
			continue
		}
		kind, phrases, _ := strings.Cut(rest, ":")
		rule := kindRule{prefix: prefix, kind: kind}
		for p := range strings.SplitSeq(phrases, ",") {
			rule.phrases = append(rule.phrases, strings.TrimSpace(p))
		}
		rules = append(rules, rule)
	}
	return rules
}

// cleanConcept turns an OpenMoji annotation into plain lower-case words:
// "flag: Egypt" → "flag of egypt", "man: red hair" → "man with red hair".
// Families differ only in who stands beside whom, so they share one concept.
func cleanConcept(annotation string) string {
	s := strings.ToLower(foldDiacritics(annotation))
	s = strings.NewReplacer("’", "'", "‘", "'", "“", "", "”", "", "&", "and", "!", "", ".", "").Replace(s)
	if i := strings.Index(s, " ("); i >= 0 {
		s = s[:i]
	}
	head, tail, found := strings.Cut(s, ": ")
	switch {
	case !found:
	case head == "flag":
		s = "flag of " + tail
	case head == "keycap":
		s = "keycap " + strings.NewReplacer("#", "hash", "*", "asterisk").Replace(tail)
	case head == "family":
		s = "family"
	case head == "kiss":
		s = "kissing couple"
	case head == "couple with heart":
		s = "couple with heart"
	case tail == "bald":
		s = "bald " + head
	case strings.HasSuffix(tail, "hair"), tail == "beard":
		s = head + " with " + tail
	default:
		s = head + " " + tail
	}
	if s == "kiss" {
		s = "kissing couple"
	}
	s = strings.ReplaceAll(s, ",", "")
	return strings.Join(strings.Fields(s), " ")
}

func foldDiacritics(s string) string {
	var b strings.Builder
	for _, r := range norm.NFD.String(s) {
		if !unicode.Is(unicode.Mn, r) {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// conceptKind returns the kind of object that a concept shows, without its
// details: "red apple" → "apple", "woman surfing" → "person surfing". It is ""
// where the tables know none.
func conceptKind(subgroup, concept string) string {
	if strings.HasPrefix(subgroup, "person") && subgroup != "person-symbol" {
		return personKind(subgroup, concept)
	}
	words := " " + strings.NewReplacer("-", " ", ":", " ").Replace(concept) + " "
	plain := " " + concept + " "
	for _, rule := range kindRules {
		if !strings.HasPrefix(subgroup, rule.prefix) {
			continue
		}
		for _, p := range rule.phrases {
			if strings.Contains(plain, " "+p+" ") || strings.Contains(words, " "+p+" ") {
				return rule.kind
			}
		}
	}
	return subgroupKinds[subgroup]
}

// personKind strips the gender of a person's concept.
func personKind(subgroup, concept string) string {
	switch concept {
	case "mermaid", "merman", "merperson":
		return "merperson"
	case "santa claus", "mrs claus", "mx claus":
		return "santa claus"
	case "prince", "princess", "person with crown":
		return "royal person"
	case "boy", "girl", "child", "baby":
		return "child"
	case "old man", "old woman", "older person":
		return "old person"
	case "snowboarder", "skier":
		return "winter sports person"
	}
	concept = strings.TrimSuffix(concept, " facing right")
	words := strings.Fields(concept)
	for i, w := range words {
		switch w {
		case "man", "woman", "person":
			words[i] = "person"
		case "men", "women", "people":
			words[i] = "people"
		}
	}
	isRole := subgroup == "person-role" || subgroup == "person-fantasy"
	if isRole && len(words) > 1 && words[0] == "person" {
		switch words[1] {
		case "with", "in", "wearing", "feeding":
		default:
			words = words[1:]
		}
	}
	return strings.Join(words, " ")
}

// subgroupWeight says how often images of a subgroup are drawn. What a person
// recognises at once at 64 pixels counts more; flags and lettered buttons,
// which a small model cannot tell apart by name, count little.
func subgroupWeight(subgroup, concept string) float32 {
	switch subgroup {
	case "country-flag", "subdivision-flag":
		return 0.15
	case "alphanum":
		if strings.HasPrefix(concept, "japanese") {
			return 0.15
		}
		return 0.4
	case "family":
		if concept == "family" {
			return 0.1
		}
		return 0.4
	case "time":
		if strings.HasSuffix(concept, "o'clock") || strings.HasSuffix(concept, "thirty") {
			return 0.35
		}
		return 1
	case "person-role", "person-fantasy", "person-sport", "person-activity", "person-gesture", "person-resting", "person":
		if strings.HasSuffix(concept, "facing right") {
			return 0.1
		}
		return 0.4
	case "geometric", "av-symbol", "arrow", "transport-sign":
		return 0.6
	}
	switch coarseWords[subgroup] {
	case "animal", "bird", "sea animal", "insect", "reptile", "fruit", "vegetable", "food", "dessert", "flower", "plant", "heart", "face":
		return 1.5
	}
	return 1
}
