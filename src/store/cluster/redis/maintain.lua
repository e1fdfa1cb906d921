-- What keeps Redis's picture of the ledger right, beside the batches: accounts come and go, and what
-- Postgres decided is heard. In front of this text stands layout.lua.
local function account_in(value) return { false, '', 0, struct.unpack(STORED, value) } end
local function put_account(key, a)
    call('SET', key, struct.pack(STORED, a[B], a[H], a[G], a[S], a[OLD], a[UPTO], a[NEW], a[X], a[F], a[T]))
end

-- What is asked for is ARGV[1], and the words after it are its arguments. A list among them may be longer
-- than what Lua can pass to a function (8,000 values): it begins at LIST, and is read where it stands.
local keep, LIST = {}, {}

-- So many values are passed at once.
local SOME = 1000

-- Postgres is about to be asked for these. What is found counts only if the nonce still stands then. Several
-- may stand for one name: whoever asks beside us brings what we would bring, and only the first counts.
-- 0 where one of them was forgotten (keep.forget) with what Postgres does not have yet: that comes first.
LIST.doubt = 3
function keep.doubt(nonce)
    local durable, known = tonumber(meta[4]), 1
    for i = LIST.doubt, #ARGV do
        local name = ARGV[i]
        if tonumber(call('GET', LET_GO .. name) or 0) > durable then
            known = 0
        else
            local nonces = NONCE .. name
            -- Of so many the older ones have long been given up.
            if call('HLEN', nonces) >= 100 then call('DEL', nonces) end
            call('HSET', nonces, nonce, '')
            call('PEXPIRE', nonces, '10000')
        end
    end
    return known
end

-- An account as Postgres has it, with its live holds: id, ms to live, the rest of its record, … 0 where
-- something came in between.
LIST.account = 8
function keep.account(nonce, account, exists, balance, grants, frozen)
    if call('HEXISTS', NONCE .. 'a:' .. account, nonce) == 0 then return 0 end
    if call('EXISTS', ACCOUNT .. account) == 1 then return 0 end
    local held, some, n = 0, {}, 0
    for i = LIST.account, #ARGV, 3 do
        held = held + tonumber(sub(ARGV[i + 2], 1, 16))
        some[n + 1], some[n + 2] = ARGV[i], format('%d', now + tonumber(ARGV[i + 1])) .. ' ' .. ARGV[i + 2]
        n = n + 2
        if n >= SOME or i + 3 > #ARGV then
            call('HSET', LIVE, unpack(some, 1, n))
            n = 0
        end
    end
    local a = { [B] = tonumber(balance), [H] = held, [G] = tonumber(grants), [X] = tonumber(exists) }
    a[S], a[OLD], a[UPTO], a[NEW], a[F], a[T] = 0, 0, 0, 0, tonumber(frozen), now
    put_account(ACCOUNT .. account, a)
    call('DEL', NONCE .. 'a:' .. account, LET_GO .. 'a:' .. account)
    return 1
end

-- What Postgres knows of a hold's id that is not here. 0 where something came in between.
function keep.fate(nonce, id, record)
    if call('HEXISTS', NONCE .. 'i:' .. id, nonce) == 0 then return 0 end
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
LIST.retire = 3
function keep.retire(idle)
    local durable, went = tonumber(meta[4]), 0
    for i = LIST.retire, #ARGV do
        local key = ARGV[i]
        local value = call('GET', key)
        -- One that somebody has spoiled is for a repair.
        if value and #value == struct.size(STORED) then
            local a = account_in(value)
            if a[H] == 0 and a[S] <= durable and now - a[T] >= tonumber(idle) then
                went = went + call('DEL', key)
                -- Whoever is bringing it read Postgres while it was still here.
                call('DEL', NONCE .. 'a:' .. sub(key, #ACCOUNT + 1))
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
LIST.picture = 4
function keep.picture(from, n)
    local first = LIST.picture + tonumber(n)
    local batches, accounts, holds = {}, {}, {}
    for _, entry in ipairs(call('XRANGE', OUT, '(' .. NUMBER .. '-' .. from, '+', 'COUNT', '5000')) do
        batches[#batches + 1], batches[#batches + 2] = match(entry[1], '%-(%d+)$'), entry[2][2]
    end
    for i = LIST.picture, first - 1 do
        accounts[#accounts + 1] = call('GET', ACCOUNT .. ARGV[i])
    end
    for i = first, #ARGV do
        holds[#holds + 1] = call('HGET', LIVE, ARGV[i]) or ''
    end
    return { meta[3], batches, accounts, holds }
end

-- Lets go of an account that is not as Postgres has it, and of these of its holds. It comes back as
-- Postgres has it, once that has all that was decided here until now: nobody brings it before. How a hold
-- ended stays known.
LIST.forget = 3
function keep.forget(account)
    for i = LIST.forget, #ARGV do
        call('HDEL', LIVE, ARGV[i])
        call('DEL', NONCE .. 'i:' .. ARGV[i])
    end
    call('DEL', ACCOUNT .. account, NONCE .. 'a:' .. account)
    call('SET', LET_GO .. 'a:' .. account, meta[3])
    return 1
end

return keep[ARGV[1]](unpack(ARGV, 2, math.min(#ARGV, (LIST[ARGV[1]] or #ARGV + 1) - 1)))
