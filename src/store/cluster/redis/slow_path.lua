-- Every operation that the loop of decide.lua does not decide itself.
--
-- Interface. The body of a function in the middle of decide.lua, made only where a batch needs it, since its
-- closures cost time. Its argument is the table `batch`, with values that decide.lua's head describes:
--   ledger                              the table that layout.lua describes
--   account_in                          function(key, value, place): reads a stored account
--   owner, cap, usual_ttl, ids, kinds, terms, keys, lines, claims       members of ARGV[1]
--   live, past                          of each id, its record in LIVE, or in NEWER or OLDER
--   accounts                            the accounts of `keys`, false for one that is not in Redis
-- and lists to which this file adds:
--   changed                             accounts to be written
--   granted, ended, gone                arguments of HSET LIVE, HSET NEWER and HDEL LIVE
--   codes                               an outcome code (a byte) for each operation
--   noted                               the lines of the stream's head, one for each code +
--   decisions, needs, api_ends, claimed members of the reply
--   moved                               set to true where something changed
-- Returns a table of functions: decide(i), look_ahead(decided), write_down(), write_claims(). See each.
local batch = ...
local ledger, account_in = batch.ledger, batch.account_in
local call, match, sub, find, format = redis.call, string.match, string.sub, string.find, string.format
local now, ACCOUNT = ledger.now, ledger.ACCOUNT
local owner, cap, ids, kinds, terms = batch.owner, batch.cap, batch.ids, batch.kinds, batch.terms
local live, past, codes, noted, decisions = batch.live, batch.past, batch.codes, batch.noted, batch.decisions
local usual_kinds = #terms

local MAX = 9007199254740992 -- 2^53: up to here a Lua number counts exactly
local FRESH = 60000 -- the id of a call that is newer (ms) cannot have ended and been forgotten
local STALE = 86400000 -- an older id (ms) of a new call was made by a clock that is wrong
local TOMBSTONE_KEPT = 90000000 -- in ms; longer than STALE, so that the hold is refused for good
local ZEROES = '0000000000000000'
local CHANGED, PLACE, BALANCE, HELD, OLD, NEW, EXISTS, FROZEN = 1, 3, 4, 5, 8, 10, 11, 12 -- as in decide.lua

-- The verdicts, which reply.rs reads by their numbers.
local verdict = {
    UNAVAILABLE = 0,
    HELD = 1,
    RENEWED = 2,
    CAPTURED = 3,
    LATE = 4,
    RELEASED = 5,
    BALANCE = 6,
    NOACCOUNT = 7,
    INSUFFICIENT = 8,
    CONFLICT = 9,
    ENDED = 10,
    UNKNOWN = 11,
    ABOVE = 12,
    ZERO = 13,
    RANGE = 14,
    FROZEN = 15,
    CAPPED = 16,
    EXPIRED = 17,
    FROZENBALANCE = 18,
    RUNNING = 19,
    CHARGED = 20,
    MISMATCH = 21,
    MARKED = 22,
    LEFT = 23,
}

-- The hold of an operation, as the batch has left it: state L (live), C (captured), R (released), E (expired) or
-- N (no such hold). `rest` of a live one is its owner and route. False where neither Redis nor Postgres was asked.
local records, written = {}, {}
local function read_record(is_live, has_ended)
    local r = false
    if is_live then
        local expires, amount, origin, account, rest = match(is_live, '^(%d+) (%S+) (%a) (%S+) ?(.*)$')
        r = { state = 'L', origin = origin, amount = amount, account = account, rest = rest, expires = expires }
        if amount == 'T' then
            r.state, r.amount, r.tombstone = 'R', ZEROES, true
        end
    elseif has_ended then
        local state, amount, origin, account = 'C', match(has_ended, '^(%d+) (%a) (%S+)')
        if not amount then
            state, origin, amount, account = match(has_ended, '^(%a) ?(%a?) ?(%d*) ?(%S*)')
        end
        r = { state = state, origin = origin, amount = amount, account = account }
    end
    return r
end
local function record_of(i)
    local id = ids[i]
    local r = records[id]
    if r ~= nil then return r end
    r = read_record(live[i], past[i])
    records[id] = r
    return r
end
-- The same of a hold that is not the operation's own. It is read anew each time, since decide.lua may end it meanwhile.
local function record_of_other(id)
    if written[id] then return records[id] end
    local ended = batch.ended
    for e = 1, #ended, 2 do
        if ended[e] == id then return read_record(nil, ended[e + 1]) end
    end
    return read_record(call('HGET', ledger.LIVE, id),
        call('HGET', ledger.NEWER, id) or call('HGET', ledger.OLDER, id))
end
local function set_record(i, record)
    local id = ids[i]
    records[id] = record
    if not written[id] then
        written[id] = true
        written[#written + 1] = id
    end
end
local function route_of(r) return match(r.rest, '^%S+ (.*)$') end

-- The accounts by their ids: those that terms name, and others. False for one that is not in Redis.
local known = {}
for place = 1, #batch.keys do known[sub(batch.keys[place], #ACCOUNT + 1)] = batch.accounts[place] end
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
        batch.changed[#batch.changed + 1] = a
    end
end

-- Writes a line of the stream's head for this operation.
local function note(i, ...)
    codes[i], batch.moved = 43, true -- +
    noted[#noted + 1] = table.concat({ ... }, ' ')
end
-- Reports the end of an API hold, for the gateway's metrics.
local function report_end(i, origin, account, captured, released, route)
    if origin ~= 'a' then return end
    local api_ends = batch.api_ends
    local e = #api_ends
    api_ends[e + 1], api_ends[e + 2] = format('%d', i - 1), captured
    api_ends[e + 3], api_ends[e + 4], api_ends[e + 5] = released, account, route
end

-- The functions that claims.lua returns, made by the first operation that needs them.
local claims_of_calls
local function claims()
    if not claims_of_calls then
        claims_of_calls = (function(...) -- luacheck: ignore 212
            --@claims.lua
        end)(batch, note, record_of_other)
    end
    return claims_of_calls
end
local function has_claim(i) return batch.claims and claims().is_of(i) end
-- The claim of the call whose hold an operation ends: the operation names it, or the live hold does.
local function claim_named(i, r)
    return batch.claims and claims().named(i) or r.rest and match(r.rest, '^%d+/(%x+) ')
end
-- The same; false where it must be loaded into Redis first.
local function claim_of_call(i, r)
    local id = claim_named(i, r)
    if id then return claims().has(id) and id end
end
local function settle_claim(i, claim, is_charged)
    if claim then claims().settle(claim, ids[i], is_charged) end
end
local function end_hold(i, r, a, state, word, claim)
    settle_claim(i, claim, false)
    a[HELD] = a[HELD] - tonumber(r.amount)
    change(a)
    note(i, word, ids[i], r.account, r.amount, r.origin, route_of(r))
    set_record(i, { state = state, origin = r.origin, amount = r.amount, account = r.account })
end

-- The functions that decide, by the kind of a line. Each returns a verdict, and the account or one more
-- number that belongs to the verdict. It returns nothing where an account or an id must be loaded into
-- Redis first.
local by_kind = {}

function by_kind.h(i, account, amount, origin, ttl, made, route)
    local r = record_of(i)
    if r and r.state == 'L' then
        if r.account ~= account or r.amount ~= amount or r.origin ~= origin then return verdict.CONFLICT end
        local a = account_of(account)
        if not a then return end
        return verdict.HELD, a
    end
    if r and r.state ~= 'N' then return verdict.ENDED end
    local created, credits = tonumber(made), tonumber(amount)
    if not r then
        if created > 0 and now - created > STALE then return verdict.UNAVAILABLE end
        if created == 0 or now - created > FRESH then return end
    end
    if credits == 0 then return verdict.ZERO end
    local a = account_of(account)
    if not a then return end
    if a[FROZEN] == 1 then return verdict.FROZEN end
    local claim
    if has_claim(i) then
        local state, hold = claims().look(i)
        if not state then return end
        if state ~= 'F' then
            claims().hear(i, state, hold)
            return state == 'R' and verdict.RUNNING or state == 'C' and verdict.CHARGED or verdict.MISMATCH
        end
        claim = claims().named(i)
    end
    if credits > a[BALANCE] - a[HELD] then return verdict.INSUFFICIENT, a end
    if a[HELD] > MAX - credits then return verdict.RANGE end
    if cap > 0 and a[OLD] + a[NEW] + credits > cap then return verdict.CAPPED end
    a[HELD], a[NEW] = a[HELD] + credits, a[NEW] + credits
    change(a)
    local expires = format('%d', now + tonumber(ttl))
    local rest = format('%d', owner) .. (claim and '/' .. claim or '') .. ' ' .. route
    if claim then claims().make(i) end
    set_record(i, {
        state = 'L', origin = origin, amount = amount, account = account, rest = rest, expires = expires,
    })
    note(i, 'h', ids[i], account, amount, origin, format('%d', owner), expires, route)
    return verdict.HELD, a
end

function by_kind.g(i, account, amount)
    local r = record_of(i)
    if not r then return end
    if r.state == 'N' then return verdict.UNKNOWN end
    if r.state ~= 'L' then return verdict.ENDED end
    if r.origin ~= 'c' or r.account ~= account then return verdict.UNKNOWN end
    local a = account_of(account)
    if not a then return end
    local more = tonumber(amount) - tonumber(r.amount)
    if more <= 0 then return verdict.HELD, a end
    if a[FROZEN] == 1 then return verdict.FROZEN end
    if more > a[BALANCE] - a[HELD] then return verdict.INSUFFICIENT, a end
    if a[HELD] > MAX - more then return verdict.RANGE end
    if cap > 0 and a[OLD] + a[NEW] + more > cap then return verdict.CAPPED end
    a[HELD], a[NEW] = a[HELD] + more, a[NEW] + more
    change(a)
    r.amount = amount
    set_record(i, r)
    note(i, 'g', ids[i], account, amount, 'c', '')
    return verdict.HELD, a
end

function by_kind.n(i, _, _, _, ttl)
    local r = record_of(i)
    if not r then return end
    if r.state ~= 'L' then return verdict.UNKNOWN end
    r.expires = format('%d', now + tonumber(ttl))
    set_record(i, r)
    -- A call's hold does not outlive its gateway, so Postgres need not know its deadline.
    if r.origin == 'a' then note(i, 'n', ids[i], r.expires) end
    return verdict.RENEWED
end

local function capture(i, account, amount, origin, route, may_overrun)
    local r = record_of(i)
    if not r then return end
    if r.state == 'R' and amount ~= ZEROES then return verdict.ENDED end
    local holder = r.state == 'N' and account or r.account
    local wrong_account = account and account ~= holder
    if r.state == 'C' then
        if r.amount ~= amount or wrong_account then return verdict.CONFLICT end
    elseif r.state == 'N' then
        -- A call's capture counts even where its hold was lost.
        if origin ~= 'c' or not account then return verdict.UNKNOWN end
    else
        if r.origin ~= origin then return verdict.UNKNOWN end
        if r.state == 'L' and wrong_account then return verdict.UNKNOWN end
        if tonumber(amount) > tonumber(r.amount) and not may_overrun then
            return verdict.ABOVE, tonumber(r.amount)
        end
        if wrong_account then return verdict.UNKNOWN end
    end
    local a = account_of(holder)
    if not a then return end
    if r.state == 'C' then return verdict.CAPTURED, a end
    local claim = claim_of_call(i, r)
    if claim == false then return end
    local is_live, credits = r.state == 'L', tonumber(amount)
    if credits == 0 then
        if is_live then
            report_end(i, origin, r.account, '0', r.amount, route_of(r))
            end_hold(i, r, a, 'R', 'r', claim)
        end
        return verdict.RELEASED, a
    end
    if a[BALANCE] < credits - MAX then return verdict.RANGE end
    a[BALANCE], a[EXISTS] = a[BALANCE] - credits, 1
    change(a)
    settle_claim(i, claim, true)
    local released = 0
    if is_live then
        route, released = route_of(r), tonumber(r.amount) - credits
        a[HELD] = a[HELD] - tonumber(r.amount)
    end
    report_end(i, origin, holder, amount, format('%d', released), route)
    note(i, 'c', ids[i], holder, amount, origin, (is_live and '0' or '1') .. (claim and '/' .. claim or ''), route)
    set_record(i, { state = 'C', origin = origin, amount = amount, account = holder })
    return is_live and verdict.CAPTURED or verdict.LATE, a
end
function by_kind.c(i, account, amount, origin, _, _, route)
    return capture(i, account, amount, origin, route)
end
function by_kind.o(i, account, amount, origin, _, _, route)
    return capture(i, account, amount, origin, route, true)
end
function by_kind.O(i, _, amount, origin, _, _, route)
    return capture(i, nil, amount, origin, route, true)
end
function by_kind.C(i, _, amount, origin, _, _, route)
    return capture(i, nil, amount, origin, route)
end

local function release(i, account, origin)
    local r = record_of(i)
    if not r then return end
    if r.state == 'C' then return verdict.ENDED end
    if r.state == 'N' then
        if origin ~= 'c' or not account then return verdict.UNKNOWN end
    elseif account and account ~= r.account or r.state == 'L' and r.origin ~= origin then
        return verdict.UNKNOWN
    end
    local a = account_of(r.state == 'N' and account or r.account)
    if not a then return end
    if r.state == 'L' then
        local claim = claim_of_call(i, r)
        if claim == false then return end
        report_end(i, origin, r.account, '0', r.amount, route_of(r))
        end_hold(i, r, a, 'R', 'r', claim)
    elseif r.state == 'N' then
        -- The release came before its hold: it leaves a tombstone, so that the hold is refused.
        set_record(i, { state = 'R', origin = origin, amount = ZEROES, account = account, tombstone = true })
        note(i, 'r', ids[i], account, '0', origin, '')
    end
    return verdict.RELEASED, a
end
function by_kind.r(i, account, _, origin) return release(i, account, origin) end
function by_kind.R(i, _, _, origin) return release(i, nil, origin) end

function by_kind.X(i)
    local r = record_of(i)
    if not r then return end
    if r.state ~= 'L' then return verdict.UNKNOWN end
    local a = account_of(r.account)
    local claim = claim_of_call(i, r)
    if not a or claim == false then return end
    end_hold(i, r, a, 'E', 'e', claim)
    return verdict.EXPIRED
end
function by_kind.x(i)
    local r = record_of(i)
    if not r or r.state ~= 'L' or tonumber(r.expires) > now then return verdict.UNKNOWN end
    return by_kind.X(i)
end

function by_kind.b(_, account)
    local a = account_of(account)
    if not a then return end
    if a[EXISTS] == 0 then return verdict.NOACCOUNT end
    return a[FROZEN] == 1 and verdict.FROZENBALANCE or verdict.BALANCE, a
end

function by_kind.m(i)
    -- The claim of a live hold comes with its account.
    if record_of(i) and claims().mark(i) then return verdict.MARKED end
end
function by_kind.l(i, account)
    local r = record_of(i)
    if not r then return end
    local is_its = r.account == account and (r.state == 'L' and r.origin == 'c' or r.state == 'C')
    if not is_its or claims().leave(i) then return verdict.LEFT end
end

-- The members of a line, also for an operation that has terms in its place.
local function members_of(i)
    local j = kinds[i]
    if j > usual_kinds then
        return match(batch.lines[j - usual_kinds], '^(%a) (%S+) (%d+) (%a) (%d+) (%d+) (.*)$')
    end
    local amount, origin, account, route = match(terms[j > 0 and j or -j], '^(%d+) (%a) (%S+) %S+ (.*)$')
    -- The id of a call's hold is a UUID of version 7, which begins with the time when it was made.
    local made = j > 0 and tonumber(sub(ids[i], 1, 8) .. sub(ids[i], 10, 13), 16) or 0
    return j > 0 and 'h' or 'o', account, amount, origin, batch.usual_ttl, made, route
end

local slow_path = {}

-- Decides operation i. Returns false where an account or an id must be loaded into Redis first.
function slow_path.decide(i)
    codes[i] = 46 -- a point
    local kind, account, amount, origin, ttl, made, route = members_of(i)
    local said, more = by_kind[kind](i, account, amount, origin, ttl, made, route)
    if not said then return false end
    local first, second, place = more or 0, 0, 0
    if type(more) == 'table' then first, second, place = more[BALANCE], more[HELD], more[PLACE] end
    local d = #decisions
    decisions[d + 1], decisions[d + 2] = i - 1, said
    decisions[d + 3], decisions[d + 4], decisions[d + 5] = first, second, place
    return true
end

-- Lists in `needs` everything that the operations after the first `decided` ones lack, so that all of
-- it is loaded at once.
function slow_path.look_ahead(decided)
    local needs = batch.needs
    for i = decided + 1, #ids do
        local kind, account, _, _, _, made = members_of(i)
        local r = kind ~= 'b' and record_of(i)
        if kind ~= 'b' and not r then
            made = tonumber(made)
            if kind ~= 'h' or made == 0 or now - made > FRESH then
                needs[#needs + 1], needs[#needs + 2] = 'i', ids[i]
            end
        end
        if has_claim(i) then
            local what, name = claims().lacks(i)
            if what then needs[#needs + 1], needs[#needs + 2] = what, name end
        end
        local claim = r and claim_named(i, r)
        if claim and not claims().has(claim) then needs[#needs + 1], needs[#needs + 2] = 'k', claim end
        if find('CORnxXm', kind, 1, true) then account = r and r.account ~= '' and r.account end
        if account and not account_of(account) then
            needs[#needs + 1], needs[#needs + 2] = 'a', account
        end
    end
end

-- Adds the records that changed to `granted`, `ended` and `gone`.
function slow_path.write_down()
    local granted, ended, gone = batch.granted, batch.ended, batch.gone
    for w = 1, #written do
        local id = written[w]
        local r = records[id]
        local owned_by = r.origin .. ' ' .. r.account
        if r.state == 'L' or r.tombstone then
            granted[#granted + 1] = id
            granted[#granted + 1] = r.tombstone and format('%d', now + TOMBSTONE_KEPT) .. ' T ' .. owned_by
                or r.expires .. ' ' .. r.amount .. ' ' .. owned_by .. ' ' .. r.rest
        else
            ended[#ended + 1] = id
            ended[#ended + 1] = r.state == 'C' and r.amount .. ' ' .. owned_by
                or r.state .. ' ' .. r.origin .. ' ' .. r.amount .. ' ' .. r.account
            gone[#gone + 1] = id
        end
    end
end

-- Writes the claims that changed.
function slow_path.write_claims()
    if claims_of_calls then claims_of_calls.write() end
end

return slow_path
