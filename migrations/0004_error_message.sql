-- 0004_error_message.sql: why a request failed, in words; error_code says of which kind it was.
ALTER TABLE requests ADD COLUMN error_message TEXT;
