-- How often the kept answers of calls were sent again. Gateways add to a row after the replay; entries never change.
CREATE TABLE replays (
    -- The hold of the call, as in `answers`.
    call  TEXT COLLATE "C" PRIMARY KEY,
    times BIGINT NOT NULL,
    -- The time of the last one, in milliseconds since 1970.
    last  BIGINT NOT NULL
);
CREATE INDEX replays_by_age ON replays (last);
