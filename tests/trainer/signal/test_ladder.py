import pytest

from configs.schema import Config
from trainer.signal.kinds import Kind
from trainer.signal.ladder import Ladder, ladder


def test_a_ladder_reaches_exactly_its_maximum() -> None:
    rungs = Ladder(base_temperature=1.0, factor=1.4, max_temperature=2.0)
    temperatures, rung = [], 0
    for _ in range(5):
        temperatures.append(rungs.temperature(rung))
        rung = rungs.after(rung, "collapsed", teaches=False, narrow=True)
    assert temperatures == pytest.approx([1.0, 1.4, 1.96, 2.0, 2.0])
    assert Ladder(1.0, 2.0, 4.0).top == 2
    assert Ladder(1.0, 2.0, 1.0).after(0, "collapsed", teaches=False, narrow=True) == 0


@pytest.mark.parametrize(
    ("rung", "kind", "teaches", "narrow", "after"),
    [
        (2, "learning", True, False, 1),
        (0, "learning", True, False, 0),
        (0, "learning", False, True, 1),
        (3, "learning", False, True, 3),
        (0, "learning", False, False, 0),
        (1, "learning", False, False, 2),
        (3, "learning", False, False, 0),
        (3, "collapsed", False, True, 3),
        (2, "solved", False, False, 0),
        (2, "floor", False, False, 0),
        (2, "floor", False, True, 3),
    ],
)
def test_the_next_rung(rung: int, kind: Kind, teaches: bool, narrow: bool, after: int) -> None:
    assert Ladder(1.0, 1.4, 2.0).after(rung, kind, teaches, narrow) == after


@pytest.mark.parametrize("settings", [(1.0, 1.0, 2.0), (1.0, 1.4, 0.5), (0.0, 1.4, 2.0)])
def test_a_ladder_that_cannot_climb_is_refused(settings: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="factor > 1"):
        Ladder(*settings)


def test_without_rescues_there_is_no_rung_above_base() -> None:
    config = Config.model_validate(
        {"task": {"name": "comparison"}, "run": {"max_steps": 1}, "signal": {"rescue": False}}
    )
    assert ladder(config).top == 0
    assert ladder(config.model_copy(update={"signal": config.signal.model_copy(update={"rescue": True})})).top == 3
