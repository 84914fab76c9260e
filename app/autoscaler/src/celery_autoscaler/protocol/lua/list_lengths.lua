-- KEYS: lists.  Returns their lengths: one reply to read instead of one for each list; -1 for what is no list.

local lengths = {}
for i, key in ipairs(KEYS) do
    local length = redis.pcall('LLEN', key)
    lengths[i] = type(length) == 'number' and length or -1
end
return lengths
