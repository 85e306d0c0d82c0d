-- policy::ban::Decision::outweighs
-- KEYS: the decisions. ARGV: the network, what was decided of it.

local function read_decision(line)
    if not line then return nil end
    local form, what, reason, begin, till = string.match(line, '^(%d+) (%S+) (%S+) %d+ %d+ (%d+) (%d+) %S+ ')
    begin, till = number(begin, 9e15), number(till, 9e15)
    if form ~= '1' or not begin or not till then return nil end
    return { is_operators = reason == 'operator', is_lifted = what == 'lifted', begin = begin, ['until'] = till }
end

local function stands_against(one, other)
    local was_said = one.is_operators and not one.is_lifted
    return was_said and not other.is_operators and (one['until'] == 0 or one['until'] > other.begin)
end

local function outweighs(one, other)
    local stands = stands_against(one, other)
    if stands ~= stands_against(other, one) then return stands end
    if one.begin ~= other.begin then return one.begin > other.begin end
    if one.is_operators ~= other.is_operators then return one.is_operators end
    if (one['until'] == 0) ~= (other['until'] == 0) then return one['until'] == 0 end
    return one['until'] > other['until']
end

local there, line = redis.call('HGET', KEYS[1], ARGV[1]), ARGV[2]
local known, said = read_decision(there), read_decision(line)
if known and not (said and outweighs(said, known)) then
    return { there, '' }
end
redis.call('HSET', KEYS[1], ARGV[1], line)
tell('decision', ARGV[1], line)
return { line, 'kept' }
