"""Closed word lists of English that the question rules need: who is a person, what is a country, irregular verbs."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of `text`, for a list that is easier to read as text."""
    return frozenset(text.split())


PERSON_NOUNS = words(
    """
    actor actress administrator adviser advisor agent ally ambassador ancestor analyst apprentice archbishop
    architect artist assistant astronaut astronomer athlete attorney author authority baker banker baron
    biologist bishop boy brother builder businessman candidate captain cardinal chairman chairperson chairwoman
    champion chancellor chef chemist chief child children cleric client clerk coach colleague collector colonel
    colonist commander commissioner companion composer conductor congressman constable consultant consumer
    contractor count countess cousin creator critic crew curator customer daughter dean defender deputy
    descendant designer detective dictator diplomat director disciple doctor driver duchess duke editor emigrant
    emperor employee employer empress engineer entrepreneur envoy expert explorer family farmer father fellow
    filmmaker fisherman follower founder friend gardener general gentleman geographer geologist girl governor
    graduate grandfather grandmother grandson guard guardian guest guitarist head heir hero historian hunter
    husband immigrant individual inhabitant inspector instructor inventor investor journalist judge keeper king
    knight labourer lady landlord lawyer leader lecturer lieutenant lord maid major maker man manager
    mathematician mayor member men merchant messenger minister missionary mistress monarch monk mother musician
    native naturalist navigator neighbour nephew niece noble nobleman novelist nun nurse officer official
    operator opponent owner painter parent parents participant partner passenger patient patriarch patron
    peasant people person pharmacist philosopher photographer physician physicist pianist pilot pioneer pirate
    player playwright poet police policeman politician pope practitioner preacher predecessor president priest
    prime prince princess principal printer prisoner producer professor prosecutor protestant psychologist pupil
    queen rabbi rebel refugee reporter representative researcher resident ruler sailor salesman scholar
    scientist sculptor secretary senator sergeant servant settler sheriff shaman shopkeeper singer sister
    sociologist soldier son speaker spokesman spokesperson statesman student successor sultan supervisor
    supporter surgeon surveyor teacher technician theologian theorist tourist trader tutor tyrant uncle viceroy
    victim villager violinist visitor volunteer warrior widow wife winner witness woman women worker writer
    youth tenant landlady lessee lessor lender borrower buyer seller supplier vendor reader caretaker foreman
    carpenter schoolmaster islander depositor subcontractor bookbinder notary porter cook waiter lodger subtenant
    councillor treasurer warden archivist organist assessor
    licensee licensor insurer policyholder nobody anybody everybody somebody user
    """
)

COUNTRIES = words(
    """
    Afghanistan Albania Algeria Angola Argentina Armenia Australia Austria Azerbaijan Bangladesh Belarus Belgium
    Bolivia Bosnia Brazil Bulgaria Cambodia Cameroon Canada Chile China Colombia Croatia Cuba Cyprus Denmark
    Ecuador Egypt England Estonia Ethiopia Finland France Georgia Germany Ghana Greece Guatemala Haiti Hungary
    Iceland India Indonesia Iran Iraq Ireland Israel Italy Jamaica Japan Jordan Kazakhstan Kenya Korea Kuwait
    Laos Latvia Lebanon Libya Lithuania Luxembourg Malaysia Mali Malta Mexico Moldova Mongolia Montenegro
    Morocco Mozambique Myanmar Namibia Nepal Netherlands Nicaragua Nigeria Norway Oman Pakistan Panama Paraguay
    Peru Philippines Poland Portugal Qatar Romania Russia Rwanda Scotland Senegal Serbia Singapore Slovakia
    Slovenia Somalia Spain Sudan Sweden Switzerland Syria Taiwan Tanzania Thailand Tunisia Turkey Uganda Ukraine
    Uruguay Uzbekistan Venezuela Vietnam Wales Yemen Zambia Zimbabwe US USA U.S. UK U.K.
    """
) | {
    "the United States",
    "the United Kingdom",
    "South Africa",
    "New Zealand",
    "Saudi Arabia",
    "Sri Lanka",
    "South Korea",
    "Costa Rica",
}

US_STATES = words(
    """
    Alabama Alaska Arizona Arkansas California Colorado Connecticut Delaware Florida Hawaii Idaho Illinois
    Indiana Iowa Kansas Kentucky Louisiana Maine Maryland Massachusetts Michigan Minnesota Mississippi Missouri
    Montana Nebraska Nevada Ohio Oklahoma Oregon Pennsylvania Tennessee Texas Utah Vermont Virginia Wisconsin
    Wyoming
    """
) | {"New Jersey", "New Mexico", "North Carolina", "South Carolina", "North Dakota", "South Dakota", "Rhode Island"}

MONTHS = words(
    """
    january february march april may june july august september october november december
    """
)
WEEKDAYS = frozenset(["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"])
DURATION_UNITS = words(
    """
    second minute hour day night week weekend month year decade century generation season
    """
)
LENGTH_UNITS = words(
    """
    mile kilometre kilometer metre meter foot feet inch yard km m ft cm mm mi league
    """
)

# Adverbs that tie a sentence to its neighbours and mean nothing in a question.
DISCOURSE_ADVERBS = words(
    """
    also however therefore thus then moreover furthermore instead consequently additionally nevertheless
    nonetheless hence otherwise likewise similarly meanwhile finally eventually indeed still yet too first
    secondly thirdly lastly subsequently ultimately afterwards later soon now well here there so even thereby
    rather again already further accordingly alternatively conversely perhaps maybe actually basically really
    just obviously please
    """
)
# Verbs and prepositions whose length of time answers "how long?".
DURATIVE_WORDS = words(
    """
    last take run wait serve stay spend live need require endure continue for over throughout of reign work exist be
    """
)
FREQUENCY_ADVERBS = words(
    """
    often rarely usually always sometimes never seldom frequently annually daily weekly monthly yearly
    occasionally regularly generally hourly quarterly nightly once twice continuously constantly periodically
    """
)
# Without these the sentence would say something else.
MEANING_ADVERBS = words(
    """
    never hardly barely scarcely rarely seldom only almost nearly no longer not
    """
)

# They belong to the verb: "dealers take old pumps back".
DIRECTION_ADVERBS = words(
    """
    back away off out apart together upright down up aside
    """
)
# "by mail", "by hand": the means, not the one who does it.
MEANS_NOUNS = words(
    """
    mail post hand phone telephone email e-mail fax letter car train bus boat ferry ship air sea land law default
    mistake accident chance force foot courier cash card cheque check invoice transfer radio wire weight volume
    birth nature profession appointment name
    """
)
# (verb, object) and phrases that mean something only as a whole.
FIXED_OBJECTS = frozenset(
    {
        ("take", "place"),
        ("take", "part"),
        ("take", "effect"),
        ("take", "care"),
        ("take", "office"),
        ("take", "note"),
        ("take", "shape"),
        ("take", "precedence"),
        ("give", "rise"),
        ("give", "way"),
        ("make", "use"),
        ("make", "sense"),
        ("pay", "attention"),
        ("play", "part"),
        ("lose", "sight"),
        ("come", "force"),
    }
)
FIXED_PHRASES = frozenset(
    phrase.replace("_", " ")
    for phrase in words(
        """
        in_force in_writing in_effect in_use in_service in_place in_question in_charge in_advance in_common in_time
        on_time at_times at_a_time at_the_same_time at_the_time in_the_meantime by_the_time of_charge on_board
        in_person in_vain in_detail in_full in_progress into_force into_effect into_account in_mind on_foot at_once
        at_all_costs on_request on_call on_duty on_sale at_sea by_heart under_way
        """
    )
)

# Prepositional phrases that mean nothing in a question.
DISCOURSE_PHRASES = frozenset(
    phrase.strip()
    for phrase in [
        "\n    for example",
        " for instance",
        " in contrast",
        " in addition",
        " in fact",
        " in particular",
        " as a result",
        " in turn",
        " of course",
        "\n    in general",
        " in principle",
        " by contrast",
        " in practice",
        " on the other hand",
        " on the contrary",
        " in other words",
        "\n    in this case",
        " as such",
        " in part",
        " at least",
        " at all",
        " as well",
        " in order",
        " in conclusion",
        " above all",
        " after all",
        " at first",
        "\n    at last",
        " in the end",
        " in response",
        " for one thing",
        " on average",
        " in total\n    ",
    ]
)
TIME_NOUNS = words(
    """
    time period moment beginning start end era age century decade year month week day night morning evening
    afternoon war summer winter spring autumn reign lifetime
    """
)
OBJECT_CONTROL_VERBS = words(
    """
    ask tell force allow enable persuade encourage order urge invite permit cause lead require teach help advise
    instruct convince
    """
)
PLACE_NOUNS = words(
    """
    area bank bay beach border bottom bridge building campus capital castle cathedral centre center chapel
    church city coast country county courtyard district east edge end farm field floor garden hall harbour hill
    hospital hotel house island kitchen lake laboratory library mountain museum neighbourhood north office
    outskirts palace park port prison province region river road room school shore side site south square
    station street suburb theatre top town tower university valley village west workshop yard
    """
)
PLACE_PREPOSITIONS = words(
    """
    in at on near inside outside within around across above below beneath behind beside between under over along
    throughout opposite
    """
)
TIME_PREPOSITIONS = words(
    """
    in on at during since until till before after by from around between for within over throughout of about
    circa
    """
)

# lemma: (past tense, past participle); only verbs whose two forms differ.
IRREGULAR_VERBS: dict[str, tuple[str, str]] = {}
for _entry in words(
    """
    arise/arose/arisen awake/awoke/awoken be/was/been bear/bore/borne become/became/become begin/began/begun
    bite/bit/bitten blow/blew/blown break/broke/broken choose/chose/chosen come/came/come do/did/done
    draw/drew/drawn drink/drank/drunk drive/drove/driven eat/ate/eaten fall/fell/fallen fly/flew/flown
    forbid/forbade/forbidden forget/forgot/forgotten forgive/forgave/forgiven forsake/forsook/forsaken
    freeze/froze/frozen give/gave/given go/went/gone grow/grew/grown hide/hid/hidden know/knew/known
    mistake/mistook/mistaken outgrow/outgrew/outgrown overcome/overcame/overcome overrun/overran/overrun
    oversee/oversaw/overseen overtake/overtook/overtaken overthrow/overthrew/overthrown ride/rode/ridden
    ring/rang/rung rise/rose/risen run/ran/run see/saw/seen shake/shook/shaken show/showed/shown
    shrink/shrank/shrunk sing/sang/sung sink/sank/sunk speak/spoke/spoken spring/sprang/sprung
    steal/stole/stolen strike/struck/struck strive/strove/striven swear/swore/sworn swim/swam/swum
    take/took/taken tear/tore/torn throw/threw/thrown undergo/underwent/undergone undertake/undertook/undertaken
    wake/woke/woken wear/wore/worn weave/wove/woven withdraw/withdrew/withdrawn write/wrote/written
    """
):
    _lemma, _past, _participle = _entry.split("/")
    IRREGULAR_VERBS[_lemma] = (_past, _participle)
