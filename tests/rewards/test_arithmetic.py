from itertools import islice

from rewards.arithmetic import Arithmetic


def test_the_answers_are_the_sums() -> None:
    for question in islice(Arithmetic(0, 10**6).questions(0), 100):
        left, right = map(int, question.id.split("-")[1:])
        assert question.text == f"What is {left} + {right}? Answer with the number only."
        assert int(question.answer) == left + right


def test_the_order_of_the_numbers_makes_two_questions() -> None:
    asked = {question.text for question in Arithmetic(3, 5).questions(0)}
    assert len(asked) == 9
    assert {f"What is {pair}? Answer with the number only." for pair in ("3 + 5", "5 + 3")} < asked
