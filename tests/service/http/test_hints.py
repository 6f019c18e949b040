"""What is refused is said in plain words, without the validation library's."""

import pytest

from service.http.hints import in_plain_words


@pytest.mark.parametrize(
    ("spoken", "plain"),
    [
        ("Input should be a valid list", "must be a valid list"),
        ("Input should be a valid dictionary or object to extract", "must be an object"),
        ("Input should be a valid dictionary", "must be an object"),
        ("String should match pattern '^[0-9]{1,9}$'", "must be a token id, in digits"),
        ("Input should be less than or equal to 2", "must be less than or equal to 2"),
    ],
)  # fmt: skip
def test_a_limit_is_said_without_the_library_s_words(spoken: str, plain: str) -> None:
    assert in_plain_words(spoken) == plain
