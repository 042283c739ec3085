-- 0001_fleet.sql: what the fleet must not forget over a restart.
-- Written when it changes, committed before the change counts as done.
CREATE TABLE nodes (
    name               TEXT    PRIMARY KEY,
    cycles             INTEGER NOT NULL DEFAULT 0 CHECK (cycles >= 0),
    boot_at_s          INTEGER,                     -- process start the node reported; NULL: never seen
    last_restart_at_ms INTEGER,
    health             TEXT    NOT NULL,
    version            TEXT,
    drained            INTEGER NOT NULL DEFAULT 0,  -- taken out of service by an operator
    residue_mib        INTEGER NOT NULL DEFAULT 0   -- what unloads since the restart did not give back
);
CREATE TABLE residency (
    node            TEXT    NOT NULL,
    model           TEXT    NOT NULL,
    status          TEXT    NOT NULL,               -- as last seen; the nodes' own word wins at start
    last_used_at_ms INTEGER NOT NULL DEFAULT 0,     -- wall clock: the LRU order over restarts
    loads           INTEGER NOT NULL DEFAULT 0,
    load_s          REAL,                           -- moving average; NULL: never loaded by us
    size_mib        INTEGER,                        -- learned; NULL: unknown
    PRIMARY KEY (node, model)
);
-- Pins set at run time; those of the configuration are not stored. node '' = wherever the model is.
CREATE TABLE pins (
    node  TEXT NOT NULL,
    model TEXT NOT NULL,
    PRIMARY KEY (node, model)
);
