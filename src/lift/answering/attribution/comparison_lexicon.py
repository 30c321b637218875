"""Closed word lists of English for comparing statements: negators, antonyms, equivalents, hedges, irregular forms.

Complementary antonyms (allowed, forbidden) are one concept with two signs, so that a negation and an antonym cancel.
Contraries (begins, ends) are not: that a thing does not begin does not say that it ends (Lyons 1977, Semantics 1, 9.1).
"""

from __future__ import annotations

from lift.tasks.rules.lexicon import IRREGULAR_VERBS, words

AUXILIARIES = words(
    """am is are was were be been being do does did has have had can could may might must shall should will would need
    ought"""
)
PERMISSION_MODALS = words("can could may might cannot")
OBLIGATION_MODALS = words("must shall should need ought")
# "no", "not" and the like turn the clause round that they stand in
NEGATORS = words("not never no nobody none neither nor nothing nowhere cannot without hardly scarcely")
EXCEPTIONS = (("other", "than"), ("except",), ("save",), ("apart", "from"), ("excepting",))
HEDGES = words(
    """if unless whether believe think suppose allege claim say report plan propose suggest expect hope would might
    object ask likely probably perhaps possibly rumour assume consider almost nearly intend fear"""
)
CONDITIONS = words("if unless except save only until provided unlike otherwise mainly mostly usually sometimes often")
QUANTIFIERS = words("all every each any both most some few many several only half")
PRONOUNS = words("it they he she this these those that its his her their them him there none one other another so")
FUNCTION_WORDS = words(
    """a an the this that these those it its he him his she her hers they them their theirs we us our ours you your
    yours i me my mine who whom whose which what when where why how of in on at by for from to into onto with
    within as and or but so if then than there here also s t re ve ll d m about out up off over own such very
    too just only even each any all every both some one ones itself himself herself themselves oneself during
    through per via until till since more most less much many few fewer other another either please
    okay well get got yes"""
)
LIGHT_VERBS = words("put do make get have go take use be bring keep give happen exist take")
# words of a question that the form of a right answer speaks for
IMPLIED = {
    "time": words("time date day year month hour moment long last when start take"),
    "duration": words("long time last take run period"),
    "money": words("cost price charge pay fee amount much sum expensive"),
    "number": words("number many amount count there"),
    "place": words("place locate situate lie stand find located where"),
    "person": words("person name people man woman company"),
    "measure": words("long far high large big size much measure"),
    "frequency": words("often frequently"),
    "thing": words("kind name sort type call thing"),
}
_COMPLEMENTARY = {
    "allow": (
        "allow allowed permit permitted admit welcome tolerate accept permission permissible lawful legal approve",
        "forbid forbidden prohibit ban refuse deny reject disallow prohibition unlawful illegal decline",
    ),
    "open": ("open", "closed shut"),
    "include": ("include", "exclude"),
    "possible": ("possible", "impossible"),
    "safe": ("safe harmless", "dangerous unsafe"),
    "valid": ("valid", "invalid void"),
    "present": ("present", "absent"),
    "same": ("same", "different"),
    "alive": ("alive living", "dead"),
    "succeed": ("succeed", "fail"),
    "true": ("true", "false untrue"),
    "restricted": ("restricted limited", "unrestricted unlimited"),
    "locked": ("locked", "unlocked"),
    "guilty": ("guilty", "innocent"),
    "wet": ("wet", "dry"),
    "agree": ("agree", "disagree"),
}
_EQUIVALENT = (
    "own owner belong possess",
    "cost price charge fee",
    "long length lengthy",
    "high height tall",
    "deep depth",
    "wide width broad",
    "heavy weigh weight",
    "warm temperature hot",
    "loud noise noisy",
    "large size big",
    "large area",
    "fast speed quick",
    "strong strength",
    "begin start commence",
    "end finish",
    "buy purchase",
    "live inhabitant inhabit reside",
    "die death",
    "found founder establish",
    "write author",
    "repair mend",
    "kid child",
    "automobile car",
    "lend lent loan",
    "pay payment",
    "employee staff",
    "booking book reserve reservation",
    "old age",
    "enter entry entrance",
    "sell sale",
    "biggest largest",
    "maximum most greatest",
    "minimum least smallest",
    "photo photograph picture",
    "holiday vacation",
)
_CONTRARY = (
    "begin end",
    "open close",
    "rise fall",
    "increase decrease",
    "buy sell",
    "arrive leave",
    "arrival departure",
    "before after",
    "first last",
    "north south",
    "east west",
    "northern southern",
    "eastern western",
    "upper lower",
    "left right",
    "hot cold",
    "warm cold",
    "win lose",
    "old new",
    "old young",
    "minimum maximum",
    "large small",
    "high low",
    "more less",
    "more fewer",
    "above below",
    "inside outside",
    "indoors outdoors",
    "summer winter",
    "spring autumn",
    "male female",
    "man woman",
    "son daughter",
    "father mother",
    "brother sister",
    "husband wife",
    "king queen",
    "lend borrow",
    "employer employee",
    "landlord tenant",
    "buyer seller",
    "start stop",
    "import export",
    "push pull",
    "day night",
    "morning evening",
    "early late",
    "add remove",
    "import export",
    "private public",
    "adult child",
    "empty full",
    "full half",
)
_SAME_FORMS = """
    bring/brought build/built buy/bought catch/caught cost/cost deal/dealt dig/dug feed/fed feel/felt fight/fought
    find/found get/got hang/hung have/had hear/heard hold/held keep/kept lead/led leave/left lend/lent light/lit
    lose/lost make/made mean/meant meet/met pay/paid say/said seek/sought sell/sold send/sent shoot/shot sit/sat
    sleep/slept spend/spent stand/stood strike/struck sweep/swept teach/taught tell/told think/thought
    understand/understood win/won child/children person/people man/men woman/women foot/feet tooth/teeth
    mouse/mice goose/geese life/lives wife/wives knife/knives half/halves shelf/shelves be/is
"""

BASE_FORMS: dict[str, str] = {}
for _base, _forms in IRREGULAR_VERBS.items():
    for _form in _forms:
        BASE_FORMS.setdefault(_form, _base)
for _entry in _SAME_FORMS.split():
    _base, _form = _entry.split("/")
    BASE_FORMS[_form] = _base

COMPLEMENTS: dict[str, tuple[str, int]] = {
    word: (concept, sign)
    for concept, sides in _COMPLEMENTARY.items()
    for side, sign in zip(sides, (1, -1), strict=True)
    for word in side.split()
}
# of these every form is meant; "closed" is a state, "closes" is not
INFLECTED_COMPLEMENTS = words("allow include succeed agree")
EQUIVALENTS: dict[str, str] = {_word: _group.split()[0] for _group in _EQUIVALENT for _word in _group.split()}
CONTRARIES: dict[str, frozenset[str]] = {}
for _pair in _CONTRARY:
    _one, _other = _pair.split()
    CONTRARIES[_one] = CONTRARIES.get(_one, frozenset()) | {_other}
    CONTRARIES[_other] = CONTRARIES.get(_other, frozenset()) | {_one}
