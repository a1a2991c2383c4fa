"""Names and addresses as they stand in Host headers, in origins and after --host."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?")
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")


def host_name(header: str) -> str | None:
    """Read a Host header's name or address: lower case, without port, brackets and final dot; None if it is none."""
    found = _HOST.fullmatch(header.lower())
    if found is None:
        return None
    if found[1]:
        return found[1] if address_of(found[1]) else None
    name = found[2].removesuffix(".")
    return name if _NAME.fullmatch(name) else None


@lru_cache(maxsize=16)  # nearly every request comes to the same address
def address_of(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an IP address; an IPv4 address written as IPv6 (``::ffff:127.0.0.1``) is the IPv4 one. None for a name."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host: ``localhost``, or an address of the loopback interface."""
    address = address_of(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def is_host_name(text: str) -> bool:
    """Tell whether this is a name or an address, without scheme, port, path or wildcard."""
    return address_of(text) is not None or _NAME.fullmatch(text.lower()) is not None


def is_origin(text: str) -> bool:
    """Tell whether this is an origin as browsers write it: scheme, host and perhaps port, in lower case, no path."""
    return _ORIGIN.fullmatch(text) is not None
