-- KEYS: the set of workers, the claims of the group.
-- ARGV: group, name of the worker, the group's maximum, milliseconds for which the claim holds.
-- Returns whether the worker may be started.
-- Invariant: living workers and claims of a group are together never more than its max_workers.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local names, count = {}, 0
local function add(name)
    if name and not names[name] then names[name] = true; count = count + 1 end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
    local name = string.match(id, '^(.*):')
    if name and string.match(name, '^(.*)%-%d+@') == ARGV[1] then add(name) end
end
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do add(name) end
if names[ARGV[2]] or count >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[2])
return 1
