"""`flserve bench round` measures both sides on the same job."""

from flserve_app.experiments import bench_round


def test_both_sides_are_measured_over_the_same_number_of_rounds(capsys):
    cost = bench_round._measure("small", bench_round.JOBS["small"], 2, 1, "inprocess", "lossless")
    assert len(cost.plain_seconds) == len(cost.versioned_seconds) == 2
    assert min(*cost.plain_seconds, *cost.versioned_seconds) > 0
    assert set(cost.phases) == set(bench_round.PHASES)
    assert cost.phases["train"] <= cost.phases["wait"] <= cost.versioned_seconds[0] + cost.versioned_seconds[1]
    bench_round.show([cost])
    assert "small" in capsys.readouterr().out
