-- What keeps Redis's picture of the ledger right, beside the batches: accounts come and go, and what
-- Postgres decided is heard. In front of this text stand EPOCH and P, as for the batches.
local call, match, format = redis.call, string.match, string.format
local meta = call('HMGET', KEYS[1], 'epoch', 'reign')
if meta[1] ~= EPOCH or meta[2] ~= match(call('INFO', 'replication'), 'master_replid:(%x+)') then
    return redis.error_reply('EPOCH ' .. tostring(meta[1]))
end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local keep = {}

-- Postgres is about to be asked for these. What is found counts only if the nonce still stands then.
-- 0 where one of them was forgotten (keep.forget) with what Postgres does not have yet: that comes first.
function keep.doubt(nonce, ...)
    local durable, known = tonumber(call('HGET', KEYS[1], 'durable')), 1
    for _, name in ipairs({ ... }) do
        if tonumber(call('GET', P .. 'w:' .. name) or 0) > durable then
            known = 0
        else
            call('SET', P .. 'n:' .. name, nonce, 'PX', '10000')
        end
    end
    return known
end

-- An account as Postgres has it, with its live holds. 0 where something came in between.
function keep.account(nonce, account, exists, balance, grants, frozen, ...)
    if call('GET', P .. 'n:a:' .. account) ~= nonce then return 0 end
    if call('EXISTS', P .. 'a:' .. account) == 1 then return 0 end
    local holds, held = { ... }, 0
    for i = 1, #holds, 6 do
        local id, amount, origin, owner, ttl, route = unpack(holds, i, i + 5)
        held = held + tonumber(amount)
        call('SET', P .. 'o:' .. id, table.concat({ 'L', origin, amount, account, owner, route }, ' '))
        call('ZADD', KEYS[3], format('%.0f', now + tonumber(ttl)), id)
    end
    local value = format('%s %.0f %s 0 %s %s 0 0 0 %.0f', balance, held, grants, exists, frozen, now)
    call('SET', P .. 'a:' .. account, value)
    call('DEL', P .. 'n:a:' .. account, P .. 'w:a:' .. account)
    return 1
end

-- What Postgres knows of a hold's id that is not here. 0 where something came in between.
function keep.fate(nonce, id, record, kept)
    if call('GET', P .. 'n:i:' .. id) ~= nonce then return 0 end
    return call('SET', P .. 'o:' .. id, record, 'NX', 'PX', kept) and 1 or 0
end

-- What Postgres decided about an account, in the order of its numbers. 1 where it is heard (now,
-- before, or with the account when that is brought here), 0 where an earlier one is missing.
function keep.deliver(account, number, amount, frozen)
    local value = call('GET', P .. 'a:' .. account)
    if not value then
        -- Whoever is bringing it has read Postgres too early, perhaps.
        call('DEL', P .. 'n:a:' .. account)
        return 1
    end
    local b, h, g, s, rest = match(value, '^(%S+) (%S+) (%S+) (%S+) %S+ %S+ (.*)$')
    if tonumber(number) <= tonumber(g) then return 1 end
    if tonumber(number) > tonumber(g) + 1 then return 0 end
    value = format('%.0f %s %s %s 1 %s %s', tonumber(b) + tonumber(amount), h, number, s, frozen, rest)
    call('SET', P .. 'a:' .. account, value)
    return 1
end

-- Holds whose time has run out, at most `limit`: id, record, … Those of calls are their own gateway's
-- business (it renews what runs) until they are overdue by `grace` ms.
function keep.due(owner, grace, limit)
    local ids = call('ZRANGEBYSCORE', KEYS[3], '-inf', format('%.0f', now), 'WITHSCORES', 'LIMIT', '0', '10000')
    local found = {}
    for i = 1, #ids, 2 do
        local record = call('GET', P .. 'o:' .. ids[i]) or ''
        local origin, whose = match(record, '^L (%a) %d+ %S+ (%S+)')
        if origin ~= 'c' or whose == owner or now - tonumber(ids[i + 1]) > tonumber(grace) then
            found[#found + 1], found[#found + 2] = ids[i], record
            if #found >= 2 * tonumber(limit) then break end
        end
    end
    return found
end

-- Lets go of accounts that nothing has touched for `idle` ms: all of them durable, nothing held.
-- How many went.
function keep.retire(idle, ...)
    local durable, went = tonumber(call('HGET', KEYS[1], 'durable')), 0
    for _, key in ipairs({ ... }) do
        local value = call('GET', key)
        if value then
            local h, s, t = match(value, '^%S+ (%S+) %S+ (%S+) .* (%S+)$')
            if h == '0' and tonumber(s) <= durable and now - tonumber(t) >= tonumber(idle) then
                went = went + call('DEL', key)
            end
        end
    end
    return went
end

-- For how long (ms) a gateway has not been heard of here; -1 where it never was.
function keep.silence(owner)
    local heard = call('HGET', P .. 'alive', owner)
    return heard and now - tonumber(heard) or -1
end

-- Batches up to this one are in Postgres; a gateway says so, which therefore lives. The newest batch,
-- and up to which they are.
function keep.durable(seq, owner)
    -- First what frees memory: without any, nothing else can be written.
    call('XTRIM', KEYS[2], 'MINID', match(EPOCH, '^%d+') .. '-' .. seq)
    call('HSET', P .. 'alive', owner, format('%.0f', now))
    local meta = call('HMGET', KEYS[1], 'seq', 'durable')
    local newest, durable = tonumber(meta[1]), tonumber(meta[2])
    if tonumber(seq) > durable then
        durable = tonumber(seq)
        call('HSET', KEYS[1], 'durable', seq)
    end
    return { newest, durable }
end

-- For the comparison with Postgres: the holds whose deadlines are watched, some at a time. The next
-- cursor, then id, record, …
function keep.live(cursor)
    local page = call('ZSCAN', KEYS[3], cursor, 'COUNT', '500')
    local found = { page[1] }
    for i = 1, #page[2], 2 do
        found[#found + 1] = page[2][i]
        found[#found + 1] = call('GET', P .. 'o:' .. page[2][i]) or ''
    end
    return found
end

-- One moment: the newest batch; those after number `from`: number, text, …; the values of `n` accounts; of
-- the holds that follow: record, whether the deadline is watched, …
function keep.picture(from, n, ...)
    local names, batches, accounts, holds = { ... }, {}, {}, {}
    local after = '(' .. match(EPOCH, '^%d+') .. '-' .. from
    for _, entry in ipairs(call('XRANGE', KEYS[2], after, '+', 'COUNT', '5000')) do
        batches[#batches + 1], batches[#batches + 2] = match(entry[1], '%-(%d+)$'), entry[2][2]
    end
    for i = 1, tonumber(n) do
        accounts[i] = call('GET', P .. 'a:' .. names[i])
    end
    for i = tonumber(n) + 1, #names do
        holds[#holds + 1] = call('GET', P .. 'o:' .. names[i]) or ''
        holds[#holds + 1] = call('ZSCORE', KEYS[3], names[i]) and '1' or '0'
    end
    return { call('HGET', KEYS[1], 'seq'), batches, accounts, holds }
end

-- Lets go of an account that is not as Postgres has it, and of these of its holds. It comes back as
-- Postgres has it, once that has all that was decided here until now: nobody brings it before. How a hold
-- ended stays known.
function keep.forget(account, ...)
    for _, id in ipairs({ ... }) do
        local state = match(call('GET', P .. 'o:' .. id) or '', '^[CREN]')
        if not state then call('DEL', P .. 'o:' .. id, P .. 'n:i:' .. id) end
        call('ZREM', KEYS[3], id)
    end
    call('DEL', P .. 'a:' .. account, P .. 'n:a:' .. account)
    call('SET', P .. 'w:a:' .. account, call('HGET', KEYS[1], 'seq'))
    return 1
end

return keep[ARGV[1]](unpack(ARGV, 2))
