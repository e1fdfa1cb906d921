-- What is not usual, in the middle of decide.lua: there, so that its closures are made only where
-- they are needed.

letters, noted, decisions, needs, api_ends = {}, {}, decisions or {}, {}, {}
for i = 1, decided do letters[i] = kinds[i] > 0 and 104 or 99 end

-- A hold by its id, as the batch has left it: its state is L (live), C (captured), R, E or N; of a live
-- one the rest is its owner and route. False where nothing is known.
local records, written = {}, {}
local function record_of(i)
    local id = ids[i]
    local r = records[id]
    if r ~= nil then return r end
    r = false
    if live[i] then
        local expires, amount, origin, account, rest = match(live[i], '^(%d+) (%S+) (%a) (%S+) ?(.*)$')
        r = { state = 'L', origin = origin, amount = amount, account = account, rest = rest, expires = expires }
        if amount == 'T' then
            r.state, r.amount, r.tombstone = 'R', ZEROES, true
        end
    elseif past[i] then
        local state, amount, origin, account = 'C', match(past[i], '^(%d+) (%a) (%S+)')
        if not amount then
            state, origin, amount, account = match(past[i], '^(%a) ?(%a?) ?(%d*) ?(%S*)')
        end
        r = { state = state, origin = origin, amount = amount, account = account }
    end
    records[id] = r
    return r
end
local function set(i, record)
    local id = ids[i]
    records[id] = record
    if not written[id] then
        written[id] = true
        written[#written + 1] = id
    end
end
local function route_of(r) return match(r.rest, '^%S+ (.*)$') end

-- Accounts by their ids: those that the terms name, and others.
local known = {}
for place = 1, #keys do known[sub(keys[place], #ACCOUNT + 1)] = accounts[place] end
local function account_of(id)
    local a = known[id]
    if a == nil then
        local key = ACCOUNT .. id
        local value = call('GET', key)
        a = value and account_in(key, value, 0)
        known[id] = a
    end
    return a
end
local function change(a)
    if not a[CHANGED] then
        a[CHANGED] = true
        changed[#changed + 1] = a
    end
end
local function note(i, ...)
    letters[i], moved = 43, true -- +
    noted[#noted + 1] = table.concat({ ... }, ' ')
end

-- What became of holds that were made through the API, for whoever counts them.
local function ended_now(i, origin, account, taken, released, route)
    if origin ~= 'a' then return end
    local e = #api_ends
    api_ends[e + 1], api_ends[e + 2] = format('%d', i - 1), taken
    api_ends[e + 3], api_ends[e + 4], api_ends[e + 5] = released, account, route
end
local function end_hold(i, r, a, state, letter)
    a[H] = a[H] - tonumber(r.amount)
    change(a)
    note(i, letter, ids[i], r.account, r.amount, r.origin, route_of(r))
    set(i, { state = state, origin = r.origin, amount = r.amount, account = r.account })
end

-- Each answers its number, and the account it is about or one more number; nothing where something
-- must be brought first.
local decide = {}

function decide.h(i, account, amount, origin, ttl, made, route)
    local r = record_of(i)
    if r and r.state == 'L' then
        if r.account ~= account or r.amount ~= amount or r.origin ~= origin then return CONFLICT end
        local a = account_of(account)
        if not a then return end
        return HELD, a
    end
    if r and r.state ~= 'N' then return ENDED end
    local created, credits = tonumber(made), tonumber(amount)
    if not r then
        if created > 0 and now - created > STALE then return UNAVAILABLE end
        if created == 0 or now - created > FRESH then return end
    end
    if credits == 0 then return ZERO end
    local a = account_of(account)
    if not a then return end
    if a[F] == 1 then return FROZEN end
    if credits > a[B] - a[H] then return INSUFFICIENT, a end
    if a[H] > MAX - credits then return RANGE end
    if cap > 0 and a[OLD] + a[NEW] + credits > cap then return CAPPED end
    a[H], a[NEW] = a[H] + credits, a[NEW] + credits
    change(a)
    local expires = format('%d', now + tonumber(ttl))
    local rest = format('%d', owner) .. ' ' .. route
    set(i, { state = 'L', origin = origin, amount = amount, account = account, rest = rest, expires = expires })
    note(i, 'h', ids[i], account, amount, origin, format('%d', owner), expires, route)
    return HELD, a
end

function decide.n(i, _, _, _, ttl)
    local r = record_of(i)
    if not r then return end
    if r.state ~= 'L' then return UNKNOWN end
    r.expires = format('%d', now + tonumber(ttl))
    set(i, r)
    -- A call's hold does not outlive its gateway, so Postgres need not know.
    if r.origin == 'a' then note(i, 'n', ids[i], r.expires) end
    return RENEWED
end

local function capture(i, account, amount, origin, route)
    local r = record_of(i)
    if not r then return end
    if r.state == 'R' and amount ~= ZEROES then return ENDED end
    local holder = r.state == 'N' and account or r.account
    local wrong_account = account and account ~= holder
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
    local a = account_of(holder)
    if not a then return end
    if r.state == 'C' then return CAPTURED, a end
    local is_live, credits = r.state == 'L', tonumber(amount)
    if credits == 0 then
        if is_live then
            ended_now(i, origin, r.account, '0', r.amount, route_of(r))
            end_hold(i, r, a, 'R', 'r')
        end
        return RELEASED, a
    end
    if a[B] < credits - MAX then return RANGE end
    a[B], a[X] = a[B] - credits, 1
    change(a)
    local released = 0
    if is_live then
        route, released = route_of(r), tonumber(r.amount) - credits
        a[H] = a[H] - tonumber(r.amount)
    end
    ended_now(i, origin, holder, amount, format('%d', released), route)
    note(i, 'c', ids[i], holder, amount, origin, is_live and '0' or '1', route)
    set(i, { state = 'C', origin = origin, amount = amount, account = holder })
    return is_live and CAPTURED or LATE, a
end
function decide.c(i, account, amount, origin, _, _, route)
    return capture(i, account, amount, origin, route)
end
function decide.C(i, _, amount, origin, _, _, route)
    return capture(i, nil, amount, origin, route)
end

local function release(i, account, origin)
    local r = record_of(i)
    if not r then return end
    if r.state == 'C' then return ENDED end
    if r.state == 'L' and (r.origin ~= origin or (account and account ~= r.account)) then
        return UNKNOWN
    end
    if r.state == 'N' and (origin ~= 'c' or not account) then return UNKNOWN end
    local a = account_of(r.state == 'N' and account or r.account)
    if not a then return end
    if r.state == 'L' then
        ended_now(i, origin, r.account, '0', r.amount, route_of(r))
        end_hold(i, r, a, 'R', 'r')
    elseif r.state == 'N' then
        -- It overtook its hold: a tombstone, so that the hold is refused.
        set(i, { state = 'R', origin = origin, amount = ZEROES, account = account, tombstone = true })
        note(i, 'r', ids[i], account, '0', origin, '')
    end
    return RELEASED, a
end
function decide.r(i, account, _, origin) return release(i, account, origin) end
function decide.R(i, _, _, origin) return release(i, nil, origin) end

function decide.X(i)
    local r = record_of(i)
    if not r then return end
    if r.state ~= 'L' then return UNKNOWN end
    local a = account_of(r.account)
    if not a then return end
    end_hold(i, r, a, 'E', 'e')
    return EXPIRED
end
function decide.x(i)
    local r = record_of(i)
    if not r or r.state ~= 'L' or tonumber(r.expires) > now then return UNKNOWN end
    return decide.X(i)
end

function decide.b(_, account)
    local a = account_of(account)
    if not a then return end
    if a[X] == 0 then return NOBODY end
    return a[F] == 1 and FROZENBALANCE or BALANCE, a
end

-- An operation in full, as a line has it.
local function told(i)
    local j = kinds[i]
    if j > usual_kinds then
        return match(lines[j - usual_kinds], '^(%a) (%S+) (%d+) (%a) (%d+) (%d+) (.*)$')
    end
    local amount, origin, account, route = match(terms[j > 0 and j or -j], '^(%d+) (%a) (%S+) %S+ (.*)$')
    -- The id of a call's hold is a UUID of version 7, which begins with when it was made.
    local made = j > 0 and tonumber(sub(ids[i], 1, 8) .. sub(ids[i], 10, 13), 16) or 0
    return j > 0 and 'h' or 'c', account, amount, origin, usual_ttl, made, route
end

-- Decides one of them; false where something must be brought first.
function otherwise(i)
    letters[i] = 46 -- a point
    local kind, account, amount, origin, ttl, made, route = told(i)
    local code, more = decide[kind](i, account, amount, origin, ttl, made, route)
    if not code then return false end
    local b, h, place = more or 0, 0, 0
    if type(more) == 'table' then b, h, place = more[B], more[H], more[PLACE] end
    local d = #decisions
    decisions[d + 1], decisions[d + 2] = i - 1, code
    decisions[d + 3], decisions[d + 4], decisions[d + 5] = b, h, place
    return true
end

-- What those that are left need, so that all of it is brought at once.
function look_ahead()
    for i = decided + 1, n do
        local kind, account, _, _, _, made = told(i)
        local r = kind ~= 'b' and record_of(i)
        if kind ~= 'b' and not r then
            made = tonumber(made)
            if kind ~= 'h' or made == 0 or now - made > FRESH then
                needs[#needs + 1], needs[#needs + 2] = 'i', ids[i]
            end
        end
        if find('CRnxX', kind, 1, true) then account = r and r.account ~= '' and r.account end
        if account and not account_of(account) then
            needs[#needs + 1], needs[#needs + 2] = 'a', account
        end
    end
end

-- Adds what is left of the holds to what is going to be written.
function write_down()
    for w = 1, #written do
        local id = written[w]
        local r = records[id]
        local who = r.origin .. ' ' .. r.account
        if r.state == 'L' or r.tombstone then
            granted[grants + 1] = id
            granted[grants + 2] = r.tombstone and format('%d', now + TOMBSTONE_KEPT) .. ' T ' .. who
                or r.expires .. ' ' .. r.amount .. ' ' .. who .. ' ' .. r.rest
            grants = grants + 2
        else
            ended[ends + 1] = id
            ended[ends + 2] = r.state == 'C' and r.amount .. ' ' .. who
                or r.state .. ' ' .. r.origin .. ' ' .. r.amount .. ' ' .. r.account
            ends = ends + 2
            going = going + 1
            gone[going] = id
        end
    end
end
