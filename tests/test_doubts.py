import numpy as np

from capkit.doubts import reasons_for_doubt

NAMES = ["cat", "dog", "cow", "hen", "ram"]


def reasons(rows, labels, **arguments):
    return reasons_for_doubt(
        np.array(rows, dtype=np.float64), np.array(labels), class_names=NAMES, **arguments
    )


def test_a_sure_label_is_not_doubted():
    assert reasons([[0.9, 0.1, 0, 0, 0]], [0], zero_shot=np.array([0])) == [""]


def test_a_runner_up_that_is_close_is_named():
    assert reasons([[0.55, 0.45, 0, 0, 0]], [0]) == ["may be dog as well (45%)"]
    assert reasons([[0.65, 0.35, 0, 0, 0]], [0]) == [""]


def test_a_best_class_that_is_weak_is_said_to_be():
    assert reasons([[0.45, 0.15, 0.15, 0.15, 0.1]], [0]) == ["no class fits well (the best 45%)"]


def test_reasons_are_told_together():
    found = reasons([[0.55, 0.45, 0, 0, 0]], [0], zero_shot=np.array([2]))
    assert found == ["may be dog as well (45%); cow by the names alone"]


def test_a_label_that_a_person_gave_is_doubted_only_where_another_is_sure():
    rows = [[0.95, 0.05, 0, 0, 0], [0.6, 0.4, 0, 0, 0], [0.3, 0.7, 0, 0, 0]]
    known = np.array([1, 1, -1])
    found = reasons(rows, [1, 1, 1], known=known, zero_shot=np.array([0, 0, 0]))
    assert found == [
        "labeled by hand, but looks like cat",
        "",
        "cat by the names alone",
    ]


def test_the_probabilities_that_were_given_stay_as_they_are():
    rows = np.array([[0.6, 0.4, 0, 0, 0]])
    reasons_for_doubt(rows, np.array([0]), class_names=NAMES)
    assert rows.tolist() == [[0.6, 0.4, 0, 0, 0]]


def test_an_image_that_fits_all_names_less_than_the_others_may_be_of_no_class():
    rows = [[0.9, 0.1, 0, 0, 0]] * 21
    # quartiles 0.25 and 0.35, so that the limit is 0.2
    similarity = np.array([0.25, 0.35] * 9 + [0.35, 0.19, 0.21])
    found = reasons(rows, [0] * 21, similarity=similarity)
    assert [row for row, reason in enumerate(found) if reason] == [19]
    assert found[19] == "may be of no class"


def test_of_a_few_images_none_is_told_to_be_of_no_class():
    similarity = np.array([0.3] * 18 + [0.0])
    assert not any(reasons([[0.9, 0.1, 0, 0, 0]] * 19, [0] * 19, similarity=similarity))
