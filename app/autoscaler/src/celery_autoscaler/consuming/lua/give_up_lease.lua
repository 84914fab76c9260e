-- KEYS: the worker's record, its hash, the set of workers.  ARGV: worker id.
-- Returns how many messages are recorded.
-- Invariant: a lease is given up only with an empty record; until then others know where to look.

local left = redis.call('HLEN', KEYS[1])
if left == 0 then
    redis.call('DEL', KEYS[2])
    redis.call('ZREM', KEYS[3], ARGV[1])
end
return left
