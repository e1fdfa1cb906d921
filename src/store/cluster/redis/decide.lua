-- Decides one batch. In front of this text stands layout.lua, and unusual.lua in its middle.
--
-- Everything is decided on copies first; then the batch goes into the stream, and only then is
-- anything else written: a script does not roll back, and XADD is what may fail (no memory).
--
-- The usual operations, a call's hold and a call's capture, are decided without a closure or a string
-- made for it where that can be: in Lua these cost more than all of Redis's own work.
--
-- ARGV[1], packed: the incarnation that asks; up to which batch it knows Postgres to be; the unsynced cap
-- in micro-credits (0: none); for how long a usual hold lives; when the oldest id of the usual holds was
-- made; and the operations, at most 1024: ids; kinds; terms; of each of the terms the amount and the place
-- of its account; the keys of these accounts; lines. A kind is a number:
--   j: a call's hold on terms[j];  -j: a call's capture on terms[j];  j + #terms: lines[j] tells.
-- Terms: "amount origin account owner route". The first two kinds are the usual ones; where they occur,
-- no id is there twice. A line: "kind account amount origin ttl made route", its
-- kind: h hold, n renew, c capture (C: without an account), r release (R: without), x expire if it
-- is due, X expire, b balance. made: when a call's id was made (0: not known). Amounts have 16 digits.
-- ARGV[2]: the same operations as they are to stand in the stream.
--
-- Answers: the newest batch; the durable one; 1 if a replica might take this Redis's place; what stands in
-- the stream in front of ARGV[2], '' where nothing changed; and balance and held of each account whose key
-- was given, as they were. That is all where every operation was a usual one and was done as it was asked.
-- Otherwise also how many were decided; of each decision that was not that: its place, its number, two
-- more, and the place of the account that now has these two for balance and held (0: of none); what must
-- be brought here before the rest can be decided: 'a', account, 'i', id, …; of each of the API's holds that
-- an operation ended: the operation's place, what was captured, what was given back, and the route.
--
-- In the stream: "time ttl letters", with a letter for each operation that was decided (h, c: as it was
-- asked; +: the next line tells; a point: nothing) or * where all were done as they were asked; these
-- lines; ARGV[2].
local MAX = 9007199254740992 -- 2^53: what a number can count
local FRESH, STALE = 60000, 86400000 -- a call's id: needs no look-up; the clock that made it is wrong
local ENDED_KEPT, TOMBSTONE_KEPT = 120000, 90000000
local ZEROES = '0000000000000000'

local HELD, RENEWED, CAPTURED, LATE, RELEASED, BALANCE, NOBODY = 1, 2, 3, 4, 5, 6, 7
local INSUFFICIENT, CONFLICT, ENDED, UNKNOWN, ABOVE, ZERO, RANGE = 8, 9, 10, 11, 12, 13, 14
local FROZEN, CAPPED, EXPIRED, FROZENBALANCE = 15, 16, 17, 18
local UNAVAILABLE = 0

local asked = cmsgpack.unpack(ARGV[1])
local owner, heard, cap, usual_ttl, oldest = asked[1], asked[2], asked[3], asked[4], asked[5]
local ids, kinds, terms, amounts, places = asked[6], asked[7], asked[8], asked[9], asked[10]
local keys, lines = asked[11], asked[12]
local n, usual_kinds = #ids, #terms

local seq, durable = meta[3] + 0, meta[4] + 0
if heard > durable then
    durable = heard
    -- First what frees memory: without any, nothing else can be written.
    call('XTRIM', OUT, 'MINID', NUMBER .. '-' .. format('%d', durable))
    call('HSET', META, 'durable', format('%d', durable))
end

-- What is known of the ids: of live holds, and of those that ended.
local live, past = call('HMGET', LIVE, unpack(ids)), {}
local others, count = {}, 0
for i = 1, n do
    if not live[i] then
        count = count + 1
        others[count] = ids[i]
    end
end
if count > 0 then
    local newer, older = call('HMGET', NEWER, unpack(others)), call('HMGET', OLDER, unpack(others))
    local other = 0
    for i = 1, n do
        if not live[i] then
            other = other + 1
            past[i] = newer[other] or older[other]
        end
    end
end

-- Accounts by their places: a table where it is here, false where it is cold.
local function account_in(key, value, place)
    local a = { false, key, place, struct.unpack(STORED, value) }
    if cap == 0 or durable >= a[S] then
        a[OLD], a[UPTO], a[NEW] = 0, a[S], 0
    elseif durable >= a[UPTO] then
        a[OLD], a[UPTO], a[NEW] = a[NEW], a[S], 0
    end
    return a
end
local accounts, balances, changed = {}, {}, {}
if usual_kinds > 0 then
    local values = call('MGET', unpack(keys))
    for place = 1, #keys do
        local a = values[place] and account_in(keys[place], values[place], place)
        accounts[place] = a
        balances[2 * place - 1], balances[2 * place] = a and a[B] or 0, a and a[H] or 0
    end
end

-- What is going to be written: HSET and HDEL take it as it is.
local granted, ended, gone = {}, {}, {}
local grants, ends, going = 0, 0, 0
local letters, noted, decisions, needs, api_ends -- of what is not usual
local moved = false

local stamp, deadline = format('%d', now), format('%d ', now + usual_ttl)
local fresh = now - oldest <= FRESH
local holds = {} -- by terms

-- In order, up to the first that cannot be decided: what follows may depend on it.
local otherwise, look_ahead, write_down -- in unusual.lua
local decided = 0
while decided < n do
    local i = decided + 1
    local j = kinds[i]
    local usual, a = false, nil
    if j < 0 then
        j = -j
        a = accounts[places[j]]
        local hold, amount, asked_of, held = live[i], amounts[j], terms[j], nil
        if hold and a then
            if sub(hold, 15) == asked_of then
                held = amount
            elseif sub(hold, 32) == sub(asked_of, 18) then
                held = tonumber(sub(hold, 15, 30))
            end
            if held and amount <= held and a[B] >= amount - MAX then
                usual = true
                a[B], a[H] = a[B] - amount, a[H] - held
                local id = ids[i]
                ended[ends + 1], ended[ends + 2] = id, asked_of
                ends = ends + 2
                going = going + 1
                gone[going] = id
                if letters then letters[i] = 99 end
                if held ~= amount then
                    decisions = decisions or {}
                    local d = #decisions
                    decisions[d + 1], decisions[d + 2] = decided, CAPTURED
                    decisions[d + 3], decisions[d + 4], decisions[d + 5] = a[B], a[H], a[PLACE]
                end
            end
        end
    elseif j <= usual_kinds then
        a = accounts[places[j]]
        local amount = amounts[j]
        if a and fresh and amount <= a[B] - a[H] and not live[i] and not past[i] and a[F] == 0
            and (cap == 0 or a[OLD] + a[NEW] + amount <= cap) then
            usual = true
            a[H], a[NEW] = a[H] + amount, a[NEW] + amount
            local hold = holds[j]
            if not hold then
                hold = deadline .. terms[j]
                holds[j] = hold
            end
            granted[grants + 1], granted[grants + 2] = ids[i], hold
            grants = grants + 2
            if letters then letters[i] = 104 end
        end
    end
    if usual then
        moved = true
        if not a[CHANGED] then
            a[CHANGED] = true
            changed[#changed + 1] = a
        end
    else
        if not otherwise then
            --@unusual.lua
        end
        if not otherwise(i) then break end
    end
    decided = i
end
if decided < n then look_ahead() end
if write_down then write_down() end

local head = ''
if moved then
    seq = seq + 1
    local number = format('%d', seq)
    head = stamp .. ' ' .. usual_ttl .. ' '
    if letters then
        noted[0] = head .. string.char(unpack(letters, 1, decided))
        head = table.concat(noted, '\n', 0)
    else
        head = head .. '*'
    end
    call('XADD', OUT, NUMBER .. '-' .. number, 'b', head .. '\n' .. ARGV[2])
    call('HSET', META, 'seq', number)
end
if grants > 0 then call('HSET', LIVE, unpack(granted)) end
if ends > 0 then call('HSET', NEWER, unpack(ended)) end
if going > 0 then call('HDEL', LIVE, unpack(gone)) end
if #changed > 0 then
    local values = {}
    for c = 1, #changed do
        local a = changed[c]
        values[2 * c - 1], values[2 * c] = a[KEY], struct.pack(
            STORED, a[B], a[H], a[G], seq, a[OLD], a[UPTO], a[NEW], a[X], a[F], now)
    end
    call('MSET', unpack(values))
end

-- Begins the next hash of ended holds once this one is old enough: what is forgotten then ended at
-- least that long ago, whatever the clock did.
local age = now - (meta[6] or 0)
if moved and age >= ENDED_KEPT then
    -- One long value makes a hash a table. A small one is a list otherwise, searched from its start.
    local long = 'without a value as long as this one, a small hash would be kept as a list'
    call('UNLINK', OLDER)
    call('HSET', OLDER, ' ', long)
    call('HSET', LIVE, ' ', long)
    call('HSET', META, 'ended', OLDER == ENDED_1 and '1' or '0', 'since', stamp)
elseif age < 0 then
    call('HSET', META, 'since', stamp)
end

local replicas = find(info, 'connected_slaves:0', 1, true) and 0 or 1
if not decisions and decided == n then return { seq, durable, replicas, head, balances } end
return { seq, durable, replicas, head, balances, decided, decisions or {}, needs or {}, api_ends or {} }
