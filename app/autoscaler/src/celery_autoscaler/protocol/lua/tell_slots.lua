-- KEYS: the hash of a worker that stretches.
-- ARGV: the slots that it shall have, the channel on which it hears of them at once.
-- Returns whether there is such a worker. Its heartbeat reads the number again.

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'slots', ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 1
