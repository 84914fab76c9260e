-- KEYS: the worker's hash, its fence, its record, the set of workers.
-- ARGV: worker id, session, milliseconds of the lease.  Returns the tokens of the record.
-- Invariant: a worker that is being rescued never comes back.

if redis.call('EXISTS', KEYS[2]) == 1 then return redis.error_reply('FENCED') end
redis.call('HSET', KEYS[1], 'session', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local now = redis.call('TIME')
redis.call('ZADD', KEYS[4], now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[3], ARGV[1])
return redis.call('HKEYS', KEYS[3])
