-- For the operator's page: what happened lately, of all accounts. New entries go to the end of it, so
-- a commit writes one page more.
CREATE INDEX entries_by_age ON entries (created_at);
