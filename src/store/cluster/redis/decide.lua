-- Decides one batch of operations on holds and adds it to the stream.
--
-- Interface. This file follows layout.lua, which describes its argument, the table `ledger`.
--
-- In, ARGV[1]: a MessagePack array of
--    1 owner       the incarnation of the gateway that asks
--    2 durable     the newest batch that Postgres has, as far as the gateway knows
--    3 cap         the unsynced cap in micro-credits; 0: none
--    4 ttl         how long a call's hold lives, in ms
--    5 oldest      when the oldest id of the calls' holds below was made, in ms since 1970
--    6 ids         the hold ids, one for each operation, at most 1024
--    7 kinds       one for each operation: j for a call's hold on terms[j]; -j for a call's capture on terms[j];
--                  j + #terms for an operation that lines[j] describes. Holds and captures of calls are the usual
--                  operations; if a batch has any, its ids are all different. Such a capture counts even above its
--                  hold.
--    8 terms       "amount origin account owner route"
--    9 amounts     of each of the terms, as a number
--   10 places      of each of the terms, the place of its account in keys
--   11 keys        of the accounts that terms name
--   12 lines       "kind account amount origin ttl made route": h hold, g extend to this amount, n renew, c capture
--                  (C: no account is named), o capture even above the hold (O: no account is named), r release (R: no
--                  account is named), x expire if due, X expire, b balance. `made` is when a call's id was made, 0 if
--                  that is not known. And m mark a claim, l record that the client left.
--   13 claims      only where an operation has one: its place (from 1), and its words, which claims.lua describes; …
-- Amounts in texts have 16 digits.
-- In, ARGV[2]: the same operations in the words of the stream (batch_log.rs), with claims and what metered calls used.
--
-- Out, an array of
--    1 seq         the newest batch     2 durable  the newest durable batch
--    3 replicas    1 if another Redis could take the place of this one, else 0
--    4 head        the text in front of ARGV[2] in the stream; '' where nothing changed
--    5 balances    balance and held of each of the keys, as they were before
-- and, unless every operation was a usual one and took effect exactly as asked,
--    6 decided     how many operations were decided
--    7 decisions   five numbers for each decision that does not follow from the above: place of the operation
--                  (from 0); verdict (slow_path.lua); two more, usually balance and held; place of the account in
--                  keys that these two belong to (0: in none)
--    8 needs       what is missing here before the rest can be decided: 'a', account, 'i', hold id, 'k', claim, 'l', id
--                  of calls that were left, …
--    9 api_ends    five texts for each end of an API hold: place of the operation (from 0), captured, released,
--                  account, route
--   10 claimed     two texts for each hold whose claim another call has: place of the operation (from 0), hold of that
--                  call
--
-- The stream gets an entry "<number of the epoch>-<seq>" with the field b: the head, a newline, ARGV[2]. The head
-- is "time ttl codes", with an outcome code for each operation that was decided: h or c, it took effect as asked;
-- +, the next line says what happened; a point, nothing changed. A single * stands for all of them where every
-- operation took effect as asked. Then the lines for each +.
--
-- Example. Gateway 3 asks for two holds of 5 credits for alice, who has 20 with 5 on hold, and captures 4 of that
-- older hold, on the route "/a b". (The ids are shortened, and | stands for a newline.)
--   ARGV[1]      [3, 40, 0, 60000, 1795412683000, [id-1, id-2, id-3], [1, 1, -2],
--                ["0000000005000000 c alice 3 /a b", "0000000004000000 c alice 3 /a b"],
--                [5000000, 4000000], [1, 1], ["{s00}:7:a:alice"], []]
--     as bytes: dd 00 00 00 0c 03 28 00 cf 00 00 00 00 00 00 ea …
--   ARGV[2]      2 | 0000000005000000 c alice 3 /a b | 0000000004000000 c alice 3 /a b | h0 id-1 | h0 id-2 | c1 id-3
--   reply        [41, 40, 0, "1795412683123 60000 *", [20000000, 5000000], 3, [2, 3, 16000000, 10000000, 1], [], []]
--                The two holds follow from the balances. The capture is listed, since its hold was larger.
--   stream 7-41  1795412683123 60000 * | 2 | 0000000005000000 c alice 3 /a b | … | c1 id-3
--   LIVE         gets id-1 and id-2: "1795412743123 0000000005000000 c alice 3 /a b"; loses id-3
--   NEWER        gets id-3: "0000000004000000 c alice 3 /a b"
--   alice        balance 16000000, held 10000000, newest batch 41
--
-- Order of the writes. Everything is decided on copies. Then the batch goes into the stream, and only then is
-- anything else written: a script does not roll back, and XADD is the command that may fail (no memory).
--
-- Speed. The usual operations are decided in the loop below, without a closure and mostly without a new string:
-- in Lua these cost more than all of Redis's own work. Everything else is in slow_path.lua.
local ledger = ...
local call, sub, find, format = redis.call, string.sub, string.find, string.format
local meta, now, NUMBER, STORED = ledger.meta, ledger.now, ledger.NUMBER, ledger.STORED
local META, OUT, LIVE, NEWER, OLDER = ledger.META, ledger.OUT, ledger.LIVE, ledger.NEWER, ledger.OLDER

local MAX = 9007199254740992 -- 2^53: up to here a Lua number counts exactly
local FRESH = 60000 -- the id of a call that is newer (ms) cannot have ended and been forgotten
local ENDED_KEPT = 120000 -- for so long (ms), at least, ended holds are remembered here
local CAPTURED = 3 -- a verdict of slow_path.lua

-- An account in a batch is an array: whether the batch has changed it, its key, its place in `keys` (0: none), and
-- then the values of STORED.
local CHANGED, KEY, PLACE, BALANCE, HELD, GRANTS, SEQ = 1, 2, 3, 4, 5, 6, 7
local OLD, BORDER, NEW, EXISTS, FROZEN, DIGEST = 8, 9, 10, 11, 12, 14

local asked = cmsgpack.unpack(ARGV[1])
local owner, heard, cap, usual_ttl, oldest = asked[1], asked[2], asked[3], asked[4], asked[5]
local ids, kinds, terms, amounts, places = asked[6], asked[7], asked[8], asked[9], asked[10]
local keys, lines = asked[11], asked[12]
local n, usual_kinds = #ids, #terms

local seq, durable = meta[3] + 0, meta[4] + 0
if heard > durable then
    durable = heard
    call('HSET', META, 'durable', format('%d', durable))
end

-- The records of the ids: live holds, and ended ones.
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

-- The accounts by their places; false for one that is not in Redis.
local function account_in(key, value, place)
    local a = { false, key, place, struct.unpack(STORED, value) }
    if cap == 0 or durable >= a[SEQ] then
        a[OLD], a[BORDER], a[NEW] = 0, a[SEQ], 0
    elseif durable >= a[BORDER] then
        a[OLD], a[BORDER], a[NEW] = a[NEW], a[SEQ], 0
    end
    return a
end
local accounts, balances, changed = {}, {}, {}
if usual_kinds > 0 then
    local values = call('MGET', unpack(keys))
    for place = 1, #keys do
        local a = values[place] and account_in(keys[place], values[place], place)
        accounts[place] = a
        balances[2 * place - 1], balances[2 * place] = a and a[BALANCE] or 0, a and a[HELD] or 0
    end
end

-- The writes to come: fields and values for HSET, fields for HDEL.
local granted, ended, gone = {}, {}, {}
local grants, ends, going = 0, 0, 0
local moved = false -- whether anything has changed

local stamp = format('%d', now)
local fresh = now - oldest <= FRESH
local holds, deadline = {}, nil -- records of new holds, by terms; and how they begin

-- The first operation that needs them makes these: the table that is passed to slow_path.lua, the
-- functions that it returns, and two lists, to which the loop below then adds too.
local batch, slow_path, codes, decisions

-- Decides in order, and stops at the first operation that cannot be decided: later ones may depend on
-- it.
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
            if held and amount <= held and a[BALANCE] >= amount - MAX then
                usual = true
                a[BALANCE], a[HELD] = a[BALANCE] - amount, a[HELD] - held
                local id = ids[i]
                ended[ends + 1], ended[ends + 2] = id, asked_of
                ends = ends + 2
                going = going + 1
                gone[going] = id
                if codes then codes[i] = 99 end -- c
                if held ~= amount then
                    decisions = decisions or {}
                    local d = #decisions
                    decisions[d + 1], decisions[d + 2] = decided, CAPTURED
                    decisions[d + 3], decisions[d + 4], decisions[d + 5] = a[BALANCE], a[HELD], a[PLACE]
                end
            end
        end
    elseif j <= usual_kinds then
        a = accounts[places[j]]
        local amount = amounts[j]
        if a and fresh and amount <= a[BALANCE] - a[HELD] and not live[i] and not past[i] and a[FROZEN] == 0
            and (cap == 0 or a[OLD] + a[NEW] + amount <= cap) then
            usual = true
            a[HELD], a[NEW] = a[HELD] + amount, a[NEW] + amount
            local hold = holds[j]
            if not hold then
                deadline = deadline or format('%d ', now + usual_ttl)
                hold = deadline .. terms[j]
                holds[j] = hold
            end
            granted[grants + 1], granted[grants + 2] = ids[i], hold
            grants = grants + 2
            if codes then codes[i] = 104 end -- h
        end
    end
    if usual then
        moved = true
        if not a[CHANGED] then
            a[CHANGED] = true
            changed[#changed + 1] = a
        end
    else
        if not slow_path then
            codes, decisions = {}, decisions or {}
            for k = 1, decided do codes[k] = kinds[k] > 0 and 104 or 99 end
            batch = {
                ledger = ledger, account_in = account_in,
                owner = owner, cap = cap, usual_ttl = usual_ttl,
                ids = ids, kinds = kinds, terms = terms, keys = keys, lines = lines, claims = asked[13],
                live = live, past = past, accounts = accounts,
                changed = changed, granted = granted, ended = ended, gone = gone,
                codes = codes, decisions = decisions, noted = {}, needs = {}, api_ends = {}, claimed = {},
                moved = false,
            }
            slow_path = (function(...) -- luacheck: ignore 212
                --@slow_path.lua
            end)(batch)
        end
        if not slow_path.decide(i) then break end
    end
    decided = i
end
if decided < n then slow_path.look_ahead(decided) end
if slow_path then
    slow_path.write_down()
    moved = moved or batch.moved
end

local head = ''
if moved then
    seq = seq + 1
    local number = format('%d', seq)
    head = stamp .. ' ' .. usual_ttl .. ' '
    if slow_path then
        local noted = batch.noted
        noted[0] = head .. string.char(unpack(codes, 1, decided))
        head = table.concat(noted, '\n', 0)
    else
        head = head .. '*'
    end
    call('XADD', OUT, NUMBER .. '-' .. number, 'b', head .. '\n' .. ARGV[2])
    call('HSET', META, 'seq', number)
end
if granted[1] then call('HSET', LIVE, unpack(granted)) end
if ended[1] then call('HSET', NEWER, unpack(ended)) end
if gone[1] then call('HDEL', LIVE, unpack(gone)) end
if slow_path then slow_path.write_claims() end
if #changed > 0 then
    local values = {}
    for c = 1, #changed do
        local a = changed[c]
        values[2 * c - 1], values[2 * c] = a[KEY], struct.pack(STORED, a[BALANCE], a[HELD], a[GRANTS], seq,
            a[OLD], a[BORDER], a[NEW], a[EXISTS], a[FROZEN], now, a[DIGEST])
    end
    call('MSET', unpack(values))
end

-- Begins the next hash of ended holds once this one is old enough. So when a hold is forgotten, it
-- ended at least that long ago, even if the clock was changed.
local age = now - (meta[6] or 0)
if moved and age >= ENDED_KEPT then
    -- One long value makes Redis keep the hash as a table; a small one would be a list that is searched from its
    -- start.
    local long = 'without a value as long as this one, a small hash would be kept as a list'
    call('UNLINK', OLDER)
    call('HSET', OLDER, ' ', long)
    call('HSET', LIVE, ' ', long)
    call('HSET', META, 'ended', meta[5] == '1' and '0' or '1', 'since', stamp)
elseif age < 0 then
    call('HSET', META, 'since', stamp)
end

local replicas = find(ledger.info, 'connected_slaves:0', 1, true) and 0 or 1
if not decisions and decided == n then return { seq, durable, replicas, head, balances } end
if not batch then return { seq, durable, replicas, head, balances, decided, decisions, {}, {}, {} } end
return { seq, durable, replicas, head, balances, decided, decisions, batch.needs, batch.api_ends, batch.claimed }
