from collections.abc import Sequence

from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import Sentence, split_sentences

TEXTS = [
    "Ada Quill founded the lighthouse museum of Port Merrow in 1911.",
    "The museum owns 42 lenses.",
    "A storm destroyed the old tower in 1907.",
    "Fishing was the main trade of the harbour.",
]


def index(texts: Sequence[str] = TEXTS) -> SentenceIndex:
    sentences, start = [], 0
    for number, text in enumerate(texts):
        sentences.append(Sentence(number, text, start, start + len(text), 0))
        start += len(text) + 1
    return SentenceIndex(sentences)


def test_the_sentence_that_shares_rare_words_comes_first() -> None:
    assert index().search("Who founded the museum?", 2)[0].index == 0
    assert index().search("How many lenses are there?", 1)[0].index == 1


def test_word_forms_match() -> None:
    assert index().search("What did the storms destroy?", 1)[0].index == 2


def test_evidence_stands_in_the_order_of_the_document() -> None:
    found = index().evidence("Which storm? And which lenses does the museum own?", 3)
    assert [sentence.index for sentence in found] == sorted(sentence.index for sentence in found)
    assert {1, 2} <= {sentence.index for sentence in found}


def test_what_was_read_stands_first() -> None:
    question = "Which storm? And which lenses does the museum own?"
    narrow, all_of_them = (index().evidence(question, count, read=2) for count in (2, 4))
    assert narrow == index().evidence(question, 2)
    assert all_of_them[:2] == narrow
    assert sorted(sentence.index for sentence in all_of_them) == [0, 1, 2, 3]
    assert all_of_them[2].index < all_of_them[3].index


def test_a_question_without_any_known_word_gets_the_beginning() -> None:
    assert index().search("Quo vadis?", 3) == []
    assert [sentence.index for sentence in index().evidence("Quo vadis?", 2)] == [0, 1]


def test_a_sentence_holds_a_question_where_it_alone_has_all_its_known_words() -> None:
    found = index(["The tower burned in 1907.", "The old tower stands.", "A mill burned, too.", "Nobody lives there."])
    holder = found.holder("When did the tower burn down, Ada?")
    assert holder is not None
    assert holder.text == "The tower burned in 1907."
    assert found.holder("What burned?") is None, "expected none where two sentences have all the words"
    assert found.holder("Which mill has a tower?") is None, "expected none where no sentence has all the words"
    assert found.holder("Where is the harbour?") is None, "expected none where no word is known"


def test_support_is_the_sentence_that_holds_the_answer() -> None:
    support = index().support("When was the museum founded?", "1911")
    assert support is not None
    assert (support.sentence.index, support.coverage) == (0, 1.0)


def test_an_answer_from_elsewhere_has_no_support() -> None:
    support = index().support("Who founded the museum?", "Napoleon Bonaparte")
    assert support is not None
    assert support.coverage == 0
    assert index().support("Who?", "...") is None


def test_a_document_without_words_is_searched_in_vain() -> None:
    empty = SentenceIndex([Sentence(0, "...", 0, 3, 0)])
    assert empty.search("Who?", 3) == []
    assert len(empty.evidence("Who?", 3)) == 1


def test_words_of_scripts_without_spaces_are_found_by_two_characters() -> None:
    found = index(
        ["渡船每天早上九点开往对岸。", "磨坊是安德斯于1742年建的。", "客栈二月关门。", "The Grey Heron 号很旧。"]
    )
    assert found.search("谁建了磨坊？", 1)[0].index == 1
    assert found.search("客栈几月关门？", 1)[0].index == 2
    assert found.search("1742年", 1)[0].index == 1
    assert found.search("Grey Heron", 1)[0].index == 3
    japanese = index(["灯台は島の南にある。", "船長の名前はイルゼです。", "宿は二月に閉まる。"])
    assert japanese.search("船長の名前は何ですか？", 1)[0].index == 1


def test_a_row_is_found_by_its_header_and_brings_it_and_its_unit() -> None:
    text = (
        "Statement of income (in millions)\n\n| 2022 | 2021\nNet income | 99 | 94\nRent | 7 | 8\n\n"
        "Net income is told by the board every year. It met in May.\n\n"
        "| 2020 | 2019\nNet income | 57 | 55\nRent | 5 | 6\n\nThe board met again."
    )
    sentences = split_sentences(text)
    found = SentenceIndex(sentences).evidence("How much was net income in 2022?", 4)
    said = [each.text for each in found]
    assert said[:3] == ["Statement of income (in millions)", "| 2022 | 2021", "Net income | 99 | 94"]
    older = [each.text for each in SentenceIndex(sentences).evidence("How much was net income in 2019?", 2)]
    assert older == ["| 2020 | 2019", "Net income | 57 | 55"]
