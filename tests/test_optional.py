import pytest

from capkit._optional import require


def test_what_is_there_is_no_error():
    require("this test", "plot", "json", "csv")


def test_what_is_missing_names_the_package_and_how_to_install_its_extra():
    with pytest.raises(ImportError) as error:
        require("drawing", "plot", "json", "no_such_package")
    assert str(error.value) == (
        "drawing requires no_such_package. You can install it with `python -m pip install "
        '"capkit-clip[plot]"`.'
    )
