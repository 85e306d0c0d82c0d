-- Takes decisions out that have ended, unless something else was decided since they were read.
-- KEYS: the decisions. ARGV: pairs of network and line. Nobody is told: they all see it by themselves.
local dropped = 0
for n = 1, #ARGV - 2, 2 do
    if redis.call('HGET', KEYS[1], ARGV[n]) == ARGV[n + 1] then
        dropped = dropped + redis.call('HDEL', KEYS[1], ARGV[n])
    end
end
return dropped
