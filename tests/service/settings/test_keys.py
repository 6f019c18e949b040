import hashlib

import pytest

from service.settings.keys import Keyring


def test_a_key_has_an_owner_and_others_have_none() -> None:
    keys = Keyring.parse("first-key, second-key\n third-key")
    assert len(keys) == 3
    assert keys.owner("second-key") == hashlib.sha256(b"second-key").hexdigest()[:8]
    assert len({keys.owner(f"{name}-key") for name in ("first", "second", "third")}) == 3
    for other in ("", "first-ke", "first-key ", "First-key", "first-key, second-key", "\ud800"):
        assert keys.owner(other) is None


def test_nothing_that_is_kept_shows_a_key() -> None:
    keys = Keyring.parse("open-sesame")
    assert "sesame" not in repr(keys) + str(vars(keys))


def test_keys_of_two_places_are_joined_and_none_is_twice() -> None:
    joined = Keyring.parse("first-key second-key") | Keyring.parse("second-key third-key")
    assert len(joined) == 3
    assert joined.owner("first-key")
    assert joined.owner("third-key")
    assert len(joined | None) == 3


@pytest.mark.parametrize("text", ["", " ", ",", "\n"])
def test_no_key_at_all_is_a_mistake(text: str) -> None:
    with pytest.raises(ValueError, match="it holds no key"):
        Keyring.parse(text)


def test_a_short_key_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="fewer than 8 characters") as refused:
        Keyring.parse("long-enough,short")
    assert "short" not in str(refused.value).replace("shorter", "")


@pytest.mark.parametrize("key", ["passwörter", "tab\tin-it", "line\x7fend"])
def test_a_key_that_no_header_carries_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="characters that a header does not carry"):
        Keyring.of([key])
