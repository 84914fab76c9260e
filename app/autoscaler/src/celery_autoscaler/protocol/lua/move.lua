-- KEYS: the record, the destinations.  ARGV: `LPUSH` or `RPUSH`, then for each message its token, its payload.
-- Returns how many were moved, then the numbers of those whose destination is no list.
-- Invariant: a message is in the record or in a list, never in neither and never in both. It is pushed first:
-- a full server refuses that, and then the record stays as it is.

local answer = {0}
for i = 2, #KEYS do
    local token, payload = ARGV[2 * i - 2], ARGV[2 * i - 1]
    if redis.call('HEXISTS', KEYS[1], token) == 1 then
        local pushed = redis.pcall(ARGV[1], KEYS[i], payload)
        if type(pushed) == 'number' then
            redis.call('HDEL', KEYS[1], token)
            answer[1] = answer[1] + 1
        elseif string.find(pushed.err, 'WRONGTYPE', 1, true) then
            answer[#answer + 1] = i - 1
        else
            return pushed
        end
    end
end
return answer
