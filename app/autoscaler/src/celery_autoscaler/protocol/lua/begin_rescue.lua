-- KEYS: the worker's hash, its fence.  ARGV: seconds for which the fence stands, whether its death is certain.
-- Invariant: no worker is rescued while its lease lives, and a worker under rescue can never renew it.

if ARGV[2] == '1' then redis.call('DEL', KEYS[1]) end
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SET', KEYS[2], '1', 'EX', ARGV[1])
return 1
