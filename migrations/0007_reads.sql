-- 0007_reads.sql: what the loads of a fleet cost, told later: how large its nodes are, and how much a node
-- has read since it read a model last, for so much of its memory now holds other files.
ALTER TABLE nodes ADD COLUMN vram_total_mib INTEGER;            -- NULL: the node never said
ALTER TABLE nodes ADD COLUMN ram_total_mib INTEGER;             -- NULL: likewise
ALTER TABLE nodes ADD COLUMN read_mib INTEGER NOT NULL DEFAULT 0;   -- by its loads, all together
ALTER TABLE residency ADD COLUMN read_at_mib INTEGER;           -- that figure after its last load; NULL: none was counted
