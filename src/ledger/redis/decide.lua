-- Decides one batch. In front of this text stand EPOCH (number and nonce) and P, the prefix of its keys.
--
-- Everything is decided on copies first; then the batch goes into the stream, and only then is
-- anything else written: a script does not roll back, and XADD is what may fail (no memory).
--
-- ARGV: the incarnation that asks; up to which batch it knows Postgres to be; the unsynced cap in
-- micro-credits (0: none); the operations, a line each:
--   kind id account amount origin ttl made route
-- kind: h hold, n renew, c capture (C: without an account), r release (R: without), x expire if it
-- is due, X expire, b balance. made: when a call's id was made (0: not known).
--
-- Answers the newest batch, the durable one, how many replicas might take this Redis's place, the batch
-- for the stream ('' where nothing changed), three
-- numbers for each operation that was decided, and what must be brought here before the rest can be:
-- 'a', account, 'i', id, …; and of each of the API's holds that an operation ended: the operation's place,
-- what was captured, what was given back, and the route.
local MAX = 9007199254740992 -- 2^53: what a number can count
local FRESH, OLD = 60000, 86400000 -- a call's id: needs no look-up; is refused
local ENDED_KEPT, TOMBSTONE_KEPT = '120000', '90000000'

local HELD, RENEWED, CAPTURED, LATE, RELEASED, BALANCE, NOBODY = 1, 2, 3, 4, 5, 6, 7
local INSUFFICIENT, CONFLICT, ENDED, UNKNOWN, ABOVE, ZERO, RANGE = 8, 9, 10, 11, 12, 13, 14
local FROZEN, CAPPED, EXPIRED, FROZENBALANCE = 15, 16, 17, 18

local call, match, format = redis.call, string.match, string.format
local owner, heard, cap = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local meta = call('HMGET', KEYS[1], 'epoch', 'seq', 'durable', 'reign')
-- A master that was a replica for a while keeps its scripts, and not its data: its replication id tells.
local info = call('INFO', 'replication')
local reign = match(info, 'master_replid:(%x+)')
local replicas = tonumber(match(info, 'connected_slaves:(%d+)') or 0)
if meta[1] ~= EPOCH or meta[4] ~= reign then
    return redis.error_reply('EPOCH ' .. tostring(meta[1]))
end
local seq, durable = tonumber(meta[2]), tonumber(meta[3])
if heard > durable then
    durable = heard
    -- First what frees memory: without any, nothing else can be written.
    call('XTRIM', KEYS[2], 'MINID', match(EPOCH, '^%d+') .. '-' .. format('%.0f', durable))
    call('HSET', KEYS[1], 'durable', format('%.0f', durable))
end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Read all that the batch names in one call.
local asked, n = {}, 0
local names, keys, seen = {}, {}, {}
local function want(name)
    if seen[name] == nil then
        seen[name] = false
        names[#names + 1] = name
        keys[#keys + 1] = P .. name
    end
end
for kind, id, account, amount, origin, ttl, made, route in
    string.gmatch(ARGV[4], '(%a) (%S+) (%S+) (%d+) (%S+) (%d+) (%d+) ([^\n]*)\n') do
    n = n + 1
    asked[n] = { kind, id, account, amount, origin, ttl, made, route }
    if kind ~= 'b' then want('o:' .. id) end
    if kind == 'h' or kind == 'c' or kind == 'r' or kind == 'b' then want('a:' .. account) end
end
for from = 1, #keys, 4000 do
    local found = call('MGET', unpack(keys, from, math.min(from + 3999, #keys)))
    for i = 1, #found do seen[names[from + i - 1]] = found[i] end
end
local function read(name)
    local value = seen[name]
    if value == nil then
        value = call('GET', P .. name)
        seen[name] = value
    end
    return value
end

-- Accounts: a table where it is here, nil where it is cold.
local accounts, changed = {}, {}
local function account_of(id)
    local a = accounts[id]
    if a then return a end
    local value = read('a:' .. id)
    if not value then return nil end
    local b, h, g, s, x, f, old, upto, new =
        match(value, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)')
    a = {
        id = id, b = tonumber(b), h = tonumber(h), g = g, s = tonumber(s), exists = x == '1',
        frozen = f == '1', old = tonumber(old), upto = tonumber(upto), new = tonumber(new),
    }
    accounts[id] = a
    return a
end
local function change(a)
    if not changed[a.id] then
        changed[a.id] = true
        changed[#changed + 1] = a
    end
end

-- Holds by id: 'L origin amount account owner route' live; 'C', 'R' or 'E' and 'origin amount account'
-- captured, released, expired; 'N' looked up, and nobody knows it.
local records, written = {}, {}
local function record_of(id)
    local r = records[id]
    if r == nil then
        local value = read('o:' .. id)
        r = false
        if value then
            local state, origin, amount, account, rest = match(value, '^(%a) ?(%a?) ?(%d*) ?(%S*) ?(.*)$')
            r = { state = state, origin = origin, amount = amount, account = account, rest = rest }
        end
        records[id] = r
    end
    return r
end
local function set(id, state, origin, amount, account, rest)
    records[id] = { state = state, origin = origin, amount = amount, account = account, rest = rest }
    if not written[id] then
        written[id] = true
        written[#written + 1] = id
    end
end

local log, due, gone = { format('%.0f', now) }, {}, {}
local function note(line) log[#log + 1] = line end
local deadlines = {}
local function deadline_of(ttl)
    local deadline = deadlines[ttl]
    if not deadline then
        deadline = format('%.0f', now + tonumber(ttl))
        deadlines[ttl] = deadline
    end
    return deadline
end
local function lift(id, r, a)
    a.h = a.h - tonumber(r.amount)
    change(a)
    due[id] = nil
    gone[id] = true
end

local COLD, MISSING = {}, {}
local need

-- What became of holds that were made through the API, for whoever counts them.
local ends, at = {}, 0
local function ended_now(origin, captured, released, route)
    if origin ~= 'a' then return end
    ends[#ends + 1], ends[#ends + 2] = format('%d', at - 1), captured
    ends[#ends + 1], ends[#ends + 2] = released, route
end

local function end_hold(id, r, a, state, letter)
    lift(id, r, a)
    set(id, state, r.origin, r.amount, r.account, '')
    note(letter .. ' ' .. id .. ' ' .. r.account .. ' ' .. r.amount .. ' ' .. r.origin .. ' '
        .. match(r.rest, '^%S+ (.*)$'))
end

local function charge(id, a, amount, origin, late, route)
    if a.b < tonumber(amount) - MAX then return false end
    a.b = a.b - tonumber(amount)
    a.exists = true
    change(a)
    note('c ' .. id .. ' ' .. a.id .. ' ' .. amount .. ' ' .. origin .. ' ' .. late .. ' ' .. route)
    return true
end

local decide = {}

function decide.h(id, account, amount, origin, ttl, made, route)
    local r = record_of(id)
    if r and r.state == 'L' then
        if r.account ~= account or r.amount ~= amount or r.origin ~= origin then return CONFLICT end
        local a = account_of(account)
        if not a then need = COLD; return end
        return HELD, a.b, a.h
    end
    if r and r.state ~= 'N' then return ENDED end
    local created, credits = tonumber(made), tonumber(amount)
    if not r then
        if created > 0 and now - created > OLD then return ENDED end
        if created == 0 or now - created > FRESH then need = MISSING; return end
    end
    if credits == 0 then return ZERO end
    local a = account_of(account)
    if not a then need = COLD; return end
    if a.frozen then return FROZEN end
    if credits > a.b - a.h then return INSUFFICIENT, a.b, a.h end
    if a.h > MAX - credits then return RANGE end
    if cap > 0 then
        if durable >= a.s then
            a.old, a.upto, a.new = 0, a.s, 0
        elseif durable >= a.upto then
            a.old, a.upto, a.new = a.new, a.s, 0
        end
        if a.old + a.new + credits > cap then return CAPPED end
    end
    a.new = a.new + credits
    a.h = a.h + credits
    change(a)
    set(id, 'L', origin, amount, account, owner .. ' ' .. route)
    local deadline = deadline_of(ttl)
    due[id], gone[id] = deadline, nil
    note('h ' .. id .. ' ' .. account .. ' ' .. amount .. ' ' .. origin .. ' ' .. owner .. ' '
        .. deadline .. ' ' .. route)
    return HELD, a.b, a.h
end

function decide.n(id, _, _, _, ttl)
    local r = record_of(id)
    if not r then need = MISSING; return end
    if r.state ~= 'L' then return UNKNOWN end
    due[id] = deadline_of(ttl)
    -- A call's hold does not outlive its gateway, so Postgres need not know.
    if r.origin == 'a' then note('n ' .. id .. ' ' .. due[id]) end
    return RENEWED
end

local function capture(id, account, amount, origin, route)
    local r = record_of(id)
    if not r then need = MISSING; return end
    if r.state == 'R' and amount ~= '0' then return ENDED end
    local whose = r.state == 'N' and account or r.account
    local wrong_account = account and account ~= whose
    if r.state == 'C' then
        if r.amount ~= amount or wrong_account then return CONFLICT end
    elseif r.state == 'N' then
        -- A call's capture counts even where its hold was lost.
        if origin ~= 'c' or not account then return UNKNOWN end
    else
        if r.origin ~= origin then return UNKNOWN end
        if r.state == 'L' and wrong_account then return UNKNOWN end
        if tonumber(amount) > tonumber(r.amount) then return ABOVE, tonumber(r.amount) end
        if wrong_account then return UNKNOWN end
    end
    local a = account_of(whose)
    if not a then need = COLD; return end
    if r.state == 'C' then return CAPTURED, a.b, a.h end
    if amount == '0' then
        if r.state == 'L' then
            ended_now(origin, '0', r.amount, match(r.rest, '^%S+ (.*)$'))
            end_hold(id, r, a, 'R', 'r')
        end
        return RELEASED, a.b, a.h
    end
    local live = r.state == 'L'
    if live then route = match(r.rest, '^%S+ (.*)$') end
    if not charge(id, a, amount, origin, live and '0' or '1', route) then return RANGE end
    if live then
        ended_now(origin, amount, format('%.0f', tonumber(r.amount) - tonumber(amount)), route)
        lift(id, r, a)
    else
        ended_now(origin, amount, '0', route)
    end
    set(id, 'C', origin, amount, whose, '')
    return live and CAPTURED or LATE, a.b, a.h
end
function decide.c(id, account, amount, origin, _, _, route)
    return capture(id, account, amount, origin, route)
end
function decide.C(id, _, amount, origin, _, _, route)
    return capture(id, nil, amount, origin, route)
end

local function release(id, account, origin)
    local r = record_of(id)
    if not r then need = MISSING; return end
    if r.state == 'C' then return ENDED end
    if r.state == 'L' and (r.origin ~= origin or (account and account ~= r.account)) then
        return UNKNOWN
    end
    if r.state == 'N' and (origin ~= 'c' or not account) then return UNKNOWN end
    local a = account_of(r.state == 'N' and account or r.account)
    if not a then need = COLD; return end
    if r.state == 'L' then
        ended_now(origin, '0', r.amount, match(r.rest, '^%S+ (.*)$'))
        end_hold(id, r, a, 'R', 'r')
    elseif r.state == 'N' then
        -- It overtook its hold: a tombstone, so that the hold is refused.
        set(id, 'R', origin, '0', account, 'tombstone')
        note('r ' .. id .. ' ' .. account .. ' 0 ' .. origin .. ' ')
    end
    return RELEASED, a.b, a.h
end
function decide.r(id, account, _, origin) return release(id, account, origin) end
function decide.R(id, _, _, origin) return release(id, nil, origin) end

function decide.X(id)
    local r = record_of(id)
    if not r then need = MISSING; return end
    if r.state ~= 'L' then return UNKNOWN end
    local a = account_of(r.account)
    if not a then need = COLD; return end
    end_hold(id, r, a, 'E', 'e')
    return EXPIRED
end
function decide.x(id)
    local deadline = tonumber(due[id] or call('ZSCORE', KEYS[3], id) or 'inf')
    if deadline > now then return UNKNOWN end
    return decide.X(id)
end

function decide.b(_, account)
    local a = account_of(account)
    if not a then need = COLD; return end
    if not a.exists then return NOBODY end
    return a.frozen and FROZENBALANCE or BALANCE, a.b, a.h
end

-- In order, up to the first that cannot be decided: what follows may depend on it.
local answers, needs = {}, {}
local decided = 0
for i = 1, n do
    local o = asked[i]
    at = i
    local code, b, h = decide[o[1]](o[2], o[3], o[4], o[5], o[6], o[7], o[8])
    if need then break end
    decided = i
    answers[#answers + 1], answers[#answers + 2], answers[#answers + 3] = code, b or 0, h or 0
end
for i = decided + 1, n do
    -- Look ahead, so that all of it is brought at once.
    local kind, id, account, made = asked[i][1], asked[i][2], asked[i][3], tonumber(asked[i][7])
    local r = kind ~= 'b' and record_of(id)
    if kind ~= 'b' and not r then
        if kind ~= 'h' or made == 0 or now - made > FRESH then
            needs[#needs + 1], needs[#needs + 2] = 'i', id
        end
    end
    if kind == 'C' or kind == 'R' or kind == 'n' or kind == 'x' or kind == 'X' then
        account = r and r.account ~= '' and r.account
    end
    if account and not account_of(account) then
        needs[#needs + 1], needs[#needs + 2] = 'a', account
    end
end

if #log == 1 then log = {} end
if #log > 0 then
    seq = seq + 1
    log = table.concat(log, '\n')
    call('XADD', KEYS[2], match(EPOCH, '^%d+') .. '-' .. format('%.0f', seq), 'b', log)
    call('HSET', KEYS[1], 'seq', format('%.0f', seq))
else
    log = ''
end

local values = {}
local function write(name, value)
    values[#values + 1], values[#values + 2] = P .. name, value
    if #values >= 4000 then
        call('MSET', unpack(values))
        values = {}
    end
end
for i = 1, #changed do
    local a = changed[i]
    write('a:' .. a.id, format('%.0f %.0f %s %.0f %s %s %.0f %.0f %.0f %.0f', a.b, a.h, a.g, seq,
        a.exists and '1' or '0', a.frozen and '1' or '0', a.old, a.upto, a.new, now))
end
for i = 1, #written do
    local id = written[i]
    local r = records[id]
    if r.state == 'L' then
        write('o:' .. id, 'L ' .. r.origin .. ' ' .. r.amount .. ' ' .. r.account .. ' ' .. r.rest)
    else
        local kept = r.rest == 'tombstone' and TOMBSTONE_KEPT or ENDED_KEPT
        local value = r.state .. ' ' .. r.origin .. ' ' .. r.amount .. ' ' .. r.account
        call('SET', P .. 'o:' .. id, value, 'PX', kept)
    end
end
if #values > 0 then call('MSET', unpack(values)) end

local scores = {}
for id, deadline in pairs(due) do
    scores[#scores + 1], scores[#scores + 2] = deadline, id
    if #scores >= 4000 then
        call('ZADD', KEYS[3], unpack(scores))
        scores = {}
    end
end
if #scores > 0 then call('ZADD', KEYS[3], unpack(scores)) end
local ended = {}
for id in pairs(gone) do
    ended[#ended + 1] = id
    if #ended >= 4000 then
        call('ZREM', KEYS[3], unpack(ended))
        ended = {}
    end
end
if #ended > 0 then call('ZREM', KEYS[3], unpack(ended)) end

return { seq, durable, replicas, log, answers, needs, ends }
