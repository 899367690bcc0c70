"""The links of one history, by hand."""

import numpy as np

from recsys.retrieval.items import ItemTable
from recsys.retrieval.links import read_links


def test_links_are_summed_over_a_history_table_by_table():
    one = ItemTable(np.array([[1, 2], [2, -1], [-1, -1]], np.int32), np.array([[2, 1], [4, 0], [0, 0]], np.float32))
    other = ItemTable(np.array([[2], [-1], [0]], np.int32), np.array([[8], [0], [3]], np.float32))
    weights = np.array([[0.5, 1, 1, 0], [0, 1, 2, 0]], np.float32)
    links = read_links([one, other], np.array([0, 1, 2, 0], np.int32))
    assert links.rows.tolist() == [0, 1, 2]
    assert links.summed(weights).tolist() == [[0, 1, 4.5], [6, 0, 0]]
    assert links.strongest().tolist() == [[0, 2, 4], [3, 0, 8]]
    assert links.at(np.array([1, 2, 7], np.int32), links.strongest()).tolist() == [[2, 4, 0], [0, 8, 0]]
    nothing = read_links([one, other], np.zeros(0, np.int32))
    assert nothing.summed(np.zeros((2, 0), np.float32)).shape == nothing.strongest().shape == (2, 0)
    assert nothing.at(np.array([1], np.int32), nothing.strongest()).tolist() == [[0], [0]]
