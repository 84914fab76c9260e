-- KEYS: lists.  ARGV: messages of each, bytes of a message's beginning, of its end, and of all together.
-- Returns for each list its sample, the next to be taken first: a message, or the two ends of a large one.

local left = tonumber(ARGV[4])
local head, tail = tonumber(ARGV[2]), tonumber(ARGV[3])
local samples = {}
for i, key in ipairs(KEYS) do
    local sample = {}
    for n = 1, tonumber(ARGV[1]) do
        local message = left > 0 and redis.pcall('LINDEX', key, -n)
        if type(message) ~= 'string' then break end
        left = left - #message
        if #message > head + tail then
            message = {string.sub(message, 1, head), string.sub(message, -tail)}
        end
        sample[n] = message
    end
    samples[i] = sample
end
return samples
