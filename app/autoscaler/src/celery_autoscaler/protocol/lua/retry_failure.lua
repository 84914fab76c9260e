-- KEYS: the hash of failures that were retried, the list.  ARGV: the failure's entry, who retries it, seconds
-- to keep that, the message.
-- Returns whether the message was sent.
-- Invariant: a failure is retried once, however many retry it. The message is pushed before that is noted: a
-- server that refuses the push notes nothing.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
local pushed = redis.pcall('LPUSH', KEYS[2], ARGV[4])
if type(pushed) ~= 'number' then return pushed end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
