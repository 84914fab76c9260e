-- KEYS: the worker's hash, its record, the lists by priority step and, within it, by queue.
-- ARGV: session, number of messages wanted, number of queues, whether queues take turns, prefix of the tokens.
-- Returns for each message the number of its list, its token, itself; or FENCED.
-- Invariant: who has no lease, or an older session, takes nothing: a late command of a broken connection does
-- no harm.
-- Invariant: a message is recorded before it leaves its list. A server that refuses the record ends the step
-- there, with nothing popped that is not recorded.
-- Lua unpacks a few thousand values at most. A key that is no list is passed over.

if redis.call('HGET', KEYS[1], 'session') ~= ARGV[1] then return redis.error_reply('FENCED') end
local wanted, queues, turns = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local function count(first, last)
    local found = 0
    for chunk = first, last, 1000 do
        found = found + redis.call('EXISTS', unpack(KEYS, chunk, math.min(chunk + 999, last)))
    end
    return found
end
local taken = {}
if count(3, #KEYS) == 0 then return taken end
for first = 3, #KEYS, queues do
    if #taken >= 3 * wanted then break end
    local cycle = {}
    if queues <= 10 or count(first, first + queues - 1) > 0 then
        for list = first, first + queues - 1 do cycle[#cycle + 1] = list end
    end
    local position = 1
    while position <= #cycle and #taken < 3 * wanted do
        local list = KEYS[cycle[position]]
        local message = redis.pcall('LINDEX', list, -1)
        if type(message) == 'string' then
            local token = ARGV[5] .. string.format('%03d', #taken / 3)
            local source = list
            if string.find(list, '\n', 1, true) then source = '\n' .. #list .. '\n' .. list end
            local recorded = redis.pcall('HSET', KEYS[2], token, source .. '\n' .. message)
            if type(recorded) == 'table' and recorded.err then
                if #taken == 0 then return recorded end
                return taken
            end
            redis.call('RPOP', list)
            taken[#taken + 1] = cycle[position] - 2
            taken[#taken + 1] = token
            taken[#taken + 1] = message
            if turns then
                cycle[#cycle + 1] = cycle[position]
                position = position + 1
            end
        else
            position = position + 1
        end
    end
end
return taken
