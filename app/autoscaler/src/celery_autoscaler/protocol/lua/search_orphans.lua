-- KEYS: the turn, the position, the set of workers, how many were found so far.
-- ARGV: milliseconds of a turn, pattern of the records' names, how many names to look at, length of what is
-- before the worker id in a name, milliseconds of grace.
-- Returns the ids that were entered, and how many were found so far.
-- Invariant: who opens a session enters itself before it records anything, so a living one is in the set.

local found = {}
if redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then
    local position = redis.call('GET', KEYS[2]) or '0'
    local reply = redis.call('SCAN', position, 'MATCH', ARGV[2], 'COUNT', ARGV[3])
    redis.call('SET', KEYS[2], reply[1], 'EX', 86400)
    local now = redis.call('TIME')
    local due = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[5]
    for _, name in ipairs(reply[2]) do
        local worker = string.sub(name, ARGV[4] + 1)
        local is_record = redis.call('TYPE', name).ok == 'hash'
        if is_record and redis.call('ZADD', KEYS[3], 'NX', due, worker) == 1 then
            found[#found + 1] = worker
        end
    end
    if #found > 0 then redis.call('INCRBY', KEYS[4], #found) end
end
return {found, tonumber(redis.call('GET', KEYS[4]) or '0')}
