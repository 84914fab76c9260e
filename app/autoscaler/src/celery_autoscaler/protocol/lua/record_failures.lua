-- KEYS: the stream of failures, the hash of their kinds, that of examples, the worker's hash.
-- ARGV: the number of this telling, limits as JSON, the number of kinds; then for each kind its id, how often
-- it occurred, the worker's release, its last failure; then for each failure its kind, what it was, the message.
-- Returns whether it was recorded: a telling that was lost on the way back and is repeated counts once.
-- Invariant: the stream holds no more bytes than its limit and one failure more. Each entry has the sum of all
-- bytes up to it, so what is in between is known.
-- Whatever stands in a kind's place is replaced if it is none.

local limits = cjson.decode(ARGV[2])
if redis.call('HGET', KEYS[4], 'failures_told') == ARGV[1] then return 0 end
local now = tonumber(redis.call('TIME')[1])
local slot = math.floor(now / limits.slot)
local oldest = math.floor((now - limits.kept) / limits.slot)

local function read(text)
    if not text then return nil end
    local ok, kind = pcall(cjson.decode, text)
    if not ok or type(kind) ~= 'table' or type(kind.counts) ~= 'table' or type(kind.last) ~= 'number' then
        return nil
    end
    return kind
end

local function bytes_up_to(entry)
    local fields = entry[2]
    for at = 1, #fields, 2 do
        if fields[at] == 'total' then return tonumber(fields[at + 1]) or -math.huge end
    end
    return -math.huge
end

local grown = false
for number = 1, tonumber(ARGV[3]) do
    local id, count, release, example = unpack(ARGV, 4 * number, 4 * number + 3)
    local kind = read(redis.call('HGET', KEYS[2], id))
    if not kind or kind.last < now - limits.kept then
        kind, grown = {first = now, release = release, total = 0, counts = {}}, true
    end
    local counts = {[string.format('%d', slot)] = tonumber(count)}
    for name, before in pairs(kind.counts) do
        if (tonumber(name) or -1) >= oldest then counts[name] = (counts[name] or 0) + (tonumber(before) or 0) end
    end
    kind.counts, kind.last, kind.total = counts, now, (tonumber(kind.total) or 0) + tonumber(count)
    redis.call('HSET', KEYS[2], id, cjson.encode(kind))
    redis.call('HSET', KEYS[3], id, example)
end
if grown then
    local known, stored = {}, redis.call('HGETALL', KEYS[2])
    for at = 1, #stored, 2 do
        local kind = read(stored[at + 1])
        known[#known + 1] = {stored[at], kind and kind.last or 0}
    end
    table.sort(known, function(one, other) return one[2] > other[2] end)
    for at, kind in ipairs(known) do
        if at > limits.kinds or kind[2] < now - limits.kept then
            redis.call('HDEL', KEYS[2], kind[1])
            redis.call('HDEL', KEYS[3], kind[1])
        end
    end
end

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local total = math.max(last and bytes_up_to(last) or 0, 0)
for at = 4 * tonumber(ARGV[3]) + 4, #ARGV, 3 do
    total = total + #ARGV[at + 1] + #ARGV[at + 2]
    redis.call('XADD', KEYS[1], '*', 'total', string.format('%.0f', total),
        'kind', ARGV[at], 'failure', ARGV[at + 1], 'message', ARGV[at + 2])
end
for _ = 1, limits.trimmed do
    local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
    if not first then break end
    local seconds = tonumber(string.match(first[1], '^%d+')) / 1000
    if total - bytes_up_to(first) <= limits.bytes and seconds >= now - limits.kept then break end
    redis.call('XDEL', KEYS[1], first[1])
end
for at = 1, 3 do redis.call('EXPIRE', KEYS[at], limits.kept) end
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('HSET', KEYS[4], 'failures_told', ARGV[1]) end
return 1
