-- KEYS: the record, the set of workers, the worker's hash, the set of those that shall drain.
-- ARGV: worker id, its name.  Returns whether the worker is forgotten.
-- Invariant: a worker whose record holds something is never forgotten.

if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
redis.pcall('SREM', KEYS[4], ARGV[2])
return 1
