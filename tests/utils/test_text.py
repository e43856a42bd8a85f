import pytest

from v4d.utils.text import some_of
from v4d.utils.videos import DATASET_SUFFIXES, VIDEO_SUFFIXES


@pytest.mark.parametrize(
    ("names", "text"), [("", ""), ("ab", "a, b"), ("abc", "a, b, c"), ("abcde", "a, b, c and 2 more")]
)
def test_the_first_of_many_are_named(names, text):
    assert some_of(iter(names)) == text


def test_endings_of_videos_are_parts_of_one_list():
    assert DATASET_SUFFIXES < VIDEO_SUFFIXES
