-- policy::guard::Network
-- KEYS: the network. ARGV: now, rules, dice, client.

local OFFENDERS = 16

local function read_network(line, now)
    local none = { step = { level = 0, ['until'] = 0 }, ends = 0, offenders = { since = 0, ones = {} } }
    local w = words(line, 5)
    local n = w and numbers(w, 1, 4)
    if not n or n[1] > 255 or n[3] <= now then return none end
    local offenders = list(w[5])
    if #offenders > OFFENDERS then return none end
    return { step = { level = n[1], ['until'] = n[2] }, ends = n[3], offenders = { since = n[4], ones = offenders } }
end

local now, rules, dice = number(ARGV[1]), rules_of(ARGV[2]), number(ARGV[3])
local network = read_network(redis.call('GET', KEYS[1]), now)
local count = few_add(network.offenders, ARGV[4], OFFENDERS, rules.neighbours.within, now)
local sentence = ''
if is_reached(rules.neighbours, count, 1) and network.step['until'] <= now then
    network.step = ladder_climb(rules.ladder, network.step, now, dice)
    network.offenders = { since = 0, ones = {} }
    sentence = table.concat(
        { 'neighbours', whole(count), whole(network.step.level), whole(network.step['until']) }, ' ')
end
network.ends = math.max(
    few_ends(network.offenders, rules.neighbours.within), ladder_forgotten(rules.ladder, network.step))
local line = table.concat({
    '1', whole(network.step.level), whole(network.step['until']), whole(network.ends),
    whole(network.offenders.since), joined(network.offenders.ones),
}, ' ')
keep(KEYS[1], line, network.ends, now)
return { line, sentence }
