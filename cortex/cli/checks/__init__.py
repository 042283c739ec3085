"""What `cortex doctor` looks at: each check gives findings; only `machine` and `service` look themselves."""
