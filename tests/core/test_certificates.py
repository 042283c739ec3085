"""The end of a certificate, read from its bytes."""

import shutil
import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.certificates import not_after
from tests.access.certificates import make

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")


@needs_openssl
@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("days", [1, 90, 20_000, 40_000])
def test_it_says_what_openssl_says(tmp_path: Path, kind: str, days: int) -> None:
    """20,000 days and more are past 2050, where the form of the time is another."""
    made = make(tmp_path, days=days, kind=kind)
    told = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate", "-in", made.certificate],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    end = datetime.strptime(told.strip(), "notAfter=%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    assert not_after(ssl.PEM_cert_to_DER_cert(made.certificate.read_text())) == end


@given(st.binary(max_size=200))
def test_whatever_it_reads_it_ends_with_a_value_error(data: bytes) -> None:
    for der in (data, b"\x30\x82" + data, b"\x30\x80\x30\x80" + data):
        with pytest.raises(ValueError):
            not_after(der)


@needs_openssl
def test_a_certificate_cut_off_anywhere_is_none(tmp_path: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert(make(tmp_path).certificate.read_text())
    for length in range(len(der)):
        with pytest.raises(ValueError):
            not_after(der[:length])
