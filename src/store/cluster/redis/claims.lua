-- The claims of calls under an Idempotency-Key, and retries of calls that their clients left.
--
-- Interface. The body of a function in the middle of slow_path.lua, made only where a batch has claims. Its arguments:
--   batch                               the table that slow_path.lua describes
--   note(i, …)                          writes a line of the stream's head for an operation
--   record_of(id)                       the record of a hold, as the batch has left it; false where it must be loaded
-- The words of an operation on a claim, in member 13 of ARGV[1]:
--   k claim mark keep                   a hold that makes a claim; the mark is - where the request is not known yet;
--                                       keep: ms. The stream has these words as well, behind the operation's id.
--   r id                                a hold for a retry, which hears of a call that was left with this id
--   s claim                             the end of a hold, which settles its claim
--   m claim mark                        marks a claim
--   l id                                records that a client left
-- Returns a table of functions. See each.
local batch, note, record_of = ...
local call, match, gmatch, format = redis.call, string.match, string.gmatch, string.format
local ledger, ids = batch.ledger, batch.ids
local now, META, CLAIM, LEFT = ledger.now, ledger.META, ledger.CLAIM, ledger.LEFT

local LEFT_FOR = 120000 -- for so long (ms) after a client left, a retry hears of its call
local MOST_LEFT = 100 -- calls that are remembered with one id
local LATE_KEPT = 86400000 -- for so long (ms) a late charge keeps a claim whose own time is not known any more
local RUNS_FOR = 86400000 -- a claim in its time has a key for so much longer (ms), for a call that runs on

local words = {}
for c = 1, batch.claims and #batch.claims or 0, 2 do words[batch.claims[c]] = batch.claims[c + 1] end

-- Whether Postgres may have claims (1), or calls that were left (2), that Redis lost with an earlier epoch.
local cold
local function may_be_cold(which)
    cold = cold or call('HMGET', META, 'claims', 'left')
    return now < tonumber(cold[which] or 0)
end

-- The claims by their ids, as the batch has left them: state R, C or F (free). False for one that must be loaded.
local known, changed = {}, {}
local function claim_of(id)
    local c = known[id]
    if c == nil then
        local value = call('GET', CLAIM .. id)
        if value then
            local state, ends, hold, mark = match(value, '^(%a) (%d+) (%S+) (%S+)$')
            c = { state = state == 'N' and 'F' or state, ends = tonumber(ends), hold = hold, mark = mark }
            if state == 'C' and c.ends <= now then c.state = 'F' end
        else
            c = not may_be_cold(1) and { state = 'F' }
        end
        known[id] = c
    end
    return c
end
local function set_claim(id, claim)
    known[id] = claim
    changed[#changed + 1] = id
end

-- The calls that were left with an id, oldest first. False where they must be loaded.
local lists, changed_lists, left_now = {}, {}, {}
local function left_with(id)
    local list = lists[id]
    if list == nil then
        local value = call('GET', LEFT .. id)
        list = (value or not may_be_cold(2)) and {}
        for hold, ends, used in gmatch(value or '', '(%S+) (%d+) (%d)') do
            list[#list + 1] = { hold = hold, ends = tonumber(ends), used = used }
        end
        lists[id] = list
    end
    return list
end

-- How the call stands that has a claim: R, C, or F where it has none after all. Nothing where its hold must be loaded.
local function state_of(c)
    if c.state ~= 'R' then return c.state end
    local r = record_of(c.hold)
    if not r then return end
    if r.state == 'L' then return 'R' end
    return r.state == 'C' and c.ends > now and 'C' or 'F'
end

local claims = {}

-- True for an operation with words.
function claims.is_of(i) return words[i] ~= nil end

-- The claim that a hold makes, or that the end of a hold settles.
function claims.named(i) return words[i] and match(words[i], '^[ks] (%x+)') end

-- Whether this claim is known here, so that it can be changed.
function claims.has(id) return claim_of(id) ~= false end

-- How another call stands that has what this hold asks for: its state R (it runs), C (charged) or M (another request),
-- and its hold; F where there is none. Returns nil, and what is missing, where something must be loaded first.
function claims.look(i)
    local kind, id, mark = match(words[i], '^(%a) (%x+) ?(%S*)')
    if kind == 'k' then
        local c = claim_of(id)
        if not c then return nil, 'k', id end
        local state = state_of(c)
        if not state then return nil, 'i', c.hold end
        if state ~= 'F' and mark ~= '-' and c.mark ~= '-' and mark ~= c.mark then state = 'M' end
        return state, c.hold
    end
    local list = left_with(id)
    if not list then return nil, 'l', id end
    for _, left in ipairs(list) do
        if left.used == '0' and left.ends > now then
            local r = record_of(left.hold)
            if not r then return nil, 'i', left.hold end
            if r.state == 'L' or r.state == 'C' then return r.state == 'L' and 'R' or 'C', left.hold end
        end
    end
    return 'F'
end

-- Tells the hold of another call that look() found. A retry uses up the charged call that it hears of.
function claims.hear(i, state, hold)
    local claimed = batch.claimed
    claimed[#claimed + 1], claimed[#claimed + 2] = format('%d', i - 1), hold
    local id = match(words[i], '^r (%x+)')
    if not id or state ~= 'C' then return end
    for _, left in ipairs(left_with(id)) do
        if left.hold == hold then left.used = '1' end
    end
    changed_lists[#changed_lists + 1] = id
    note(i, 'u', hold, id)
end

-- Gives the claim to the hold that was granted just now.
function claims.make(i)
    local id, mark, keep = match(words[i], '^k (%x+) (%S+) (%d+)')
    set_claim(id, { state = 'R', ends = now + tonumber(keep), hold = ids[i], mark = mark })
end

-- The end of a hold: a charged call keeps its claim, any other gives it up. has() must be true.
function claims.settle(id, hold, is_charged)
    local c = claim_of(id)
    if c.state == 'F' then
        if not is_charged then return end
        -- The charge is late: the claim went when the hold expired.
        c = { ends = now + LATE_KEPT, hold = hold, mark = '-' }
    elseif c.hold ~= hold or c.state == 'C' then
        return
    end
    set_claim(id, { state = is_charged and c.ends > now and 'C' or 'F', ends = c.ends, hold = hold, mark = c.mark })
end

-- Marks a claim that is still this hold's. False where the claim must be loaded first.
function claims.mark(i)
    local id, mark = match(words[i], '^m (%x+) (%x+)')
    local c = claim_of(id)
    if c and c.state ~= 'F' and c.hold == ids[i] and c.mark == '-' then
        set_claim(id, { state = c.state, ends = c.ends, hold = c.hold, mark = mark })
        note(i, 'm', c.hold, id, mark)
    end
    return c and true
end

-- Records that the client of this hold's call left. False where the list must be loaded first.
function claims.leave(i)
    local id = match(words[i], '^l (%x+)')
    local list = left_with(id)
    if not list then return false end
    local is_known = call('EXISTS', LEFT .. '/' .. ids[i]) == 1
    for _, left in ipairs(list) do is_known = is_known or left.hold == ids[i] end
    if not is_known and #list < MOST_LEFT then
        left_now[#left_now + 1] = ids[i]
        list[#list + 1] = { hold = ids[i], ends = now + LEFT_FOR, used = '0' }
        changed_lists[#changed_lists + 1] = id
        note(i, 'l', ids[i], id, format('%d', now + LEFT_FOR))
    end
    return true
end

-- Returns the kind and the name of the record that must be loaded into Redis before this operation can be decided; nil
-- where there is none.
function claims.lacks(i)
    local kind, id = match(words[i], '^(%a) (%x+)')
    if kind == 'k' or kind == 'r' then
        local state, what, name = claims.look(i)
        if not state then return what, name end
    elseif kind == 'l' then
        if not left_with(id) then return 'l', id end
    elseif not claim_of(id) then
        return 'k', id
    end
end

-- Writes what changed.
function claims.write()
    for _, id in ipairs(changed) do
        local c = known[id]
        if c.state == 'F' then
            call('UNLINK', CLAIM .. id)
        else
            local value = c.state .. ' ' .. format('%d', c.ends) .. ' ' .. c.hold .. ' ' .. c.mark
            local longer = c.state == 'R' and RUNS_FOR or 0
            call('SET', CLAIM .. id, value, 'PX', format('%d', math.max(c.ends - now, 0) + longer))
        end
    end
    for _, id in ipairs(changed_lists) do
        local some, newest = {}, 0
        for _, left in ipairs(lists[id]) do
            if left.ends > now then
                some[#some + 1] = left.hold .. ' ' .. format('%d', left.ends) .. ' ' .. left.used
                newest = math.max(newest, left.ends)
            end
        end
        if newest > now then
            call('SET', LEFT .. id, table.concat(some, ' '), 'PX', format('%d', newest - now))
        end
    end
    for _, hold in ipairs(left_now) do call('SET', LEFT .. '/' .. hold, '', 'PX', LEFT_FOR) end
end

return claims
