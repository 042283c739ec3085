"""Measures the gateway beside other gateways, in one interleaved run: `make bench`."""
