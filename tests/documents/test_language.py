"""Languages: English is never taken for another one, and short sentences of others are never taken for English."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lift.documents.language import detect_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The keeper of the lamp was in the tower, and it was dark.", "en"),
        ("Der Wärter der Lampe war nicht in dem Turm, und es ist dunkel mit der Nacht.", "de"),
        ("Le gardien de la lampe est dans la tour et il ne dort pas.", "fr"),
        ("El guardián de la lámpara no está en la torre y es de noche.", "es"),
        ("灯台の明かりは夜に見える。これはテストです。", "ja"),
        ("Съешь же ещё этих мягких французских булок", "ru"),
        ("lorem ipsum dolor sit amet consectetur", "la"),
        ("Hello", "other"),
        ("La clé", "other"),
        ("", "other"),
        ("1\t2\t3\n" * 100, "other"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert detect_language(text) == language


@pytest.mark.parametrize(
    "text",
    [
        "Croissant 2.10\nCappuccino 2.80\nEspresso 1.90\nPain au chocolat 2.60",
        "a = load(b)\ne = a + b\nprint(a, e)\no = e * a\nreturn o",
        "faster = a if a.seconds < b.seconds else b\ncell = e[a]\nrow = e[b]",
        "| Name | Rate |\n|---|---|\n| P-1 | 30 |\n| La Paz | 12 |\n| Los Altos | 18 |",
        "[1] M. Rossi and L. Bianchi. Valves. Roma, 1998.\n[2] K. Schmidt. Pumpen. Berlin, 2003.",
        'He wrote "la vie est belle et le ciel est bleu" on the wall, and she laughed at it.',
        "GET /v1/models HTTP/1.1\nHost: localhost\nAccept: */*",
        "SELECT id, name FROM users WHERE age > 30 ORDER BY name;",
        "Serie A: Juventus 2, Lazio 1; La Liga: Real Madrid 3, Sevilla 0.",
        "Dr. Müller, Prof. Schröder and Mme Lefèvre attended.",
    ],
)
def test_english_with_code_tables_and_names_is_not_taken_for_another_language(text: str) -> None:
    assert detect_language(text) in ("en", "other")


@pytest.mark.parametrize(
    "text",
    [
        "Der Schlüssel liegt unter der Matte.",
        "Morgen öffnet der Laden erst um zehn Uhr.",
        "La clé se trouve sous le paillasson.",
        "Demain, le magasin ouvre à dix heures.",
        "La llave está debajo del felpudo.",
        "Mañana la tienda abre a las diez.",
        "La chiave è sotto lo zerbino.",
        "Domani il negozio apre alle dieci.",
        "De sleutel ligt onder de mat.",
        "Morgen gaat de winkel om tien uur open.",
        "A chave está debaixo do tapete.",
        "Amanhã a loja abre às dez horas.",
        "Nyckeln ligger under mattan.",
        "I morgon öppnar butiken klockan tio.",
        "Klucz leży pod wycieraczką.",
        "Jutro sklep otwiera się o dziesiątej.",
    ],
)
def test_short_sentences_of_other_languages_are_not_taken_for_english(text: str) -> None:
    assert detect_language(text) != "en"


@settings(deadline=None)
@given(st.text(st.characters(codec=None), max_size=60))
def test_every_text_has_an_answer(text: str) -> None:
    assert detect_language(text).isalpha()
