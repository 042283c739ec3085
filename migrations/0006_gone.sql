-- 0006_gone.sql: since when a node lists a model no more. What was learned of it is kept for a while,
-- for models come back; a node that lists other names all the time must not make the file grow.
ALTER TABLE residency ADD COLUMN gone_at_ms INTEGER;    -- NULL: listed when its node was last heard
