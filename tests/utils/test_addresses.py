"""No password of an address comes through, and every address is whole again where it is used."""

import os
import string
import urllib.parse
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v4d.config import resolve
from v4d.errors import V4DError
from v4d.utils.addresses import KEPT, keep_secrets, user_and_password, whole, without_secrets

LETTERS = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12)
SECRETS = st.text(min_size=1, max_size=12)
SCHEMES = st.sampled_from(["http", "https", "postgresql", "mysql+pymysql", "ftp"])
PLACES = st.sampled_from(["", "/", "/a/b", "/x@y", ":5000", ":5000/x/"])


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setenv(KEPT, "{}")


@given(SCHEMES, SECRETS, SECRETS, LETTERS, PLACES)
def test_an_address_loses_its_user_and_gets_it_back(scheme, user, password, host, place):
    with mock.patch.dict(os.environ, {KEPT: "{}"}):
        secret = ":".join(urllib.parse.quote(part, safe="") for part in (user, password))
        given_address, clean = f"{scheme}://{secret}@{host}{place}", f"{scheme}://{host}{place}"
        assert keep_secrets({"a": [given_address, 1, None]}) == {"a": [clean, 1, None]}
        assert whole(clean) == given_address
        assert whole(f"{clean.rstrip('/')}/400/x") == f"{given_address.rstrip('/')}/400/x"
        assert user_and_password(clean) == (user, password)
        assert whole(f"{scheme}://{host}.others{place}") == f"{scheme}://{host}.others{place}"
        assert keep_secrets(clean) == clean == without_secrets(clean)


@given(SCHEMES, SECRETS, LETTERS, PLACES, st.sampled_from(["at '%s'", "%s: no answer", '{"uri": "%s"}']))
def test_what_is_printed_has_no_password(scheme, password, host, place, words):
    address = f"{scheme}://me:{urllib.parse.quote(password, safe='')}@{host}{place}"
    assert without_secrets(words % address) == words % f"{scheme}://{host}{place}"


@pytest.mark.parametrize(
    ("address", "clean"),
    [
        ("https://me:se@cret@host/x@y", "https://host/x@y"),
        ("postgresql://me:se/cr?et@host/db", "postgresql://host/db"),
        ("postgresql://host/db?user=me&password=secret&sslmode=require", None),
        ("https://secret@host", "https://host"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("file:///a/b@c", "file:///a/b@c"),
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("me@host", "me@host"),
    ],
)
def test_forms_of_addresses(address, clean):
    clean = clean or "postgresql://host/db?user=me&sslmode=require"
    assert keep_secrets(address) == clean
    assert whole(clean) == address


@pytest.mark.parametrize(
    "change",
    [
        {"tracking": {"uri": "ftp://me:secret@host", "backend": "ftp://me:secret@host"}},
        {"dataset": {"kinetics": {"base_url": "ftp://me:secret@host"}}},
        {"seed": "https://me:secret@host"},
        {"name": "https://me:secret@host"},
    ],
)
def test_a_config_that_is_refused_does_not_print_it(change):
    dataset = {"name": "k", "source": "kinetics"} | change.pop("dataset", {})
    with pytest.raises(V4DError, match="host") as raised:
        resolve({"name": "k", "dataset": dataset} | change)
    assert "secret" not in str(raised.value)
