-- The commands that decide nothing: they load accounts into Redis and remove them, apply grants of
-- Postgres, and list holds that are due.
--
-- Interface. This file follows layout.lua, which describes its argument, the table `ledger`.
-- In: ARGV[1] is the name of a command below, and the words behind it are its arguments. The last argument may be
-- a list; the comment names it with an ellipsis. Out: what the comment says.
--
-- Cache misses. Postgres is read while Redis goes on deciding, so the rows may be out of date when they
-- arrive. Therefore a gateway first stores a nonce under the name of the thing that it is going to read
-- ("a:" and an account, "i:" and a hold id). The rows are accepted only if the nonce is still there.
-- Several gateways may have a nonce under one name: each would load the same rows, and only the first
-- is accepted.
local ledger = ...
local call, match, sub, format = redis.call, string.match, string.sub, string.format
local meta, now, NUMBER, STORED = ledger.meta, ledger.now, ledger.NUMBER, ledger.STORED
local META, OUT, LIVE, ALIVE = ledger.META, ledger.OUT, ledger.LIVE, ledger.ALIVE
local NEWER, OLDER = ledger.NEWER, ledger.OLDER
local ACCOUNT, NONCE, LET_GO = ledger.ACCOUNT, ledger.NONCE, ledger.LET_GO
local CLAIM, LEFT = ledger.CLAIM, ledger.LEFT

-- Places of the values of STORED.
local BALANCE, HELD, GRANTS, SEQ, OLD, BORDER, NEW, EXISTS, FROZEN, TOUCHED, DIGEST = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
local function put_account(key, a)
    call('SET', key, struct.pack(STORED, a[BALANCE], a[HELD], a[GRANTS], a[SEQ], a[OLD], a[BORDER], a[NEW],
        a[EXISTS], a[FROZEN], a[TOUCHED], a[DIGEST]))
end

-- The commands by their names, and for each command with a list, the place in ARGV where the list
-- begins. A list is read from ARGV itself: Lua passes no more than some 8,000 values to a function.
local commands, list_from = {}, {}

-- The most values that are passed to one call of Redis.
local AT_ONCE = 1000

-- nonce, name…: stores a nonce under each name, for 10 s. Returns 0 where Postgres must first have
-- everything that is decided so far, since an account that a repair dropped (`drop`) is among the
-- names; otherwise 1.
list_from.announce_read = 3
function commands.announce_read(nonce)
    local durable, is_readable = tonumber(meta[4]), 1
    for i = list_from.announce_read, #ARGV do
        local name = ARGV[i]
        if tonumber(call('GET', LET_GO .. name) or 0) > durable then
            is_readable = 0
        else
            local nonces = NONCE .. name
            -- This many nonces can only be left over from attempts that were given up.
            if call('HLEN', nonces) >= 100 then call('DEL', nonces) end
            call('HSET', nonces, nonce, '')
            call('PEXPIRE', nonces, '10000')
        end
    end
    return is_readable
end

-- nonce, account, exists, balance, grants, frozen, digest, (hold id, ms to live, rest of its record, claim or '')…:
-- stores an account as Postgres has it, with its live holds and their claims ("id ms value"). Returns 0 where the
-- account changed after the nonce was stored, otherwise 1.
list_from.warm_account = 9
function commands.warm_account(nonce, account, exists, balance, grants, frozen, digest)
    if call('HEXISTS', NONCE .. 'a:' .. account, nonce) == 0 then return 0 end
    if call('EXISTS', ACCOUNT .. account) == 1 then return 0 end
    local held, some, n = 0, {}, 0
    for i = list_from.warm_account, #ARGV, 4 do
        held = held + tonumber(sub(ARGV[i + 2], 1, 16))
        some[n + 1], some[n + 2] = ARGV[i], format('%d', now + tonumber(ARGV[i + 1])) .. ' ' .. ARGV[i + 2]
        n = n + 2
        if ARGV[i + 3] ~= '' then
            local claim, ms, value = match(ARGV[i + 3], '^(%x+) (%d+) (.*)$')
            call('SET', CLAIM .. claim, value, 'PX', ms)
        end
        if n >= AT_ONCE or i + 4 > #ARGV then
            call('HSET', LIVE, unpack(some, 1, n))
            n = 0
        end
    end
    put_account(ACCOUNT .. account, {
        [BALANCE] = tonumber(balance), [HELD] = held, [GRANTS] = tonumber(grants), [SEQ] = 0,
        [OLD] = 0, [BORDER] = 0, [NEW] = 0,
        [EXISTS] = tonumber(exists), [FROZEN] = tonumber(frozen), [TOUCHED] = now, [DIGEST] = digest,
    })
    call('DEL', NONCE .. 'a:' .. account, LET_GO .. 'a:' .. account)
    return 1
end

-- nonce, hold id, record: stores the record of a hold that has ended, or of an id that Postgres does
-- not know. Returns 0 where the hold changed after the nonce was stored, otherwise 1.
function commands.warm_ended(nonce, id, record)
    if call('HEXISTS', NONCE .. 'i:' .. id, nonce) == 0 then return 0 end
    for _, key in ipairs({ LIVE, NEWER, OLDER }) do
        if call('HEXISTS', key, id) == 1 then return 0 end
    end
    return call('HSET', NEWER, id, record)
end

-- (claim, ms, value)…: stores claims as Postgres has them, each for so many ms, where Redis knows nothing of it. No
-- nonce is needed: a charged claim stays as it is until its time is up, and other changes are made here.
list_from.warm_claims = 2
function commands.warm_claims()
    for i = list_from.warm_claims, #ARGV, 3 do
        call('SET', CLAIM .. ARGV[i], ARGV[i + 2], 'PX', ARGV[i + 1], 'NX')
    end
    return 1
end

-- (id, ms, value)…: the same for the calls that were left with an id.
list_from.warm_left = 2
function commands.warm_left()
    for i = list_from.warm_left, #ARGV, 3 do
        call('SET', LEFT .. ARGV[i], ARGV[i + 2], 'PX', ARGV[i + 1], 'NX')
    end
    return 1
end

-- Returns 1 while Postgres may have claims that Redis does not know, otherwise 0.
function commands.are_claims_cold()
    return now < tonumber(call('HGET', META, 'claims') or 0) and 1 or 0
end

-- Notes that Redis has every claim that Postgres had when the epoch began.
function commands.claims_are_warm()
    return call('HSET', META, 'claims', '0')
end

-- The sum of a balance and an amount, which comes as text. Two changes at once may come to more than a number of Lua's
-- holds exactly, so the text is added in two parts, whose sums never leave the range between the two balances.
local function plus(balance, amount)
    local sign, high, low = match(amount, '^(%-?)(%d-)(%d%d?%d?%d?%d?%d?%d?%d?)$')
    return balance + tonumber(sign .. high .. '00000000') + tonumber(sign .. low)
end

-- account, number, amount, frozen, before, digest: applies what Postgres decided about an account (a grant, a
-- refund, a freeze), in the order of its numbers. The digests are of all decisions up to the one before this one,
-- and up to this one; both are empty where an earlier version made the decision. Returns 1 where the decision is
-- applied now, was applied before, or will come with the account when it is loaded from Postgres; 0 where an earlier
-- number is missing; 2 where another decision was applied under this number, or under one before; 3 where later
-- numbers were applied, so that Postgres may have lost some.
function commands.deliver(account, number, amount, frozen, before, digest)
    local value = call('GET', ACCOUNT .. account)
    if not value then
        -- A gateway that is loading the account may have read Postgres before this decision.
        call('DEL', NONCE .. 'a:' .. account)
        return 1
    end
    local a = { struct.unpack(STORED, value) }
    number = tonumber(number)
    if number < a[GRANTS] then return 3 end
    if number == a[GRANTS] then return (digest == '' or digest == a[DIGEST]) and 1 or 2 end
    if number > a[GRANTS] + 1 then return 0 end
    if before ~= '' and before ~= a[DIGEST] then return 2 end
    if digest ~= '' then a[DIGEST] = digest end
    a[BALANCE], a[GRANTS] = plus(a[BALANCE], amount), number
    a[EXISTS], a[FROZEN] = 1, tonumber(frozen)
    put_account(ACCOUNT .. account, a)
    return 1
end

-- owner, grace, limit, cursor: scans a twentieth of the live holds, from a cursor on, for those whose time is up.
-- Returns the next cursor, then id and record of each; at most `limit` of them. A call's hold is listed for its
-- own gateway alone, which renews it while the call runs, until it is overdue by `grace` ms.
function commands.due(owner, grace, limit, cursor)
    local some = math.max(2000, math.ceil(call('HLEN', LIVE) / 20))
    local scanned = call('HSCAN', LIVE, cursor, 'COUNT', format('%d', some))
    local due, fields = { scanned[1] }, scanned[2]
    for i = 1, #fields, 2 do
        local id, record = fields[i], fields[i + 1]
        local expires = tonumber(sub(record, 1, 13))
        if expires and expires <= now then
            local amount, origin, owned_by = match(record, '^%d+ (%S+) (%a) %S+ ?(%d*)')
            if amount == 'T' then
                call('HDEL', LIVE, id)
            elseif origin ~= 'c' or owned_by == owner or now - expires > tonumber(grace) then
                if #due > 2 * tonumber(limit) then
                    -- The next call scans this part again, once these holds have ended.
                    due[1] = cursor
                    break
                end
                due[#due + 1], due[#due + 2] = id, record
            end
        end
    end
    return due
end

-- idle, key…: removes accounts that have been idle for so many ms, with nothing held and everything durable.
-- Returns how many it removed.
list_from.retire = 3
function commands.retire(idle)
    local durable, removed = tonumber(meta[4]), 0
    for i = list_from.retire, #ARGV do
        local key = ARGV[i]
        local value = call('GET', key)
        -- A value of another size was damaged; a repair will see to it.
        if value and #value == struct.size(STORED) then
            local a = { struct.unpack(STORED, value) }
            if a[HELD] == 0 and a[SEQ] <= durable and now - a[TOUCHED] >= tonumber(idle) then
                removed = removed + call('DEL', key)
                -- A gateway that is loading the account has read Postgres while the account was still
                -- here.
                call('DEL', NONCE .. 'a:' .. sub(key, #ACCOUNT + 1))
            end
        end
    end
    return removed
end

-- owner: returns how long ago, in ms, Redis last heard from a gateway; -1 where it never did.
function commands.silence(owner)
    local heard = call('HGET', ALIVE, owner)
    return heard and now - tonumber(heard) or -1
end

-- seq, owner: notes that Postgres has the batches up to seq, and that this gateway lives. Returns the newest batch
-- and the newest durable one.
function commands.durable(seq, owner)
    call('HSET', ALIVE, owner, format('%d', now))
    local newest, durable = tonumber(meta[3]), tonumber(meta[4])
    if tonumber(seq) > durable then
        durable = tonumber(seq)
        call('HSET', META, 'durable', seq)
    end
    return { newest, durable }
end

-- cursor: returns the next cursor, then id and record of some of the live holds.
function commands.live(cursor)
    local page = call('HSCAN', LIVE, cursor, 'COUNT', '500')
    local found = page[2]
    table.insert(found, 1, page[1])
    return found
end

-- from, n, account… (n of them), hold id…: reads Redis at one moment, for the comparison with Postgres.
-- Returns the newest batch; number and text of the batches after `from`; the values of the accounts;
-- the records of the holds. Where there are more than 1000 such batches, only the number: calls wait for this command.
list_from.snapshot = 4
function commands.snapshot(from, n)
    if meta[3] - from > 1000 then return { meta[3], {}, {}, {} } end
    local first_hold = list_from.snapshot + tonumber(n)
    local batches, accounts, holds = {}, {}, {}
    for _, entry in ipairs(call('XRANGE', OUT, '(' .. NUMBER .. '-' .. from, '+', 'COUNT', '1000')) do
        batches[#batches + 1], batches[#batches + 2] = match(entry[1], '%-(%d+)$'), entry[2][2]
    end
    for i = list_from.snapshot, first_hold - 1 do
        accounts[#accounts + 1] = call('GET', ACCOUNT .. ARGV[i])
    end
    for i = first_hold, #ARGV do
        holds[#holds + 1] = call('HGET', LIVE, ARGV[i]) or ''
    end
    return { meta[3], batches, accounts, holds }
end

-- Removes an account, and those live holds whose ids are in ARGV from this place on. The records of ended holds stay.
local function remove(account, from)
    for i = from, #ARGV do
        call('HDEL', LIVE, ARGV[i])
        call('DEL', NONCE .. 'i:' .. ARGV[i])
    end
    call('DEL', ACCOUNT .. account, NONCE .. 'a:' .. account)
end

-- account, hold id…: removes an account that differs from Postgres, and these of its live holds. A
-- gateway loads the account again once Postgres has everything that is decided so far (see
-- `announce_read`).
list_from.drop = 3
function commands.drop(account)
    remove(account, list_from.drop)
    call('SET', LET_GO .. 'a:' .. account, meta[3])
    return 1
end

-- account, value, hold id…: removes an account of which Postgres has everything that was decided as long as it has
-- had this value, and these of its live holds. So a gateway may load it at once. Returns 0, and removes nothing, where
-- the account has another value by now, and 1 otherwise. Each change of a balance or of what is held writes another
-- value.
list_from.drop_folded = 4
function commands.drop_folded(account, value)
    if call('GET', ACCOUNT .. account) ~= value then return 0 end
    remove(account, list_from.drop_folded)
    return 1
end

local last = (list_from[ARGV[1]] or #ARGV + 1) - 1
return commands[ARGV[1]](unpack(ARGV, 2, math.min(#ARGV, last)))
