-- KEYS: the worker's hash, its fence, the set of workers, the set of those that shall drain, its record.
-- ARGV: worker id, its name, milliseconds of the lease, 1 if it stretches, then names and values of the heartbeat.
-- Returns FENCED, or whether the worker shall drain, whose leases have run out, whether its own had, how many
-- messages are recorded, and the slots that it was told to have, '' if none.
-- A full server refuses to write the heartbeat; the lease is extended nevertheless.

if redis.call('EXISTS', KEYS[2]) == 1 then return redis.error_reply('FENCED') end
local late = 1 - redis.call('EXISTS', KEYS[1])
local told = redis.pcall('HSET', KEYS[1], unpack(ARGV, 5))
if type(told) == 'table' and told.err and string.find(told.err, 'WRONGTYPE', 1, true) then return told end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.pcall('ZADD', KEYS[3], now + ARGV[3], ARGV[1])
local dead = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)
local slots = ARGV[4] == '1' and redis.call('HGET', KEYS[1], 'slots') or ''
return {redis.call('SISMEMBER', KEYS[4], ARGV[2]), dead, late, redis.call('HLEN', KEYS[5]), slots}
