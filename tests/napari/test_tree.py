"""The tree of regions, as Qt's own tester and its views see it."""

from __future__ import annotations

import pytest
from pytestqt.modeltest import ModelTester
from qtpy.QtCore import QModelIndex, QObject, Qt

from lsfm_core import Label, LabelTable
from napari_lsfm._widgets.fields._tree import RegionTree

CHECKED, PARTLY, UNCHECKED = Qt.CheckState.Checked, Qt.CheckState.PartiallyChecked, Qt.CheckState.Unchecked
#: 1 has 2 and 3, 2 has 4; ids need not fit into 32 bits.
LARGE = 2**40
TABLE = LabelTable(
    [Label(4, "d", "D", parent=2), Label(1, "a"), Label(2, "b", rgb=(1, 2, 3), parent=1), Label(LARGE, "c", parent=1)]
)
CIRCLE = LabelTable([Label(key, str(key), parent=above) for key, above in ((1, 3), (2, 1), (3, 2), (9, 9))])


@pytest.fixture
def tree(qapp: QObject, qtmodeltester: ModelTester) -> RegionTree:
    """Looked at by Qt's tester whenever it changes."""
    tree = RegionTree(qapp)
    tree.show_table(TABLE)
    qtmodeltester.check(tree)
    return tree


def rows(tree: RegionTree, parent: QModelIndex | None = None) -> list[object]:
    """Ids of the rows, each with a list of those below it if there are some."""
    found: list[object] = []
    parent = parent or QModelIndex()
    for row in range(tree.rowCount(parent)):
        index = tree.index(row, 0, parent)
        found.append(tree.key_at(index))
        assert tree.index_of(tree.key_at(index)) == index and tree.parent(index) == parent
        below = rows(tree, index)
        found += [below] if below else []
    return found


def test_parts_stand_below(tree: RegionTree) -> None:
    assert rows(tree) == [1, [2, [4], LARGE]]
    assert [tree.data(tree.index_of(4).siblingAtColumn(column)) for column in range(3)] == ["d", "D", "4"]
    assert tree.data(tree.index_of(4), Qt.ItemDataRole.ToolTipRole) == "a > b > d"
    assert tree.data(tree.index_of(2).siblingAtColumn(2), Qt.ItemDataRole.DecorationRole).getRgb()[:3] == (1, 2, 3)
    tree.show_only([4])
    assert rows(tree) == [1, [2, [4]]]
    tree.show_only([])
    assert rows(tree) == []
    tree.show_only(None)
    assert rows(tree) == [1, [2, [4], LARGE]]


def test_a_circle_of_parents_is_cut(tree: RegionTree) -> None:
    tree.show_table(CIRCLE)
    assert sorted(tree.keys) == [1, 2, 3, 9]
    flat = str(rows(tree))
    assert all(str(key) in flat for key in tree.keys)
    tree.show_only([2])


def test_boxes_tell_how_much_is_chosen(tree: RegionTree) -> None:
    for chosen, states, whole in (
        ((), [UNCHECKED] * 4, []),
        ((4,), [PARTLY, PARTLY, CHECKED, UNCHECKED], [4]),
        ((2, 4), [PARTLY, CHECKED, CHECKED, UNCHECKED], [2]),
        ((2,), [PARTLY, PARTLY, UNCHECKED, UNCHECKED], []),
        ((2, 4, LARGE), [PARTLY, CHECKED, CHECKED, CHECKED], [2, LARGE]),
        ((1, 2, 4, LARGE), [CHECKED] * 4, [1]),
    ):
        tree.choose(chosen)
        assert [tree.state(key) for key in (1, 2, 4, LARGE)] == states
        assert tree.whole() == whole


def test_what_is_not_listed_gets_a_row_once_it_is_chosen(tree: RegionTree) -> None:
    tree.choose([77])
    assert rows(tree) == [1, [2, [4], LARGE], 77]
    assert tree.data(tree.index_of(77)) == "label 77" and tree.state(77) == CHECKED
    tree.choose([])
    assert tree.state(77) == UNCHECKED


def test_a_click_at_a_box_is_told(tree: RegionTree) -> None:
    told: list[tuple[int, bool]] = []
    tree.ticked.connect(lambda key, is_on: told.append((key, is_on)))
    for value in (CHECKED, UNCHECKED):
        assert tree.setData(tree.index_of(LARGE), value, Qt.ItemDataRole.CheckStateRole)
    assert told == [(LARGE, True), (LARGE, False)]


def test_what_has_no_voxels_is_faint(tree: RegionTree) -> None:
    assert not any(tree.is_empty(key) for key in tree.keys), "nothing is known yet"
    tree.mark_empty({0, 4, 1234})
    assert [key for key in tree.keys if tree.is_empty(key)] == [LARGE], "a region is not empty whose part has voxels"
    assert tree.flags(tree.index_of(LARGE)) & Qt.ItemFlag.ItemIsUserCheckable
    tree.show_table(TABLE)
    assert not any(tree.is_empty(key) for key in tree.keys)
