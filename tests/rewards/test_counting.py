from collections import Counter
from itertools import islice

from rewards.counting import WORDS, Counting


def test_the_words_differ() -> None:
    assert len(set(WORDS)) == len(WORDS) == 64
    assert all(word.isascii() and word.islower() and word.isalpha() for word in WORDS)


def test_the_answers_are_the_words_between_colon_and_full_stop() -> None:
    for question in islice(Counting(1, 20).questions(0), 200):
        sentence = question.text.removeprefix("How many words are in this sentence: ")
        sentence = sentence.removesuffix(". Answer with the number only.")
        assert len(sentence.split()) == int(question.answer)
        assert {word.lower() for word in sentence.split()} <= set(WORDS)
        assert sentence[0].isupper()


def test_every_length_is_asked_for_equally_often() -> None:
    asked = Counter(question.answer for question in islice(Counting(3, 9).questions(0), 70))
    assert asked == {str(length): 10 for length in range(3, 10)}


def test_short_sentences_run_out_and_long_ones_go_on() -> None:
    answers = [question.answer for question in Counting(1, 2).questions(0)]
    assert Counter(answers) == {"1": 64, "2": 64**2}
    assert set(answers[128:]) == {"2"}
