-- How many batches the embedded ledger had committed when it was moved here: what tells a repeated
-- `farebox import` from one of a ledger that went on afterwards. NULL where nothing was moved.
ALTER TABLE ledger ADD COLUMN imported_commits BIGINT;
