"""The schema, one numbered file a change; see `cortex.store.migrate`."""
