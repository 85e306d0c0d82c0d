-- KEYS: the tally. ARGV: now, rules.
local now, rules = number(ARGV[1]), rules_of(ARGV[2])
local tally = read_tally(redis.call('GET', KEYS[1]), now)
tally.known_until = math.max(tally.known_until, sum(now, rules.known_for))
tally_ends(tally, rules)
local line = write_tally(tally)
keep(KEYS[1], line, tally.ends, now)
tell('tally', about(KEYS[1]), line)
return { line, '' }
