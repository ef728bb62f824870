import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.codec.lines import BIAS, LABELS, Groups, Segments, Sorting

CLASSES = st.lists(st.integers(0, 5), max_size=150).map(lambda each: np.array(each, np.int64))


@given(CLASSES)
def test_rows_are_taken_by_falling_class_in_groups_of_one_class_and_batch(classes):
    groups = Groups.of(classes)
    falling = sorted(range(classes.size), key=lambda row: (-classes[row], row))
    assert groups.order.tolist() == [row for row in falling if classes[row]]
    assert int(groups.size.sum()) == groups.order.size
    for first, size, row_class in zip(groups.first, groups.size, groups.row_class, strict=True):
        assert (classes[groups.order[first : first + size]] == row_class).all()
    found = [groups.of_batch(batch) for batch in range(groups.batches)]
    assert [batch for some in found for batch in some.batch] == groups.batch.tolist()
    assert all(some.size.size and (some.batch == batch).all() for batch, some in enumerate(found))


def test_batches_grow():
    groups = Groups.of(np.ones(1024, np.int64))
    assert groups.size.tolist() == [8, 8, 8, 12, 36, 72, 144, 288, 448]


def test_columns_that_had_many_places_come_last():
    counts = np.array([[9, 0, 0, 9, 0, 1], [0, 0, 0, 0, 0, 0]])
    sorting = Sorting.after(counts, 0)
    assert sorting.by_class[0].tolist() == [1, 2, 4, 5, 0, 3]
    assert sorting.ranks()[0].tolist() == [0, 0, 1, 1, 2, 0]
    assert sorting.widths()[0].tolist() == [2, 3, 3, 2, 3, 1]
    assert sorting.by_class[1].tolist() == list(range(6))
    # (8 c + 1) 6 / (8 * 19 + 6): 0.04, 0.34 and 2.8
    assert (sorting.column_class[0] + sorting.low).tolist() == [2, -4, -4, 2, -4, -1]


@given(CLASSES.filter(np.any), st.integers(0, 10), st.integers(0, 99))
def test_every_cell_has_a_place_of_its_own_in_the_line_of_its_label(classes, caution, seed):
    groups, random = Groups.of(classes), np.random.RandomState(seed)
    counts = random.randint(0, 9, (groups.batches, 20)) * random.randint(0, 2, 20)
    sorting = Sorting.after(counts, caution)
    segments = Segments.of(groups, sorting.sizes[groups.batch], sorting.low, np.zeros(LABELS, np.int64))
    lines: dict[int, list[int]] = {}
    for group, (batch, size) in enumerate(zip(groups.batch, groups.size, strict=True)):
        for column_class, width in enumerate(sorting.sizes[batch]):
            begin, cells = segments.begin[group, column_class], size * width
            label = int(groups.row_class[group]) + column_class + sorting.low + BIAS
            assert segments.label[group, column_class] == label
            assert segments.cells[group, column_class] == cells
            lines.setdefault(label, []).extend(range(begin, begin + cells))
    for label, line in lines.items():
        assert line == list(range(segments.reached[label]))
    assert int(segments.reached.sum()) == groups.order.size * 20
