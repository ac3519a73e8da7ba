from overread.records import EpochReport
from overread.search.stopping import FairStopping


def policy(**fields: object) -> FairStopping:
    return FairStopping(rungs=(25, 50), keep=0.5, min_records=2, **fields)  # type: ignore[arg-type]


def test_the_first_trial_of_each_family_runs_to_its_end() -> None:
    stopping = policy()
    protected = [stopping.start(*trial) for trial in (("a", "unet"), ("b", "unetmer"), ("c", "unet"), ("d", "unetmer"))]
    assert protected == [True, True, False, False]
    assert stopping.record("a", 25, 0.9) is None
    assert stopping.record("c", 25, 0.8) is None
    assert stopping.record("b", 25, 0.1) is None  # the worst of three, but protected


def test_a_failed_trial_passes_its_protection_on() -> None:
    stopping = policy()
    stopping.start("a", "unet")
    stopping.record("a", 25, 0.9)
    stopping.fail("a")
    assert stopping.start("b", "unet")
    assert stopping.records == {25: {}}


def test_the_better_half_goes_on() -> None:
    stopping = policy()
    for name in "abcde":
        stopping.start(name, "unet")
    assert stopping.record("a", 30, 0.5) is None  # protected
    assert stopping.record("b", 25, 0.4) is None  # two records decide nothing
    # three records: 0.6 0.5 0.4, the best ceil(3/2) = 2 go on
    assert stopping.record("c", 26, 0.6) is None
    # four records: 0.6 0.5 0.45 0.4, the best 2 go on
    reason = stopping.record("d", 25, 0.45)
    assert reason == "Dice 0.450 after 25 % of its steps is not in the best half (4 trials, cut at 0.500)"
    # equal to the cut of five records 0.6 0.5 0.5 0.45 0.4 (best 3): goes on
    assert stopping.record("e", 49, 0.5) is None


def test_only_the_first_validation_at_a_rung_counts() -> None:
    stopping = policy()
    for name in "abcd":
        stopping.start(name, "unet")
        stopping.record(name, 25, 0.5)
    assert stopping.record("d", 40, 0.0) is None
    assert stopping.records == {25: dict.fromkeys("abcd", 0.5)}
    assert stopping.record("d", 10, 0.0) is None  # below the first rung
    stopping.record("a", 60, 0.7)
    assert stopping.records[50] == {"a": 0.7}
    assert stopping.record("b", 100, 0.0) is None  # it has ended anyway


def test_replay_gives_the_records_of_an_earlier_session() -> None:
    epochs = tuple(
        EpochReport(epoch=i, step=i, progress=25 * i, seconds=0.0, metrics={"validation_dice": i / 10})
        for i in (1, 2, 3, 4)
    )
    stopping = policy()
    stopping.start("a", "unet")
    stopping.replay("a", epochs)
    assert stopping.records == {25: {"a": 0.1}, 50: {"a": 0.2}}
