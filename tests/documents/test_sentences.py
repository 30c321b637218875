"""Sentences: right places always, right boundaries in the cases that readers meet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.documents.sentences import MAX_SENTENCE_CHARS, split_sentences

FRAGMENTS = [
    "The lamp was lit.",
    "Dr. J. R. Smith of the U.S. Army came at 5 p.m.",
    '"What!" he cried.',
    "(See Fig. 3.)",
    "4.",
    "- item",
    "| a | b |",
    "Heading",
    "[1]",
    "“Open quote",
    "...",
    "word " * 300,
    "x" * 1500,
    "日本語です。",
]


def texts(text: str) -> list[str]:
    return [sentence.text for sentence in split_sentences(text)]


@given(
    st.text(max_size=300)
    | st.lists(st.tuples(st.sampled_from(FRAGMENTS), st.sampled_from([" ", "  ", "\n", "\n\n", " \n \n", ""]))).map(
        lambda parts: "".join(fragment + gap for fragment, gap in parts)
    )
)
def test_sentences_are_ordered_disjoint_and_cover_every_character(text: str) -> None:
    sentences = split_sentences(text)
    covered = 0
    for index, sentence in enumerate(sentences):
        assert sentence.index == index
        assert sentence.text == text[sentence.start : sentence.end]
        assert sentence.text and sentence.text == sentence.text.strip()
        assert len(sentence.text) <= MAX_SENTENCE_CHARS
        assert not text[covered : sentence.start].strip()
        assert covered <= sentence.start
        covered = sentence.end
    assert not text[covered:].strip()
    paragraphs = [sentence.paragraph for sentence in sentences]
    assert paragraphs == sorted(paragraphs)


@pytest.mark.parametrize(
    "expected",
    [
        ["Dr. Smith met Mr. and Mrs. Jones.", "They left."],
        ["He lived in the U.S. Army camp.", "He died in Washington, D.C.", "In 1990 he left."],
        ["It was No. 5 of vol. 2, pp. 4-5.", "See Fig. 3 for more, e.g. the lamp, i.e. the light."],
        ["J. R. R. Tolkien and George W. Bush met.", "They talked."],
        ["Smith et al. (1999) disagree.", "Approx. 5 kg were lost."],
        ['"Is it?" he asked.', '"No," said Mr. Bingley.', "“Yes!” she cried.", "He went."],
        ['He said "Wait. We are patient." and left.', "(It was late.)", "He slept."],
        ["It grew.[1]", "Then it fell.[2][3]", "In 1990 it stopped."],
        ["It cost $3.5 million.", "Version 2.0 is out at www.example.com now."],
        ["Really... yes.", "Oh! why not?", "So be it."],
    ],
)
def test_boundaries(expected: list[str]) -> None:
    assert texts(" ".join(expected)) == expected


def test_missing_space_between_sentences_is_no_reason_to_merge_but_names_stay_whole() -> None:
    assert texts("The lamp was put out.Then he left.") == ["The lamp was put out.", "Then he left."]
    assert texts("The notation is Example.Group in ASN.") == ["The notation is Example.Group in ASN."]


def test_quotation_mark_left_open_does_not_swallow_the_text() -> None:
    text = 'He said "wait. ' + "The sea was calm. " * 20
    assert texts(text).count("The sea was calm.") == 20


def test_paragraphs_and_headings_are_never_merged() -> None:
    sentences = split_sentences("Early life\n\nAda was born in 1815. She wrote\n\nnotes.")
    assert [(sentence.text, sentence.paragraph) for sentence in sentences] == [
        ("Early life", 0),
        ("Ada was born in 1815.", 1),
        ("She wrote", 1),
        ("notes.", 2),
    ]


def test_number_of_an_item_stays_with_the_item() -> None:
    assert texts("4. Close the valve.\n5. Open the door.") == ["4. Close the valve.", "5. Open the door."]
    assert texts("A. Close the valve.") == ["A. Close the valve."]


def test_lines_of_lists_tables_and_speakers_are_sentences_of_their_own() -> None:
    text = "- first thing\n- second thing\nName | Year\nAda | 1815\nSpeaker A: So ,\nSpeaker B: Yes ."
    assert texts(text) == text.split("\n")


def test_line_break_inside_a_sentence_does_not_end_it() -> None:
    text = "The keeper walked slowly down to the harbour of the old Roman\nEmpire and waited there\nfor the boat."
    assert texts(text) == [text]


def test_long_enumeration_is_cut_at_semicolons() -> None:
    item = "the lamp number and the lens number of the tower"
    text = "; ".join([item] * 60) + "."
    sentences = split_sentences(text)
    assert len(sentences) > 2
    assert all(len(sentence.text) <= MAX_SENTENCE_CHARS for sentence in sentences)
    assert all(sentence.text.endswith((";", ".")) for sentence in sentences)


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\u3000", "\t", "\u2028"])
def test_any_white_space_may_stand_before_an_initial(space: str) -> None:
    text = f"The book is by{space}J{space}. R. Smith. It was{space}X{space}. printed in Bern."
    pieces = [text[sentence.start : sentence.end] for sentence in split_sentences(text)]
    assert " ".join(pieces).split() == text.split()


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", ["(a) The premium of approx. 3 per cent. p.a. falls due in May."]),
        ("en", ["c) Tools such as saws, planes, etc. belong to the guild."]),
        ("en", ["iv. The carrier, resp. the master, pays incl. tolls and dues."]),
        ("en", ["(d) The agent may charge 1 per cent. p.a. of the sum.", "(e) Its fee is paid yearly."]),
        ("en", ["Article 11. The seat is in Bern.", "Clause 7.2. Cats are welcome.", "§ 8. Noise is forbidden."]),
        ("en", ["As said in Section 4.", "Cats are welcome."]),
        ("en", ["See para. 3, subpara. 2 and Sched. 4 of the deed.", "Reed v. Stone settled it."]),
        ("en", ["It is shown in Ex. B and in App. IV of the deed.", "Nobody has read it."]),
        ("en", ["Is it shut?", "No.", "It opens at noon."]),
        ("de", ["Am 9. November wurde gefeiert.", "Es kamen ca. 80 Gäste, z. B. aus Ulm."]),
        ("de", ["Das Büro liegt im 4. Stock.", "Der Lift hält nur in jedem 2. Stock."]),
        ("de", ["Die Zimmer sind im 4. Stock.", "Das Bad ist im 3.", "Die Küche fehlt."]),
        ("de", ["Anna Berg, geb. Roth, zahlt inkl. Strom 90 Euro.", "Sie wohnt in der Gartenstr. 12."]),
        ("de", ["(1) Das Haus ist offen.", "(2) Das Tor ist zu."]),
        ("fr", ["Le Dr. Roux et le Pr. Morel sont là, env. 20 personnes aussi.", "Il pleut."]),
        ("fr", ["« Où es-tu ? » demanda-t-elle.", "Il se tut."]),
        ("es", ["La Dra. Gil debe aprox. 90 euros a D. Luis Mora.", "¿Cuándo paga?", "¡Hoy!"]),
        ("it", ["Il sig. Bianchi sta in via Po n. 9.", "L'art. 2 vale."]),
    ],
)
def test_short_forms_and_enumerated_clauses_by_language(language: str, expected: list[str]) -> None:
    assert [each.text for each in split_sentences(" ".join(expected), language)] == expected


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("zh", ["港口在岛的南边。", "谁修了灯塔？", "她说：“是我修的！”", "天黑了。"]),
        ("zh", ["第三条。本合同自签字之日起生效。", "（二）租金为每月3.5万元。"]),
        ("ja", ["灯台は南にある。", "「誰が建てたの？」と彼は聞いた。", "誰も答えなかった！"]),
    ],
)
def test_scripts_without_spaces_are_split(language: str, expected: list[str]) -> None:
    assert [each.text for each in split_sentences("".join(expected), language)] == expected


@pytest.mark.parametrize(
    "text",
    [
        "Take along\n● A coat for cold days\n○ Nothing else\n▪ A cup\n➢ A pass\n✓ A muzzle\n→ Ask at the desk\n· A key",
        "持ち物\n・手袋\n・帽子\n①水\n②地図",
        "说明\n一、带上护照\n二、带上水\n（三）早到",
        "[12:03] Mia: I am late\n[12:04] Tom Berg: So am I\n[12:05] Mia: Good",
        "3/9/24, 9:15 AM - Mia: I am late\n3/9/24, 9:16 AM - Tom: So am I",
        "[03.10.22, 09:15:22] Mia: Bin da\n[03.10.22, 09:16:02] Tom: Ich auch",
        "<mia> I am late\n<tom> So am I",
        "mia: I am late\ntom_b: So am I\nmia: good",
        "Élodie: Bonjour\nÖmer: Salut\nИван: Привет",
    ],
)
def test_bullets_of_every_kind_and_chat_lines_are_sentences_of_their_own(text: str) -> None:
    assert texts(text) == text.split("\n")
