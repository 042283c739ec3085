-- 0005_endpoint.sql: where each node was reached. A node is the process there, whatever it is called:
-- renamed in the configuration, it keeps all that is remembered of it.
ALTER TABLE nodes ADD COLUMN endpoint TEXT;         -- NULL: not saved since the column is there
