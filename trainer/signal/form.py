"""Form: what an answer looks like here, learnt from the right ones, so that exploring stays among answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rewards.prompts import Verdict
from trainer.scored import ScoredGroup, normalized

ENOUGH = 4
"""Different right answers that show a form."""

LATEST = 256
"""Right answers that are looked at, the latest."""

LONGEST = 200
"""Characters of a right answer, beyond which answers are texts, whose characters tell nothing."""

STRANGE = 1
"""More characters of its own than any right answer has, an answer may have."""

LONGER = 2
"""Times as long as the longest right answer an answer may be."""


@dataclass(frozen=True)
class Form:
    """What right answers have in common. A digit is as good as any other.

    holding: character -> how many of the right answers hold it. longest: characters of the longest one.
    own: the most characters that one of them has and no other.
    """

    holding: Mapping[str, int]
    longest: int
    own: int

    @classmethod
    def of(cls, right: Sequence[str]) -> "Form | None":
        """That of the latest of some right texts; None where they are too few, or too long, to show one."""
        latest = right[-LATEST:]
        if any(len(text) > LONGEST for text in latest):
            return None
        different = {answer for text in latest if (answer := normalized(text))}
        if len(different) < ENOUGH:
            return None
        holding = Counter(character for answer in different for character in _characters(answer))
        form = cls(holding, max(map(len, different)), 0)
        return replace(form, own=max(form._held_by(answer, at_most=1) for answer in different))

    def fits(self, answer: str) -> bool:
        """Whether it could be a right answer, as far as its form tells. answer: `normalized`."""
        strange = self._held_by(answer, at_most=0)
        return len(answer) <= LONGER * self.longest and strange <= self.own + STRANGE

    def _held_by(self, answer: str, at_most: int) -> int:
        """How many of its characters are held by so many right answers at most."""
        return sum(self.holding.get(character, 0) <= at_most for character in _characters(answer))


def without_strangers(scored: ScoredGroup, form: Form | None) -> ScoredGroup:
    """The group with what does not fit the form as no answers; as it is where fewer than two answers fit.

    A reward of 0 or 1 calls every text an answer. Among so many, spreading soon leads to texts that answer nothing,
    since there are more of them.
    """
    if form is None:
        return scored
    fits = {answer: form.fits(answer) for answer in scored.samples_of_answer}
    if sum(fits.values()) < 2 or all(fits.values()):
        return scored
    verdicts = (
        verdict if answer is None or fits[answer] else Verdict(verdict.reward, "malformed")
        for verdict, answer in zip(scored.verdicts, scored.answers, strict=True)
    )
    return ScoredGroup(scored.group, tuple(verdicts))


def _characters(answer: str) -> set[str]:
    return {"0" if character.isdigit() else character for character in answer}
