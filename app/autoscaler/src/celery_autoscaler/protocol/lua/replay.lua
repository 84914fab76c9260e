-- KEYS: the dead letters, the list.  ARGV: the letter, its message.
-- Invariant: a letter is replayed once, however many replay it. It is pushed before it is removed: a server
-- that refuses the push leaves it where it is. Nothing is taken out of the list, which the supervisor's user
-- may not do.

if not redis.call('LPOS', KEYS[1], ARGV[1]) then return 0 end
local pushed = redis.pcall('LPUSH', KEYS[2], ARGV[2])
if type(pushed) ~= 'number' then return pushed end
return redis.call('LREM', KEYS[1], 1, ARGV[1])
