"""Names for the things that are identified by a string, so that none is passed for another."""

from typing import NewType

NodeName = NewType("NodeName", str)
"""A node's name from the configuration; bounded, safe as a metric label."""

ModelId = NewType("ModelId", str)
"""A model's id as its node lists it, never an alias."""

RequestId = NewType("RequestId", str)
"""What `x-request-id` carries; the caller's own where it sent one."""
