"""Which names say secret."""

from __future__ import annotations

import pytest

from pytest_netcapture.cassettes.names import (
    SECRET_WORDS,
    STEMS,
    is_secret_name,
    is_secret_variable,
)


@pytest.mark.parametrize(
    "name",
    str.split(
        "X-Api-Key X-Acme-Token acme_key acmeKey sessionKey session_key password userPassword passwd sig "
        "signature X-Amz-Signature client_secret refreshToken csrfmiddlewaretoken PHPSESSID JSESSIONID sid "
        "X-Amz-Security-Token id_token apikey api-key Ocp-Apim-Subscription-Key privateKey auth token"
    ),
)
def test_secret(name):
    assert is_secret_name(name)
    assert any(stem in name.lower() for stem in STEMS)


@pytest.mark.parametrize(
    "name",
    str.split(
        "key primary_key foreignKey sort_key partitionKey public_key cache-key Idempotency-Key row_key "
        "monkey author passenger assigned token_type password_reset_url next_page_token nextPageToken "
        "Sec-WebSocket-Key Content-Type WWW-Authenticate x-ratelimit-remaining-tokens id name secret_name "
        "session_duration key_id design authority passed Content-Security-Policy"
    ),
)
def test_not_secret(name):
    assert not is_secret_name(name)


def test_stems_are_in_all_words():
    assert all(any(stem in word for stem in STEMS) for word in SECRET_WORDS)


@pytest.mark.parametrize(
    "name",
    str.split(
        "API_TOKEN DB_PASSWORD AWS_SECRET_ACCESS_KEY DB_PASS MY_PWD GH_CREDENTIAL apiKey PGPASSWORD"
    ),
)
def test_secret_variables(name):
    assert is_secret_variable(name)


@pytest.mark.parametrize(
    "name", str.split("HOME PATH KEYBOARD LANG SSH_AUTH_SOCK TOKENIZERS_PARALLELISM")
)
def test_plain_variables(name):
    assert not is_secret_variable(name)
