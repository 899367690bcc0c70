"""The demonstration shop's words, as tables: kinds of product, brands, styles, and what only reviews mention."""

from typing import NamedTuple


class Kind(NamedTuple):
    """What the shop knows of one kind of product; the key in :data:`KINDS` is also the outline's."""

    category: str
    department: str  # decides which shoppers look at it
    nouns: tuple[str, ...]  # what titles and descriptions call it
    price_cents: int  # of an ordinary one
    materials: tuple[str, ...]
    details: tuple[str, ...]  # one per cut of the outline
    peak_day: int  # day of the year on which it sells best
    swing: float  # log of how much more that is than on an ordinary day


KINDS: dict[str, Kind] = {
    "shirt": Kind("Clothing > Tops > Shirts", "clothing", ("shirt", "button-down shirt"), 4490,
                  ("cotton", "linen", "poplin"), ("with long sleeves and cuffs", "with short sleeves"), 130, 0.5),
    "t-shirt": Kind("Clothing > Tops > T-shirts", "clothing", ("T-shirt", "tee"), 1990,
                    ("cotton", "jersey"), ("with a crew neck",), 190, 0.9),
    "sweater": Kind("Clothing > Tops > Sweaters", "clothing", ("sweater", "jumper", "pullover"), 5990,
                    ("wool", "cotton knit", "merino"), ("with ribbed hem and cuffs",), 350, 1.2),
    "dress": Kind("Clothing > Dresses", "clothing", ("dress",), 6990,
                  ("viscose", "cotton"), ("without sleeves, flared at the hem", "with short sleeves and a tied waist"),
                  150, 1.2),
    "skirt": Kind("Clothing > Skirts", "clothing", ("skirt",), 4290,
                  ("cotton", "viscose", "denim"), ("pleated and flared", "narrow, buttoned down the front"), 140, 0.8),
    "trousers": Kind("Clothing > Trousers", "clothing", ("trousers", "pants"), 5490,
                     ("cotton", "denim", "linen"), ("with slim legs", "with wide legs"), 90, 0.2),
    "coat": Kind("Clothing > Coats", "clothing", ("coat", "overcoat"), 12990,
                 ("wool", "cotton gabardine"), ("double-breasted, with notched lapels",), 340, 1.4),
    "sneaker": Kind("Shoes > Sneakers", "shoes", ("sneakers", "trainers"), 7990,
                    ("canvas", "suede", "mesh"), ("with a white rubber sole",), 110, 0.6),
    "boot": Kind("Shoes > Boots", "shoes", ("ankle boots", "boots"), 10990,
                 ("leather", "suede"), ("with elastic side panels",), 330, 1.2),
    "socks": Kind("Clothing > Socks", "shoes", ("socks", "crew socks"), 890,
                  ("cotton", "merino"), ("with ribbed cuffs",), 345, 0.5),
    "tote bag": Kind("Bags > Handbags", "bags", ("handbag", "bag"), 5990,
                     ("canvas", "leather"), ("with two leather handles", "with a flap and a brass clasp"), 120, 0.2),
    "backpack": Kind("Bags > Backpacks", "bags", ("backpack", "rucksack"), 6990,
                     ("canvas", "nylon"), ("with a zipped front pocket",), 230, 0.5),
    "cap": Kind("Accessories > Caps", "bags", ("cap", "baseball cap"), 2290,
                ("cotton twill", "wool"), ("with a curved peak",), 180, 0.9),
    "scarf": Kind("Accessories > Scarves", "clothing", ("scarf",), 3490,
                  ("wool", "cashmere blend"), ("with fringed ends",), 350, 1.4),
    "watch": Kind("Accessories > Watches", "bags", ("watch", "wristwatch"), 14990,
                  ("steel", "steel and leather"), ("with a white dial and a changeable strap",), 340, 0.3),
    "umbrella": Kind("Accessories > Umbrellas", "bags", ("umbrella",), 2990,
                     ("polyester", "pongee"), ("with a curved wooden handle",), 300, 0.5),
    "mug": Kind("Home > Kitchen > Mugs", "kitchen", ("mug", "coffee mug"), 1490,
                ("stoneware", "porcelain"), ("tall and straight", "wide and rounded, for cappuccino"), 340, 0.6),
    "teapot": Kind("Home > Kitchen > Teapots", "kitchen", ("teapot",), 3990,
                   ("stoneware", "porcelain"), ("with a lid and a curved spout",), 330, 0.7),
    "lamp": Kind("Home > Lighting > Table lamps", "living", ("table lamp", "lamp"), 7490,
                 ("linen shade", "cotton shade"), ("with a cone shade on brass", "with a drum shade on turned wood"),
                 330, 0.5),
    "armchair": Kind("Home > Furniture > Armchairs", "living", ("armchair", "chair"), 34900,
                     ("velvet", "woven upholstery"), ("with padded armrests", "on a slender wooden frame"), 20, 0.2),
    "cushion": Kind("Home > Textiles > Cushions", "living", ("cushion", "throw pillow"), 2490,
                    ("cotton", "velvet", "linen"), ("with piped edges",), 320, 0.4),
    "vase": Kind("Home > Decoration > Vases", "living", ("vase",), 3290,
                 ("stoneware", "glazed ceramic"), ("with a narrow neck", "with a wide mouth"), 100, 0.5),
}  # fmt: skip

# What goes with what: the key was bought first, then one of these.
COMPLEMENTS: dict[str, tuple[str, ...]] = {
    "sneaker": ("socks",), "boot": ("socks", "scarf"), "shirt": ("trousers",), "t-shirt": ("cap",),
    "trousers": ("shirt", "sweater"), "dress": ("tote bag",), "skirt": ("t-shirt",), "coat": ("scarf", "umbrella"),
    "sweater": ("scarf",), "backpack": ("cap", "umbrella"), "tote bag": ("watch",), "teapot": ("mug",),
    "mug": ("teapot",), "armchair": ("cushion", "lamp"), "lamp": ("vase",), "cushion": ("vase",),
}  # fmt: skip

STYLES: dict[str, tuple[str, ...]] = {
    "casual": ("easy-going", "casual", "everyday"),
    "elegant": ("elegant", "refined", "dressed-up"),
    "sporty": ("sporty", "athletic", "dynamic"),
    "vintage": ("vintage", "retro", "nostalgic"),
    "minimal": ("minimalist", "pared-back", "clean-lined"),
}


class Brand(NamedTuple):
    """A made-up label: what it costs beside others, and the style it is known for."""

    name: str
    price_factor: float
    style: str


BRANDS = (
    Brand("Pico", 0.60, "casual"), Brand("Ashgrove", 1.00, "casual"), Brand("Brightwell", 1.35, "casual"),
    Brand("Belle Rive", 0.75, "elegant"), Brand("Corsini", 1.25, "elegant"), Brand("Maison Odile", 1.70, "elegant"),
    Brand("Volt & Verve", 0.70, "sporty"), Brand("Kestrel", 1.05, "sporty"), Brand("Norda Peak", 1.50, "sporty"),
    Brand("Second Spring", 0.65, "vintage"), Brand("Hollis", 1.10, "vintage"), Brand("Old Quay", 1.45, "vintage"),
    Brand("Plano", 0.70, "minimal"), Brand("Nordlys", 1.20, "minimal"), Brand("Studio Tarn", 1.65, "minimal"),
)  # fmt: skip

PRICE_LEVELS = ("low", "middle", "high")  # beside others of the same kind

# How titles and descriptions speak of what can be seen.
PATTERN_WORDS: dict[str, tuple[str, ...]] = {
    "plain": ("plain", "solid-coloured"),
    "striped": ("striped",),
    "dotted": ("polka dot", "dotted"),
    "checked": ("checked", "gingham"),
    "floral": ("floral", "flower print"),
    "zigzag": ("zigzag", "chevron"),
}
PATTERN_SENTENCES: dict[str, tuple[str, ...]] = {
    "plain": ("A single {colour} tone, nothing else.", "Plain {colour} throughout."),
    "striped": ("Bold stripes on {colour}.", "{Colour} with contrasting stripes."),
    "dotted": ("Polka dots scattered over {colour}.", "{Colour} with neat round dots."),
    "checked": ("A gingham check in {colour}.", "{Colour} checks, evenly woven."),
    "floral": ("Flowers bloom all over the {colour} ground.", "A floral print on {colour}."),
    "zigzag": ("A zigzag runs across the {colour} ground.", "{Colour} chevrons from edge to edge."),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black", "jet black"), "white": ("white", "off-white"), "grey": ("grey", "slate grey"),
    "navy": ("navy", "dark blue"), "sky blue": ("sky blue", "pale blue"), "green": ("green", "forest green"),
    "yellow": ("yellow", "mustard yellow"), "orange": ("orange", "tangerine"), "red": ("red", "cherry red"),
    "pink": ("pink", "rose"), "purple": ("purple", "plum"), "brown": ("brown", "chestnut brown"),
    "beige": ("beige", "sand"),
}  # fmt: skip
USES: dict[str, tuple[str, ...]] = {
    "clothing": ("Pairs well with denim.", "Made for long weekends and short meetings.", "Machine washable at 30 °C."),
    "shoes": ("Goes from the office to the park.", "Wipe clean with a damp cloth.", "Comes in a recycled box."),
    "bags": ("Fits into any outfit.", "A present that is hard to get wrong.", "Designed for the daily commute."),
    "kitchen": ("For the breakfast table.", "Glazed by hand, so no two are quite alike.", "Fits the dishwasher rack."),
    "living": ("Looks at home anywhere in the house.", "Brings a corner to life.", "Assembled in minutes."),
}


class ReviewTrait(NamedTuple):
    """Something that buyers notice and no title, description, attribute or picture tells.

    ``sentences`` maps a kind, or "" for every other kind, to what reviewers say. ``appeal`` is how shoppers in general
    feel about it; some love the pleasant ones more.
    """

    query: str  # what a shopper who wants to find it would type
    kinds: tuple[str, ...]
    sentences: dict[str, tuple[str, ...]]
    appeal: float


REVIEW_TRAITS: dict[str, ReviewTrait] = {
    "soft": ReviewTrait(
        "very soft to the touch",
        ("shirt", "t-shirt", "sweater", "dress", "socks", "scarf", "cushion", "armchair"),
        {"": ("It is so soft, I keep touching it.", "Incredibly soft to the touch.", "The softest I own.",
              "Very soft fabric, like a kitten.")},
        0.3,
    ),
    "runs small": ReviewTrait(
        "runs small, order a size up",
        ("shirt", "dress", "skirt", "trousers", "coat", "sneaker", "boot", "cap"),
        {"": ("Runs small, so order a size up.", "It runs small, great if you are petite.", "Sizing runs small on me.",
              "Be aware that these run small.")},
        -0.1,
    ),
    "keeps warm": ReviewTrait(
        "keeps warm for hours",
        ("sweater", "coat", "scarf", "boot", "socks", "mug", "teapot"),
        {"": ("Kept me warm on an icy morning.", "So warm, even in the wind.", "Really keeps you warm all winter."),
         "mug": ("Keeps my coffee warm for an hour.", "Coffee stays warm until the last sip.", "Keeps coffee warm."),
         "teapot": ("Keeps tea warm through the whole breakfast.", "The tea stays warm for ages.")},
        0.2,
    ),
    "roomy": ReviewTrait(
        "roomy, holds a lot",
        ("tote bag", "backpack", "coat", "mug", "armchair", "trousers"),
        {"": ("Surprisingly roomy, holds a lot.", "So much room in it, I can fit everything.", "Very roomy."),
         "trousers": ("Roomy pockets that hold a phone.", "Very roomy in the thigh."),
         "mug": ("Holds a huge amount of coffee.", "A roomy mug, holds nearly half a litre.")},
        0.2,
    ),
    "waterproof": ReviewTrait(
        "waterproof, stays dry in the rain",
        ("coat", "boot", "sneaker", "tote bag", "backpack", "cap", "watch"),
        {"": ("Waterproof: it survived a downpour.", "Stayed bone dry in heavy rain.", "Rain just runs off."),
         "watch": ("Waterproof, I swim with it.", "Still ticking after a shower, it is waterproof.")},
        0.2,
    ),
    "featherlight": ReviewTrait(
        "weighs nothing, featherlight",
        ("t-shirt", "sneaker", "backpack", "umbrella", "watch", "cap", "lamp"),
        {"": ("Featherlight, I forget that I have it.", "It weighs next to nothing.", "So light, like a feather.")},
        0.2,
    ),
    "gets compliments": ReviewTrait(
        "everybody asks where I bought it, compliments",
        ("dress", "skirt", "tote bag", "teapot", "lamp", "vase", "cushion", "armchair", "umbrella", "scarf"),
        {"": ("I get compliments all the time.", "Every guest asks where I bought it.", "So many compliments.")},
        0.4,
    ),
    "squeaks": ReviewTrait(
        "squeaks and makes noise",
        ("sneaker", "boot", "armchair", "lamp", "backpack", "umbrella"),
        {"": ("It squeaks whenever it moves.", "The squeaking drives me mad.", "Started to squeak after a week."),
         "sneaker": ("They squeak with every step.", "Squeaky soles on every floor."),
         "boot": ("They squeak with every step.", "The squeaking of the sole drives me mad."),
         "armchair": ("Squeaks when you sit down.", "The frame squeaks at every move.")},
        -1.2,
    ),
    "wobbles": ReviewTrait(
        "wobbles, does not stand steady",
        ("mug", "teapot", "vase", "lamp", "armchair"),
        {"": ("It wobbles on the table.", "Wobbly, it does not stand steady.", "Mine wobbles and nearly fell over.")},
        -1.2,
    ),
    "fades": ReviewTrait(
        "colour fades in the wash",
        ("shirt", "t-shirt", "dress", "trousers", "socks", "cushion", "scarf"),
        {"": ("The colour faded after two washes.", "Fades quickly in the sun.", "Already faded in the wash.")},
        -1.2,
    ),
}  # fmt: skip

REVIEW_OPENINGS: dict[int, tuple[str, ...]] = {
    5: (
        "Love {this} {noun}!",
        "Could not be happier.",
        "Exactly what I hoped for.",
        "Perfect {noun}, would buy again.",
    ),
    4: ("Good {noun} for the price.", "Pleased with it.", "Nice {noun}, minor flaws aside.", "Solid purchase."),
    3: ("It is all right.", "Average {noun}.", "Not bad, not great.", "Mixed feelings about {this} {noun}."),
    2: ("Expected more.", "Rather disappointed with {this} {noun}.", "Not what I had hoped for."),
    1: ("Sent it back.", "Would not buy again.", "A waste of money.", "Terrible {noun}."),
}
REVIEW_TITLES: dict[int, tuple[str, ...]] = {
    5: ("Wonderful", "Five stars", "My favourite {noun}", "Highly recommended"),
    4: ("Good", "Happy with it", "Nice {noun}"),
    3: ("Okay", "So-so", "Average"),
    2: ("Meh", "Disappointing"),
    1: ("No", "Returned", "Avoid"),
}
REVIEW_SEEN = (
    "The {pattern} {colour} looks just like in the picture.",
    "The {colour} is lovely in daylight.",
    "{Colour} was the right choice.",
    "I like the {pattern} design.",
    "A present for my sister, who likes {colour}.",
)
REVIEW_OFF_TOPIC = (
    "Delivery took two weeks and the parcel was damaged.",
    "Arrived a day early, thank you.",
    "I have not tried it yet.",
    "Ordered the wrong one by mistake, my fault.",
    "Customer service answered within the hour.",
)

DESIGN_FIRST = (
    "Mar", "Sel", "Ald", "Bran", "Cor", "Del", "Ever", "Fen", "Gal", "Har", "Ives", "Jas", "Kel", "Lin", "Mor", "Nor",
    "Or", "Pem", "Quin", "Ros", "Sil", "Tor", "Ul", "Ver", "Wil", "Yar", "Zan", "Bel", "Car", "Dun",
)  # fmt: skip
DESIGN_LAST = (
    "low", "den", "ton", "wick", "ford", "by", "mere", "stead", "ria", "ley", "vale", "holm", "dale", "more", "ena",
    "gate", "well", "brook", "a", "is",
)  # fmt: skip
