"""Who shares with whom: a key's holder, else an address."""

import pytest

from service.requests.request_start import Arrival, address_of


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("::ffff:192.0.2.7", 5), "192.0.2.7"),
        (("2001:db8:1:2:3::9", 5), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5), "fe80::/64"),
        (("testclient", 5), ""),
        (None, ""),
    ],
)
def test_addresses_of_one_customer_are_one(client: tuple[str, int] | None, address: str) -> None:
    assert address_of(client) == address


def test_a_key_comes_before_the_address() -> None:
    assert Arrival(0.0, "/", "a", client="key", address="192.0.2.7").party == "key"
    assert Arrival(0.0, "/", "a", address="192.0.2.7").party == "192.0.2.7"
