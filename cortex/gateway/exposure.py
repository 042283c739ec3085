"""What is served well but should not stay as it is: warnings, which make no health worse.

Nothing is missing while they stand, and in a closed network the first may be meant: a monitor that
went red over it for good would be one that nobody looks at.
"""

from collections.abc import Iterable

from cortex.gateway.provenance import is_this_machine
from cortex.gateway.services import Services

EXPIRY_WARNING_S = 14 * 86_400.0
"""Certificates are usually renewed a month ahead: two weeks left mean that it did not happen."""


def warnings_of(svc: Services) -> list[str]:
    """Each as a sentence."""
    found = []
    if not svc.keyring.open and not svc.keyring.names:
        found.append(f"nobody gets in: {svc.config.auth.file} has no key; see `cortex keys`")
    if svc.keyring.open and svc.public_address is not None:
        found.append(
            f"no API keys are configured and {svc.public_address} can be reached from other"
            " machines: everybody there may use every model"
        )
    if svc.certificate is not None:
        left_s = svc.certificate.expires_at_s - svc.fleet.clock.now_ms() / 1000
        if left_s <= 0:
            found.append("the TLS certificate has expired")
        elif left_s < EXPIRY_WARNING_S:
            found.append(f"the TLS certificate expires in {_span(left_s)}")
    return found


def public_among(addresses: Iterable[object]) -> str | None:
    """The first address that other machines may reach; a Unix socket is not one."""
    for address in addresses:
        if isinstance(address, tuple) and not is_this_machine(str(address[0])):
            host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
            return f"{host}:{address[1]}"
    return None


def _span(left_s: float) -> str:
    if left_s >= 2 * 86_400:
        return f"{int(left_s // 86_400)} days"
    if left_s >= 2 * 3600:
        return f"{int(left_s // 3600)} hours"
    return "an hour" if left_s >= 3600 else "less than an hour"
