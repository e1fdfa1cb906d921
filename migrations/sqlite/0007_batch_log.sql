-- The log of batches in `strict`. A batch of calls is on disk once its row is here; the rows of the other
-- tables are written a little later, many batches at once, and that commit empties the log. A start writes
-- the rows of the batches that a crash left here.

CREATE TABLE batch_log (
    -- Counts up from 1 at each start.
    number INTEGER PRIMARY KEY,
    -- The batch's rows, as JSON: [holds of calls, entries, balances, ended holds].
    batch  TEXT NOT NULL
) STRICT;
