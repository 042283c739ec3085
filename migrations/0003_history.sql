-- 0003_history.sql: what is rare in a long log is found without reading the rest of it.
-- Each row in here costs a write, so only the rare rows are: a request that went well pays for none.
-- All that history filters by is in the first, so that a failure of one model, node or client is told
-- from the others' without looking at the table.
CREATE INDEX requests_failed ON requests
    (started_at_ms, outcome, error_code, model, node, client, duration_ms) WHERE outcome <> 'ok';
CREATE INDEX requests_slow ON requests (started_at_ms) WHERE duration_ms >= 60000;
-- Events are few. Their ids, which they are shown by, end every index of SQLite's.
CREATE INDEX events_kind ON events (kind);
CREATE INDEX events_node ON events (node);
CREATE INDEX events_model ON events (model);
