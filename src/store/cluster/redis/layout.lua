-- What both scripts share: the fence, and how things stand in the keys. In front of this text stand
-- EPOCH (number and nonce), NUMBER (the number alone), META, OUT, LIVE, ENDED_0, ENDED_1 (keys), and
-- ACCOUNT, NONCE, LET_GO (what keys begin with), ALIVE (a key).
local call, match, sub, find, format = redis.call, string.match, string.sub, string.find, string.format

local meta = call('HMGET', META, 'epoch', 'reign', 'seq', 'durable', 'ended', 'since')
-- A master that was a replica for a while keeps its scripts, and not its data: its replication id tells.
local info = call('INFO', 'replication')
if meta[1] ~= EPOCH or not find(info, 'master_replid:' .. (meta[2] or '-'), 1, true) then
    return redis.error_reply('EPOCH ' .. tostring(meta[1]))
end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Live holds, a hash by id: "deadline amount origin account owner route", the deadline of 13 digits, the
-- amount of 16. A release that overtook its hold stands here too, for that to be refused: "deadline T
-- origin account".
--
-- Ended holds, two hashes by id: what ended since the newer one was begun, and what ended before. Captured:
-- "amount origin account …"; released or expired: "R origin amount account", "E origin amount account";
-- "N": looked up, and nobody knows it.
local NEWER, OLDER = ENDED_0, ENDED_1
if meta[5] == '1' then NEWER, OLDER = ENDED_1, ENDED_0 end

-- An account: whether this call has changed it, its key, its place among those that a batch names; then
-- what is stored, all of it numbers: balance, held, the newest grant it has heard of, its newest batch;
-- what holds took that is not durable yet, in an older and a newer part, and the batch between them;
-- 1 where it exists, 1 where it is frozen, when it was touched last.
local CHANGED, KEY, PLACE, B, H, G, S, OLD, UPTO, NEW, X, F, T = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
local STORED = '<i8i8i8i8i8i8i8BBi8'
