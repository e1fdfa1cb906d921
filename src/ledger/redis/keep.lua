-- What keeps Redis's picture of the ledger right, beside the batches: accounts come and go, and what
-- Postgres decided is heard. In front of this text stands layout.lua.
local function account_in(value) return { false, '', 0, struct.unpack(STORED, value) } end
local function put_account(key, a)
    call('SET', key, struct.pack(STORED, a[B], a[H], a[G], a[S], a[OLD], a[UPTO], a[NEW], a[X], a[F], a[T]))
end

local keep = {}

-- Postgres is about to be asked for these. What is found counts only if the nonce still stands then.
-- 0 where one of them was forgotten (keep.forget) with what Postgres does not have yet: that comes first.
function keep.doubt(nonce, ...)
    local durable, known = tonumber(meta[4]), 1
    for _, name in ipairs({ ... }) do
        if tonumber(call('GET', LET_GO .. name) or 0) > durable then
            known = 0
        else
            call('SET', NONCE .. name, nonce, 'PX', '10000')
        end
    end
    return known
end

-- An account as Postgres has it, with its live holds. 0 where something came in between.
function keep.account(nonce, account, exists, balance, grants, frozen, ...)
    if call('GET', NONCE .. 'a:' .. account) ~= nonce then return 0 end
    if call('EXISTS', ACCOUNT .. account) == 1 then return 0 end
    local holds, held = { ... }, 0
    for i = 1, #holds, 6 do
        local id, amount, origin, owner, ttl, route = unpack(holds, i, i + 5)
        held = held + tonumber(amount)
        local expires = format('%d', now + tonumber(ttl))
        call('HSET', LIVE, id, table.concat({ expires, amount, origin, account, owner, route }, ' '))
    end
    local a = { [B] = tonumber(balance), [H] = held, [G] = tonumber(grants), [X] = tonumber(exists) }
    a[S], a[OLD], a[UPTO], a[NEW], a[F], a[T] = 0, 0, 0, 0, tonumber(frozen), now
    put_account(ACCOUNT .. account, a)
    call('DEL', NONCE .. 'a:' .. account, LET_GO .. 'a:' .. account)
    return 1
end

-- What Postgres knows of a hold's id that is not here. 0 where something came in between.
function keep.fate(nonce, id, record)
    if call('GET', NONCE .. 'i:' .. id) ~= nonce then return 0 end
    for _, key in ipairs({ LIVE, NEWER, OLDER }) do
        if call('HEXISTS', key, id) == 1 then return 0 end
    end
    return call('HSET', NEWER, id, record)
end

-- What Postgres decided about an account, in the order of its numbers. 1 where it is heard (now,
-- before, or with the account when that is brought here), 0 where an earlier one is missing.
function keep.deliver(account, number, amount, frozen)
    local value = call('GET', ACCOUNT .. account)
    if not value then
        -- Whoever is bringing it has read Postgres too early, perhaps.
        call('DEL', NONCE .. 'a:' .. account)
        return 1
    end
    local a = account_in(value)
    number = tonumber(number)
    if number <= a[G] then return 1 end
    if number > a[G] + 1 then return 0 end
    a[B], a[G], a[X], a[F] = a[B] + tonumber(amount), number, 1, tonumber(frozen)
    put_account(ACCOUNT .. account, a)
    return 1
end

-- Some of the live holds from a cursor on, and of these the ones whose time has run out: the cursor for
-- the next time, then id, record, … at most `limit` of them. Those of calls are their own gateway's
-- business (it renews what runs) until they are overdue by `grace` ms. Twenty times make the round.
function keep.due(owner, grace, limit, cursor)
    local some = math.max(2000, math.ceil(call('HLEN', LIVE) / 20))
    local scanned = call('HSCAN', LIVE, cursor, 'COUNT', format('%d', some))
    local due, fields = { scanned[1] }, scanned[2]
    for i = 1, #fields, 2 do
        local id, record = fields[i], fields[i + 1]
        local expires = tonumber(sub(record, 1, 13))
        if expires and expires <= now then
            local amount, origin, whose = match(record, '^%d+ (%S+) (%a) %S+ ?(%S*)')
            if amount == 'T' then
                call('HDEL', LIVE, id)
            elseif origin ~= 'c' or whose == owner or now - expires > tonumber(grace) then
                if #due > 2 * tonumber(limit) then
                    -- The same ones again, once these have ended.
                    due[1] = cursor
                    break
                end
                due[#due + 1], due[#due + 2] = id, record
            end
        end
    end
    return due
end

-- Lets go of accounts that nothing has touched for `idle` ms: all of them durable, nothing held.
-- How many went.
function keep.retire(idle, ...)
    local durable, went = tonumber(meta[4]), 0
    for _, key in ipairs({ ... }) do
        local value = call('GET', key)
        -- One that somebody has spoiled is for a repair.
        if value and #value == struct.size(STORED) then
            local a = account_in(value)
            if a[H] == 0 and a[S] <= durable and now - a[T] >= tonumber(idle) then
                went = went + call('DEL', key)
            end
        end
    end
    return went
end

-- For how long (ms) a gateway has not been heard of here; -1 where it never was.
function keep.silence(owner)
    local heard = call('HGET', ALIVE, owner)
    return heard and now - tonumber(heard) or -1
end

-- Batches up to this one are in Postgres; a gateway says so, which therefore lives. The newest batch,
-- and up to which they are.
function keep.durable(seq, owner)
    -- First what frees memory: without any, nothing else can be written.
    call('XTRIM', OUT, 'MINID', NUMBER .. '-' .. seq)
    call('HSET', ALIVE, owner, format('%d', now))
    local newest, durable = tonumber(meta[3]), tonumber(meta[4])
    if tonumber(seq) > durable then
        durable = tonumber(seq)
        call('HSET', META, 'durable', seq)
    end
    return { newest, durable }
end

-- For the comparison with Postgres: the live holds, some at a time. The next cursor, then id, record, …
function keep.live(cursor)
    local page = call('HSCAN', LIVE, cursor, 'COUNT', '500')
    local found = page[2]
    table.insert(found, 1, page[1])
    return found
end

-- One moment: the newest batch; those after number `from`: number, text, …; the values of `n` accounts; the
-- records of the holds that follow.
function keep.picture(from, n, ...)
    local names, batches, accounts, holds = { ... }, {}, {}, {}
    for _, entry in ipairs(call('XRANGE', OUT, '(' .. NUMBER .. '-' .. from, '+', 'COUNT', '5000')) do
        batches[#batches + 1], batches[#batches + 2] = match(entry[1], '%-(%d+)$'), entry[2][2]
    end
    for i = 1, tonumber(n) do
        accounts[i] = call('GET', ACCOUNT .. names[i])
    end
    for i = tonumber(n) + 1, #names do
        holds[#holds + 1] = call('HGET', LIVE, names[i]) or ''
    end
    return { meta[3], batches, accounts, holds }
end

-- Lets go of an account that is not as Postgres has it, and of these of its holds. It comes back as
-- Postgres has it, once that has all that was decided here until now: nobody brings it before. How a hold
-- ended stays known.
function keep.forget(account, ...)
    for _, id in ipairs({ ... }) do
        call('HDEL', LIVE, id)
        call('DEL', NONCE .. 'i:' .. id)
    end
    call('DEL', ACCOUNT .. account, NONCE .. 'a:' .. account)
    call('SET', LET_GO .. 'a:' .. account, meta[3])
    return 1
end

return keep[ARGV[1]](unpack(ARGV, 2))
