-- KEYS: a hash.  ARGV: fields and bytes of a value beyond which nothing is read.
-- Returns fields and values in turn, nothing instead of a value that is too long; -1 for too many fields.

local key, call, found = KEYS[1], redis.call, {}
if call('HLEN', key) > tonumber(ARGV[1]) then return -1 end
for _, name in ipairs(call('HKEYS', key)) do
    local short = call('HSTRLEN', key, name) <= tonumber(ARGV[2])
    found[#found + 1], found[#found + 2] = name, short and call('HGET', key, name)
end
return found
