-- For the operator's page: what happened lately, of all accounts. Entries are written in the order of
-- their time, so a summary a range of pages finds them; it costs next to nothing to keep.
CREATE INDEX entries_by_age ON entries USING brin (created_at) WITH (pages_per_range = 16, autosummarize = on);
