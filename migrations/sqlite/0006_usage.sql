-- What a metered call used, beside its charge. NULL for every other entry.
--
-- Micro-credits that the hold had at its end. Where the charge is above them, it was an overrun.
ALTER TABLE entries ADD COLUMN held INTEGER CHECK (held >= 0);
-- The model as the request spelled it.
ALTER TABLE entries ADD COLUMN model TEXT;
-- How much of each kind, as JSON: {"input":600,"output":300}.
ALTER TABLE entries ADD COLUMN usage TEXT;
-- The version of the price table that priced the call.
ALTER TABLE entries ADD COLUMN prices TEXT;

-- A call's hold that was extended is listed again, whole, by the commit that extended it: the newest
-- commit that lists a hold counts. (Beside max(), SQLite takes the other columns from the row that has
-- the maximum.)
DROP VIEW holds;
CREATE VIEW holds (id, account, amount, route, origin, expires_at, written_by) AS
    SELECT id, account, amount, route, 'api', expires_at, 0 FROM api_holds
    UNION ALL
    SELECT h.value->>0, h.value->>1, h.value->>2, h.value->>3, 'call', h.value->>4, max(c.written_by)
    FROM call_holds c, json_each(c.holds) h
    WHERE NOT EXISTS (SELECT 1 FROM entries WHERE operation = 'capture:' || (h.value->>0))
    AND NOT EXISTS (SELECT 1 FROM folded_operations WHERE operation = 'capture:' || (h.value->>0))
    AND NOT EXISTS (SELECT 1 FROM ended_holds WHERE id = h.value->>0)
    GROUP BY h.value->>0;
