"""All SQL: migrations, the batched writer, and the queries behind history and events."""
