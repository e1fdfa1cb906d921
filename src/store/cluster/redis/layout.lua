-- The beginning of both scripts: the fence of the epoch, and the layout of the data.
--
-- Interface. script.rs (Scripts::new) joins this file and then decide.lua or maintain.lua to the body of one
-- function. Its argument, the table `ledger`, has from script.rs:
--   EPOCH                   the epoch's name, "number.nonce"; NUMBER is the number alone
--   META, OUT, LIVE, ALIVE  keys: the state of the ledger, the stream, live holds, and when each gateway was
--                           last heard from
--   NEWER, OLDER            keys: the two hashes of ended holds, "…ended:0" and "…ended:1"
--   ACCOUNT, NONCE, LET_GO  prefixes of keys: accounts, marks of cache misses, accounts that a repair dropped
--   CLAIM, LEFT             prefixes of keys: claims, and calls that their clients left
-- This file adds:
--   meta                    values of META, in this order: epoch, reign, seq, durable, ended, since
--   info                    the text of INFO replication
--   now                     the time by Redis's clock, in milliseconds since 1970
--   STORED                  how an account is packed
-- and exchanges NEWER and OLDER where META says that "…ended:1" is the newer one.
-- Where Redis does not have the data of the epoch, the script ends here with the error EPOCH.
--
-- The layout. If it or the text of a script changes, a test in script.rs wants the new digests, and LAYOUT there is
-- raised if a version with the old text was released.
--   LIVE, a hash by hold id: "deadline amount origin account owner route", with a deadline of 13 digits and an
--     amount of 16. A release that came before its hold leaves a tombstone, so that the hold is refused:
--     "deadline T origin account". Where the call has a claim, the owner is followed by "/" and the claim's id.
--   NEWER, OLDER, hashes by hold id, for holds that ended since NEWER was begun, and before. Captured:
--     "amount origin account …"; released and expired: "R origin amount account", "E origin amount account";
--     "N": Postgres was asked, and no such hold exists.
--   ACCOUNT .. id, packed as STORED: balance; held; number of the newest grant applied; number of its newest
--     batch; credits held and not durable yet, the older part; the batch that separates the two parts; the
--     newer part; 1 if it exists; 1 if it is frozen; time of the last change; digest of the grants applied, 8 bytes.
--   CLAIM .. id of a claim: "state time hold mark", with the state R while the call runs, C once it is charged, and N
--     where Postgres was asked and has no such claim; the time until which a charged claim lasts; and "-" for a mark
--     that is not known. A claim that was released has no key, and Redis removes a charged one when its time is up.
--   LEFT .. id that a retry has: "hold time used" for each call that was left, oldest first: the time until which a
--     retry hears of it, and 1 once one has. LEFT .. "/" .. hold: this call is in such a list.
--   META has two more fields, which only claims.lua reads: `claims` and `left`, the times until which Postgres may have
--     a claim, or a call that was left, that Redis does not have.
local ledger = ...

local meta = redis.call('HMGET', ledger.META, 'epoch', 'reign', 'seq', 'durable', 'ended', 'since')
-- A master that was a replica for a while still has the scripts, but not all of the data. Its replication id
-- has changed, though (the field's name, reign, is part of the layout).
local info = redis.call('INFO', 'replication')
if meta[1] ~= ledger.EPOCH or not string.find(info, 'master_replid:' .. (meta[2] or '-'), 1, true) then
    return redis.error_reply('EPOCH ' .. tostring(meta[1]))
end
local time = redis.call('TIME')

ledger.meta, ledger.info = meta, info
ledger.now = time[1] * 1000 + math.floor(time[2] / 1000)
ledger.STORED = '<i8i8i8i8i8i8i8BBi8c8'
if meta[5] == '1' then
    ledger.NEWER, ledger.OLDER = ledger.OLDER, ledger.NEWER
end
