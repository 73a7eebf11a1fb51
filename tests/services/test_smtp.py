"""SMTP through smtplib, with STARTTLS and a login: recorded from a real server, played with none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trustme
from real_servers import PASSWORD, Running, exim, smtp
from service_lab import Service

pytestmark = pytest.mark.live

HOST = "mail.example.com"

CODE = """
import smtplib, ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
import pytest

pytestmark = pytest.mark.cassette

def mail():
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "shop@example.com", "a@example.com", "Your order"
    mail["Date"], mail["Message-ID"] = formatdate(), make_msgid()
    mail.set_content(f"One {ITEM}.\\n.\\n")
    mail.add_alternative(f"<p>One {ITEM}.</p>", subtype="html")
    return mail

@pytest.mark.parametrize("login", ["login", "auth_login"])
def test_a_mail(netcapture, login):
    with smtplib.SMTP(HOST, 25, timeout=20) as client:
        client.starttls(context=ssl.create_default_context())
        if login == "login":
            client.login("app", PASSWORD)
        else:
            client.ehlo()
            client.user, client.password = "app", PASSWORD
            client.auth("LOGIN", client.auth_login, initial_response_ok=False)
        assert client.send_message(mail(), to_addrs=["a@example.com", "b@example.com"]) == {}
    sent = netcapture.smtp.one(subject="Your order", recipients__contains="b@example.com")
    assert sent.sender == "shop@example.com"
    assert ITEM in sent.text
    assert sent.answer.startswith(b"250 ")

def test_without_tls_it_is_refused():
    with smtplib.SMTP(HOST, 25, timeout=20) as client:
        client.ehlo()
        with pytest.raises(smtplib.SMTPResponseException, match="STARTTLS"):
            client.mail("shop@example.com")
            raise smtplib.SMTPResponseException(*client.rcpt("a@example.com"))

def test_a_wrong_password():
    with smtplib.SMTP(HOST, 25, timeout=20) as client:
        client.starttls(context=ssl.create_default_context())
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("app", "wrong-pass-word")
"""


@pytest.mark.parametrize("make", [exim, smtp])
def test_it(
    service: Callable[..., Service],
    tmp_path: Path,
    make: Callable[[str], AbstractContextManager[Running]],
) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "leaf.pem"))
    post = service(HOST, 25, f"--netcapture-upstream-ca={tmp_path / 'ca.pem'}")

    def write(item: str = "apple") -> None:
        names = {"HOST": HOST, "ITEM": item, "PASSWORD": PASSWORD}
        head = "".join(f"{name} = {one!r}\n" for name, one in names.items())
        post.project.write("test_it.py", head + CODE)

    write()
    with make(str(tmp_path / "leaf.pem")) as server:
        post.record(server, passed=4)
    post.play(passed=4)
    for secret in (PASSWORD.encode(), b"wrong-pass-word"):
        assert secret not in post.cassettes()
    write("pear")
    failed = post.play("-k", "auth_login", passed=0, failed=1).stdout.str()
    assert "what was sent is not what was recorded" in failed
