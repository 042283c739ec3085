-- 0008_warm_loads.sql: a load from the machine's memory is shorter than one from its disk; each is learned.
ALTER TABLE residency ADD COLUMN cold_load_s REAL;      -- moving average; NULL: none of the kind was seen
ALTER TABLE residency ADD COLUMN warm_load_s REAL;
