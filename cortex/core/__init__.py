"""Pure decisions and values: no I/O, no clock, no logging. Everything else depends on it."""
