"""Word lists for needle keys (``adjective-noun``) and for the generated essay haystack."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES: tuple[str, ...] = _words(
    """
able acidic active agile amber ample ancient angry arid artful ashen austere avid awake azure bald
bare basic bitter bland blank blind blunt bold bored brave brief bright brisk broad broken bronze
burly busy calm candid careful casual charming cheap chilly civil clean clear clever close cloudy
clumsy coarse cold common compact cool copper coral cosmic cozy crisp cruel curious curly damp
dapper daring dark dense dim direct distant dizzy docile double drab dreary dry dual dull dusty
eager early earnest eastern easy elastic elder elegant empty endless equal exact exotic faint fair
faithful famous fancy fast feeble fertile fierce final fine firm flat fluent foggy fond formal
fragile frank free fresh frosty frozen frugal full funny gentle giant giddy glad glassy gloomy
glossy golden graceful grand grateful gray greedy green grim gritty hairy handy happy hardy harsh
hasty heavy hidden hollow honest humble hungry icy ideal idle inner ivory jagged jolly juicy keen
kind large late lazy lean level light liquid little lively lofty lonely long loose loud loyal lucky
lunar mellow merry mild misty modern modest moist narrow native neat nimble noble noisy northern
novel oaken odd olive open orange oval pale patient placid plain polite proud purple quaint quick
quiet rapid rare ready regal rigid ripe rough round royal rural rusty sandy scarlet secret serene
sharp shiny short shy silent silver simple sleepy slim smooth snowy soft solar solid somber sour
spare spicy steady steep stern still stormy strange strict sturdy subtle sudden sunny sweet swift
tall tame tart tender thick thin thirsty tidy tiny tired tough tranquil upper urban useful vague
vast vivid warm wary weary western wet wide wild windy wise witty wooden young zesty
"""
)

NOUNS: tuple[str, ...] = _words(
    """
acorn actor album alley anchor anvil apple apron arch arrow artist atlas attic aunt autumn badge
baker balcony ballad banner barley barn barrel basin basket beach beacon beaver bench berry bicycle
bishop blanket blossom boat bottle boulder bridge brook broom bucket buckle butter button cabin
cactus camel camera canal candle canvas canyon captain carpet castle cedar cellar chapel cherry
chest chimney circle citizen clarinet clay cliff clock cloth cloud clover coast cobbler coffee comet
compass corner cottage cotton cousin cradle crane crater creek cricket crown crystal curtain dancer
deer desert diary dolphin donkey doorway dragon drawer drum eagle earth echo elbow ember emperor
engine estate evening fabric falcon farmer feather fence ferry fiddle field finch flame flask flute
forest fossil fountain fox frame galaxy garden garlic gate geyser ginger glacier glove goat goose
grain granite grape grove guitar hammer harbor harvest hawk hazel hedge helmet herald hill hinge
honey horizon horse hotel island ivy jacket jar jewel jungle kettle kitchen kite ladder lake lantern
laurel leaf lemon letter library lighthouse lily linen lion lizard locket loom magnet mango mantle
maple marble market meadow melody merchant mill mirror mitten monk moon morning moss mountain museum
needle nest oasis ocean orchard orchid otter owl oyster paddle painter palace panther paper parade
parrot pasture path pearl pebble pencil pepper piano pigeon pillow pilot pine planet plaza plow
pocket poet pond poplar portrait potato prairie prince pumpkin puzzle quarry quilt rabbit raven reef
ribbon river robin rocket rope rose saddle sailor salmon scarf scholar school seed shadow shepherd
shore shovel signal singer sketch sparrow spoon spring stable star statue stone storm stream street
sugar summer sunset swan table tailor teacher temple thimble thunder tiger timber tower trail train
treasure tulip tunnel turtle valley vase village violet violin voyage wagon walnut water wheat wheel
whistle willow window winter wolf wreath yard zebra
"""
)

VERBS: tuple[str, ...] = _words(
    """
admired avoided borrowed built carried carved chased cleaned counted covered crossed described
discovered drew followed found guarded heard helped hid kept lifted liked lost measured mended met
missed moved needed noticed opened painted passed praised reached remembered repaired saw sold
studied taught touched traded visited watched welcomed
"""
)

PLACES: tuple[str, ...] = _words(
    """
above after against along before behind below beside beyond near under within
"""
)
