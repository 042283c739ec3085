-- 0002_log.sql: one row per finished request, one per event; the source of history and events.
-- Append-only: rows are never updated, and are deleted only by retention, oldest first.
CREATE TABLE requests (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,  -- ids grow for ever: `--follow` counts on it
    request_id        TEXT    NOT NULL,
    started_at_ms     INTEGER NOT NULL,
    route             TEXT    NOT NULL,
    dialect           TEXT    NOT NULL,
    model             TEXT,                               -- NULL: not known when it failed
    node              TEXT,                               -- NULL: rejected before routing
    client            TEXT,
    stream            INTEGER NOT NULL,
    status            INTEGER NOT NULL,
    outcome           TEXT    NOT NULL,
    error_code        TEXT,
    prompt_tokens     INTEGER,                            -- NULL: the node did not report it
    cached_tokens     INTEGER,
    completion_tokens INTEGER,
    ttft_ms           REAL,
    duration_ms       REAL    NOT NULL,
    tokens_per_s      REAL,
    queue_ms          REAL    NOT NULL,
    load_wait_ms      REAL    NOT NULL,
    cold_start        INTEGER NOT NULL,
    attempts          INTEGER NOT NULL,
    response_id       TEXT                                -- resp_…: which node holds that state
);
CREATE INDEX requests_started_at ON requests (started_at_ms);
-- Every filter of `history` finds its newest rows without sorting: each index ends in the start time.
CREATE INDEX requests_model ON requests (model, started_at_ms);
CREATE INDEX requests_node ON requests (node, started_at_ms);
CREATE INDEX requests_client ON requests (client, started_at_ms);
CREATE INDEX requests_response ON requests (response_id) WHERE response_id IS NOT NULL;
CREATE TABLE events (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms  INTEGER NOT NULL,
    kind   TEXT    NOT NULL,
    reason TEXT    NOT NULL,
    node   TEXT,
    model  TEXT,
    detail TEXT    NOT NULL                               -- JSON
);
CREATE INDEX events_at ON events (at_ms);
