"""Addresses that cannot be had."""

import resource

import pytest
from aiohttp import web

from cortex.gateway.listen import ListenError, listen


async def test_an_address_whose_socket_cannot_be_made_says_why() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(ListenError, match=r"127\.0\.0\.1:0: Too many open files"):
            await listen(web.Application(), "127.0.0.1:0", None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
